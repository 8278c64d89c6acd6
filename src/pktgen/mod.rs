//! A packet generator and sink for load tests: sends UDP packets of many flows into a device under test through one port,
//! counts what comes out at another, and measures how long it took.
//!
//! ```text
//! sender (hosts `sources`) --> gateway --> receiver (hosts `answer`)
//!          ^------------------ gateway <--------'   with both ways
//! ```
//!
//! | module | what it is |
//! | --- | --- |
//! | [`flows`] | which flow the next packet belongs to |
//! | [`probe`] | the packets |
//! | [`station`] | one end: a port, ARP |
//! | [`trial`] | packets at a rate, and what became of them |
//! | [`search`] | the highest rate without loss (RFC 2544) |

pub mod flows;
pub mod probe;
pub mod search;
pub mod station;
pub mod trial;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::base::PortIndex;
use crate::base::time::Clock;
use crate::nic::af_packet::Steering;
use crate::nic::af_xdp::Share;
#[cfg(feature = "dpdk")]
use crate::nic::dpdk::{self, Dpdk};
use crate::nic::memory;
use crate::nic::open::{Backend, Opener};
use crate::nic::{Mac, Pool, Port};
use flows::Addresses;
use station::Station;
use trial::Lab;

pub use flows::{FlowPlan, Order};
pub use search::{Found, Goal};
pub use trial::{Size, Traffic};

/// Packet buffers of both ends, of 2048 bytes each.
const BUFFERS: usize = 16_384;

/// What sender and receiver are.
#[derive(Clone, Debug)]
pub enum Ports {
    /// Two ports that are joined by a cable in memory: measures the generator itself.
    Cable,
    /// Two network devices.
    Devices {
        /// Where packets start.
        sender: String,
        /// Where they arrive.
        receiver: String,
        /// How they are opened.
        backend: Backend,
    },
    /// Two devices of DPDK, by PCI address or virtual ones with their arguments.
    Dpdk {
        /// Where packets start.
        sender: String,
        /// Where they arrive.
        receiver: String,
    },
}

/// Whom to send to.
#[derive(Clone, Copy, Debug)]
pub enum Gateway {
    /// The station of this Ethernet address.
    Mac(Mac),
    /// The neighbour with this address, asked for by ARP from another address.
    Neighbour {
        /// Who asks.
        from: u32,
        /// Who is asked.
        address: u32,
    },
    /// The receiver itself, over the cable.
    Receiver,
}

impl Lab {
    /// Opens both ends. `hosts` are those for which each end answers ARP: the sender's, then the receiver's.
    ///
    /// # Errors
    /// With a message for people: why an end cannot be opened.
    pub fn open(ports: &Ports, hosts: [Vec<Addresses>; 2]) -> io::Result<Self> {
        let (pool, [sender, receiver]) = open_ports(ports)?;
        let [sender_hosts, receiver_hosts] = hosts;
        Ok(Self {
            sender: Station::new(sender, sender_hosts)?,
            receiver: Station::new(receiver, receiver_hosts)?,
            cache: pool.cache(),
            clock: Clock::start(),
            trials: 0,
        })
    }

    /// The Ethernet address of the gateway.
    ///
    /// # Errors
    /// It does not answer ARP.
    pub fn gateway(&mut self, gateway: Gateway) -> io::Result<Mac> {
        match gateway {
            Gateway::Mac(mac) => Ok(mac),
            Gateway::Receiver => Ok(self.receiver.info().mac),
            Gateway::Neighbour { from, address } => {
                self.sender.resolve(&mut self.cache, from, address, &self.clock)
            }
        }
    }

    /// Sends little for a moment, so that the gateway learns its neighbours before it counts; then, if that is asked for, as fast
    /// as possible one flow after the other, so that it has their sessions.
    ///
    /// # Errors
    /// As those of [`run`](Self::run).
    pub fn warm_up(&mut self, traffic: &Traffic, flows: Option<Duration>) -> io::Result<()> {
        let gentle = Traffic { duration: Duration::from_millis(500), ..traffic.clone() };
        self.run(&gentle, Some(1000.0))?;
        if let Some(duration) = flows {
            let plan = FlowPlan { order: Order::Sequential, new_flows: 0.0, ..traffic.flows.clone() };
            self.run(&Traffic { flows: plan, duration, ..traffic.clone() }, None)?;
        }
        Ok(())
    }

    /// Closes both ends.
    ///
    /// # Errors
    /// The back ends'.
    pub fn close(mut self) -> io::Result<()> {
        let closed = self.sender.close(&mut self.cache);
        self.receiver.close(&mut self.cache).and(closed)
    }
}

fn open_ports(ports: &Ports) -> io::Result<(Arc<Pool>, [Port; 2])> {
    let (first, second) = (PortIndex(0), PortIndex(1));
    let named = |device: &str, error: io::Error| io::Error::new(error.kind(), format!("{device}: {error}"));
    match ports {
        Ports::Cable => {
            let options = [first, second].map(memory::Options::of);
            let (sender, receiver) = memory::wire(1, (first, &options[0]), (second, &options[1]));
            Ok((Pool::new(BUFFERS, 2048)?, [sender, receiver]))
        }
        Ports::Devices { sender, receiver, backend } => {
            let pool = Pool::new(BUFFERS, 2048)?;
            let opener = Opener::new(&pool, 2);
            let open = |device: &str, index| {
                opener
                    .open(*backend, device, index, 1, &Share::Exclusive, Steering::default())
                    .map_err(|error| named(device, error))
            };
            Ok((Arc::clone(&pool), [open(sender, first)?, open(receiver, second)?]))
        }
        #[cfg(feature = "dpdk")]
        Ports::Dpdk { sender, receiver } => {
            let options = dpdk::Options::default();
            let started = Dpdk::start(&options, &[sender, receiver], 2, BUFFERS, 2048)?;
            let open = |device: &str, index| {
                let options = dpdk::PortOptions::default();
                started.open(device, index, 1, options).map_err(|error| named(device, error))
            };
            Ok((Arc::clone(started.pool()), [open(sender, first)?, open(receiver, second)?]))
        }
        #[cfg(not(feature = "dpdk"))]
        Ports::Dpdk { sender, .. } => Err(named(
            sender,
            io::Error::new(
                io::ErrorKind::Unsupported,
                "this natgate was built without DPDK: build with `cargo build --release --features dpdk`",
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic(both_ways: bool, size: Size) -> Traffic {
        Traffic {
            flows: FlowPlan {
                sources: "10.0.0.0/16".parse().unwrap(),
                destinations: "198.51.100.0/24".parse().unwrap(),
                destination_port: 9,
                flows: 1000,
                order: Order::Random,
                new_flows: 10.0,
            },
            size,
            both_ways,
            duration: Duration::from_millis(60),
            gateway: [0; 6],
        }
    }

    fn lab() -> Lab {
        Lab::open(&Ports::Cable, [Vec::new(), Vec::new()]).unwrap()
    }

    #[cfg(not(feature = "dpdk"))]
    #[test]
    fn without_dpdk_it_is_said_how_to_have_it() {
        let ports = Ports::Dpdk { sender: "net_null0".into(), receiver: "net_null1".into() };
        let error = Lab::open(&ports, [Vec::new(), Vec::new()]).err().unwrap().to_string();
        assert!(error.starts_with("net_null0: ") && error.contains("--features dpdk"), "{error}");
    }

    #[test]
    fn all_packets_arrive_at_their_rate_and_are_timed() {
        let mut lab = lab();
        let gateway = lab.gateway(Gateway::Receiver).unwrap();
        let traffic = Traffic { gateway, ..traffic(false, Size::Fixed(64)) };
        let trial = lab.run(&traffic, Some(20_000.0)).unwrap();
        // Not more than asked for; how many fewer is the scheduler's affair.
        assert!((1..=1200).contains(&trial.sent), "{trial:?}");
        assert_eq!((trial.received, trial.returned, trial.others, trial.missed), (trial.sent, 0, 0, 0));
        assert!(trial.loss.abs() < 1e-9 && trial.latency_ns.min > 0 && trial.round_trip_ns.is_none());
        assert!(trial.latency_ns.p50 <= trial.latency_ns.p99 && trial.latency_ns.p99 <= trial.latency_ns.max);
        lab.close().unwrap();
    }

    #[test]
    fn both_ways_return_every_packet_even_at_full_speed() {
        let mut lab = lab();
        let trial = lab.run(&traffic(true, Size::Imix), None).unwrap();
        assert!(trial.sent > 0, "{trial:?}");
        assert_eq!((trial.received, trial.returned, trial.back), (trial.sent, trial.sent, trial.sent));
        let round_trip = trial.round_trip_ns.unwrap();
        assert!(round_trip.min >= trial.latency_ns.min && round_trip.p50 >= trial.latency_ns.p50);
        lab.close().unwrap();
    }

    #[test]
    fn a_warm_up_meets_the_gateway_before_a_trial_counts() {
        let mut lab = lab();
        let traffic = traffic(true, Size::Fixed(64));
        lab.warm_up(&traffic, Some(Duration::from_millis(50))).unwrap();
        assert_eq!(lab.trials, 2);
        let trial = lab.run(&traffic, Some(1000.0)).unwrap();
        assert_eq!((trial.received, trial.back, trial.others), (trial.sent, trial.sent, 0));
        lab.close().unwrap();
    }

    #[test]
    fn packets_of_an_earlier_trial_do_not_count() {
        let mut lab = lab();
        let traffic = traffic(false, Size::Fixed(100));
        let before = lab.run(&traffic, Some(1000.0)).unwrap();
        assert!(before.sent > 0);
        // A straggler: a probe of the first trial that arrives in the second.
        let mut frame = lab.cache.take().unwrap();
        assert!(frame.fill(&[0; 60]));
        let ends = traffic.flows.ends(0);
        probe::write(frame.bytes_mut(), ([2; 6], [2; 6]), &ends, 1, lab.clock.now());
        lab.sender.push(&mut lab.cache, frame);
        lab.sender.flush(&mut lab.cache);
        let trial = lab.run(&traffic, Some(1000.0)).unwrap();
        assert_eq!((trial.received, trial.others), (trial.sent, 1));
        lab.close().unwrap();
    }

    #[test]
    fn stations_answer_arp_for_their_hosts_and_resolve_others() {
        let hosts = || vec!["10.0.0.1".parse().unwrap()];
        let mut lab = Lab::open(&Ports::Cable, [hosts(), hosts()]).unwrap();
        let gateway = std::thread::scope(|scope| {
            let Lab { sender, receiver, cache, clock, .. } = &mut lab;
            let clock = *clock;
            let mut other = cache.pool().cache();
            let until = clock.now() + Duration::from_secs(1);
            scope.spawn(move || receiver.settle(&mut other, until, &clock));
            sender.resolve(cache, 0x0a00_0009, 0x0a00_0001, &clock)
        });
        assert_eq!(gateway.unwrap(), lab.receiver.info().mac);
        lab.close().unwrap();
    }
}
