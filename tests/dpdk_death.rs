//! A worker that dies while it has DPDK's buffers in hand, in its rings and on their way to others: none of them is lost. The
//! devices are `net_ring`, whose queues bring back what was sent, without huge pages.

mod gateway;

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};

use gateway::fragile::{AFTER, BEFORE, Fragile};
use gateway::*;
use natgate::base::PortIndex;
use natgate::base::time::Clock;
use natgate::nic::dpdk::{Dpdk, Hugepages, Options, PortOptions};
use natgate::nic::{Burst, Cache, PortCounters, Queue};
use natgate::worker::{Gateway, Idle, OnDeath, Running, Setup, Threads};

const SLOTS: usize = 8192;

/// A ring of DPDK's with a network at it: what the network sends goes through the ring, and so does what it is sent, which
/// comes back as frames for another host.
struct Fed {
    ring: Box<dyn Queue>,
    network: Receiver<Vec<u8>>,
}

impl Fed {
    /// Into the ring, as far as it has room.
    fn arrive(&mut self, cache: &mut Cache, frames: &mut Burst) {
        self.ring.transmit(cache, frames);
        frames.drain(..).for_each(|frame| cache.give(frame));
    }
}

impl Queue for Fed {
    fn receive(&mut self, cache: &mut Cache, burst: &mut Burst) -> usize {
        let mut arriving = Burst::new();
        while let Ok(bytes) = self.network.try_recv() {
            let mut frame = cache.take().expect("a free buffer");
            assert!(frame.fill(&bytes));
            arriving.push(frame);
            if arriving.is_full() {
                self.arrive(cache, &mut arriving);
            }
        }
        self.arrive(cache, &mut arriving);
        self.ring.receive(cache, burst)
    }

    fn transmit(&mut self, cache: &mut Cache, burst: &mut Burst) -> usize {
        self.ring.transmit(cache, burst)
    }

    fn counters(&mut self) -> PortCounters {
        self.ring.counters()
    }

    fn close(&mut self, cache: &mut Cache) -> io::Result<()> {
        self.ring.close(cache)
    }
}

/// The networks at the queues of two ports.
type Networks = [Vec<Sender<Vec<u8>>>; 2];

fn start(dpdk: &Dpdk, devices: [&str; 2], on_death: OnDeath) -> (Running<Fragile>, Networks) {
    let mut networks = Networks::default();
    let ports = [OUTSIDE, INSIDE].map(|index| {
        let port = PortIndex(index as u16);
        let port = dpdk.open(devices[index], port, 2, PortOptions::default()).unwrap();
        port.decorated(|_, ring| {
            let (far, network) = channel();
            networks[index].push(far);
            Fed { ring, network }
        })
    });
    let (usual, _) = setup(2, 1 << 12);
    let setup = Setup { ports: ports.into(), pool: dpdk.pool().clone(), ..usual };
    let threads = Threads { cores: None, idle: Idle::Poll, clock: Clock::start(), on_death };
    let gateway = Gateway::launch_with::<Fragile>(setup, threads).unwrap();
    wait("all workers know the neighbours", || {
        for network in &networks[OUTSIDE] {
            network.send(arp((ROUTER, ROUTER_MAC), OUTSIDE_ADDRESS)).unwrap();
        }
        for network in &networks[INSIDE] {
            (2..32).for_each(|n| network.send(arp(host(n), INSIDE_ADDRESS)).unwrap());
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
        gateway.workers().all(|worker| gateway.occupancy(worker).unwrap().neighbours >= 31)
    });
    (gateway, networks)
}

/// Packets of many sessions to a worker, of which one is its death, and more than it takes at once; and to the other worker, which
/// hands some of them over.
fn kill(networks: &Networks, port: u16) {
    let of = |n: u8, from: u16, to: u16| udp(host(n).1, INSIDE, (host(n).0, from), (SERVER, to));
    for n in 0..600_u16 {
        let to = if n == 100 { port } else { 53 };
        networks[INSIDE][1].send(of(2 + (n % 30) as u8, 4000 + n, to)).unwrap();
        networks[INSIDE][0].send(of(2 + (n % 30) as u8, 4000 + n, 53)).unwrap();
    }
}

/// DPDK is started once in a process, so one test has all of it.
#[test]
fn a_worker_that_dies_leaves_no_buffer_of_dpdks_lost() {
    let options = Options { hugepages: Hugepages::Off, ..Options::default() };
    let devices = ["net_ring0", "net_ring1", "net_ring2", "net_ring3"];
    let dpdk = Dpdk::start(&options, &devices, 8, SLOTS, 2048).unwrap();
    let pool = dpdk.pool();
    assert_eq!(pool.spare_slots(), SLOTS);

    // Started anew: before it decided about its packets, and afterwards.
    let (gateway, networks) = start(&dpdk, [devices[0], devices[1]], OnDeath::Restart);
    for (deaths, port) in [(1, BEFORE), (2, AFTER), (3, BEFORE)] {
        kill(&networks, port);
        wait("it works again", || gateway.health()[1].restarts == deaths);
    }
    assert!(pool.spare_slots() < SLOTS, "no buffer is in use");
    gateway.check().unwrap();
    let ending = gateway.stop();
    ending.verify().unwrap();
    assert!(ending.died.is_empty() && ending.unclosed.is_empty(), "{ending:?}");
    assert_eq!(pool.spare_slots(), SLOTS);

    // Dead until all stop, with its rings as they were.
    let (gateway, networks) = start(&dpdk, [devices[2], devices[3]], OnDeath::Mourn);
    kill(&networks, AFTER);
    wait("it is dead", || gateway.check().is_err());
    kill(&networks, 53);
    let received = || gateway.totals()[0].counters.received;
    let before = received();
    wait("the other one works on", || received() >= before + 600);
    assert!(pool.spare_slots() < SLOTS, "no buffer is in use");
    let ending = gateway.stop();
    assert_eq!((ending.died.len(), ending.missing_slots), (1, 0));
    assert_eq!(pool.spare_slots(), SLOTS);
}
