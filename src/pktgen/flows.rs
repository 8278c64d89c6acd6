//! Which flow the next packet belongs to, and what a flow's addresses and ports are.

use std::net::Ipv4Addr;
use std::str::FromStr;

use crate::base::{Moment, Rng};

/// Source ports of flows: none that is well known.
const FIRST_PORT: u64 = 1024;
const PORTS: u64 = 65_536 - FIRST_PORT;

/// Draws from a distribution that is dear to compute, used again and again.
const DRAWS: usize = 1 << 20;

/// Neighbouring addresses: an address, or the hosts of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    first: u32,
    count: u32,
}

impl Addresses {
    /// Address number `n`, from the first again after the last.
    pub fn nth(&self, n: u64) -> u32 {
        self.first.wrapping_add((n % u64::from(self.count)) as u32)
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        u64::from(self.count)
    }

    /// Whether an address is one of them.
    pub fn contains(&self, address: u32) -> bool {
        address.wrapping_sub(self.first) < self.count
    }
}

impl FromStr for Addresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("\"{text}\" is not ADDRESS or ADDRESS/LENGTH with a length from 8 to 32");
        let (address, length) = text.split_once('/').unwrap_or((text, "32"));
        let address: u32 = address.parse::<Ipv4Addr>().map_err(|_| wrong())?.into();
        let length: u32 = length.parse().ok().filter(|length| (8..=32).contains(length)).ok_or_else(wrong)?;
        let size = 1u32 << (32 - length);
        let network = address & !(size - 1);
        // A prefix with room for hosts has an address of its own and one for all hosts.
        Ok(match size {
            1 | 2 => Self { first: network, count: size },
            _ => Self { first: network + 1, count: size - 2 },
        })
    }
}

/// In which order flows take turns.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Order {
    /// One after the other.
    Sequential,
    /// Each as likely as any other.
    #[default]
    Random,
    /// Flow `n` with a likelihood of about `1 / n^exponent`.
    Zipf(f64),
}

impl FromStr for Order {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':').unwrap_or((text, "1")) {
            ("sequential", _) if text == "sequential" => Ok(Self::Sequential),
            ("random", _) if text == "random" => Ok(Self::Random),
            ("zipf", exponent) => match exponent.parse() {
                Ok(exponent) if (0.1..=4.0).contains(&exponent) => Ok(Self::Zipf(exponent)),
                _ => Err(format!("\"{exponent}\" is not an exponent from 0.1 to 4")),
            },
            _ => Err(format!("\"{text}\" is not sequential, random, zipf or zipf:EXPONENT")),
        }
    }
}

/// What is sent: many flows of one kind.
#[derive(Clone, Debug)]
pub struct FlowPlan {
    /// Where packets come from.
    pub sources: Addresses,
    /// Where they go.
    pub destinations: Addresses,
    /// The port that they go to.
    pub destination_port: u16,
    /// Flows at the same time.
    pub flows: u64,
    /// In which order.
    pub order: Order,
    /// Flows a second that end, each with another that begins.
    pub new_flows: f64,
}

/// Source and destination of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ends {
    /// Source address and port.
    pub source: (u32, u16),
    /// Destination address and port.
    pub destination: (u32, u16),
}

impl FlowPlan {
    /// How many flows the addresses and ports have room for.
    pub fn room(&self) -> u64 {
        self.sources.count() * self.destinations.count() * PORTS
    }

    /// Flow number `n`; after the last there is room for comes the first again.
    pub fn ends(&self, n: u64) -> Ends {
        let (n, destination) = (n / self.destinations.count(), n % self.destinations.count());
        let (n, source) = (n / self.sources.count(), n % self.sources.count());
        Ends {
            source: (self.sources.nth(source), (FIRST_PORT + n % PORTS) as u16),
            destination: (self.destinations.nth(destination), self.destination_port),
        }
    }
}

/// The turns of flows.
#[derive(Debug)]
pub struct Flows {
    plan: FlowPlan,
    next: u64,
    state: u64,
    draws: Vec<u32>,
    begun: Moment,
}

impl Flows {
    /// Flows from now on.
    pub fn new(plan: FlowPlan, mut rng: Rng, now: Moment) -> Self {
        let draws = match plan.order {
            Order::Zipf(exponent) => (0..DRAWS).map(|_| zipf(plan.flows, exponent, unit(&mut rng))).collect(),
            Order::Sequential | Order::Random => Vec::new(),
        };
        Self { plan, next: 0, state: rng.next_u64() | 1, draws, begun: now }
    }

    /// The ends of the next packet.
    #[inline]
    pub fn next(&mut self, now: Moment) -> Ends {
        let turn = self.next;
        self.next = self.next.wrapping_add(1);
        let flow = match self.plan.order {
            Order::Sequential => turn % self.plan.flows,
            Order::Random => ((u128::from(self.random()) * u128::from(self.plan.flows)) >> 64) as u64,
            Order::Zipf(_) => u64::from(self.draws[turn as usize % DRAWS]),
        };
        self.plan.ends(self.gone(now) + flow)
    }

    /// Flows that have ended: the window of those that live moves on.
    fn gone(&self, now: Moment) -> u64 {
        (now.since(self.begun).as_secs_f64() * self.plan.new_flows) as u64
    }

    /// xorshift: its numbers only pick flows.
    fn random(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// A number from 0 to 1.
fn unit(rng: &mut Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// The flow where the distribution function of a power law over `1..=flows` reaches `share`: Zipf's law, its steps
/// smoothed.
fn zipf(flows: u64, exponent: f64, share: f64) -> u32 {
    let last = flows as f64 + 1.0;
    let rank = if (exponent - 1.0).abs() < 1e-9 {
        last.powf(share)
    } else {
        let power = 1.0 - exponent;
        ((last.powf(power) - 1.0) * share + 1.0).powf(1.0 / power)
    };
    (rank as u64).clamp(1, flows) as u32 - 1
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use super::*;

    fn plan(flows: u64, order: Order, new_flows: f64) -> FlowPlan {
        let (sources, destinations) = ("10.0.0.0/28".parse().unwrap(), "198.51.100.8/30".parse().unwrap());
        FlowPlan { sources, destinations, destination_port: 9, flows, order, new_flows }
    }

    #[test]
    fn addresses_are_the_hosts_of_a_prefix() {
        let hosts: Addresses = "10.0.0.5/29".parse().unwrap();
        assert_eq!((hosts.count(), hosts.nth(0), hosts.nth(5)), (6, 0x0a00_0001, 0x0a00_0006));
        assert_eq!(hosts.nth(6), hosts.nth(0));
        assert!(hosts.contains(0x0a00_0006) && !hosts.contains(0x0a00_0007) && !hosts.contains(0x0a00_0000));
        assert_eq!("10.0.0.5".parse(), Ok(Addresses { first: 0x0a00_0005, count: 1 }));
        assert_eq!("10.0.0.4/31".parse(), Ok(Addresses { first: 0x0a00_0004, count: 2 }));
        for wrong in ["", "10.0.0", "10.0.0.0/7", "10.0.0.0/33", "host"] {
            assert!(wrong.parse::<Addresses>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn flows_differ_as_long_as_there_is_room() {
        let plan = plan(1, Order::Sequential, 0.0);
        assert_eq!(plan.room(), 14 * 2 * 64_512);
        let all: HashSet<_> = (0..plan.room()).map(|n| plan.ends(n)).collect();
        assert_eq!(all.len() as u64, plan.room());
        assert_eq!(plan.ends(plan.room()), plan.ends(0));
    }

    #[test]
    fn orders_are_what_they_say() {
        let now = Moment::from_secs(1);
        let counts = |order| {
            let plan = plan(100, order, 0.0);
            let mut flows = Flows::new(plan.clone(), Rng::from_seed(1), now);
            let mut counts = vec![0u32; 100];
            for _ in 0..100_000 {
                let ends = flows.next(now);
                counts[(0..100).position(|n| plan.ends(n) == ends).unwrap()] += 1;
            }
            counts
        };
        assert_eq!(counts(Order::Sequential), vec![1000; 100]);
        assert!(counts(Order::Random).iter().all(|count| (850..1150).contains(count)));
        // The first of a hundred flows has ln 2 / ln 101 of all packets.
        let zipf = counts(Order::Zipf(1.0));
        assert!((14_000..16_000).contains(&zipf[0]), "{zipf:?}");
        assert!(zipf[0] > zipf[9] && zipf[9] > zipf[99] && zipf[99] > 0, "{zipf:?}");
    }

    #[test]
    fn new_flows_come_at_their_rate() {
        let now = Moment::from_secs(1);
        let mut flows = Flows::new(plan(10, Order::Sequential, 1000.0), Rng::from_seed(1), now);
        let seen: HashSet<_> =
            (0..1_000_000u64).map(|n| flows.next(now + Duration::from_micros(n))).collect();
        assert!((1000..=1010).contains(&seen.len()), "{}", seen.len());
    }

    #[test]
    fn orders_are_read() {
        assert_eq!("zipf:1.5".parse(), Ok(Order::Zipf(1.5)));
        assert_eq!("zipf".parse(), Ok(Order::Zipf(1.0)));
        for wrong in ["random:1", "sequential:", "zipf:9", "zipf:x", "other"] {
            assert!(wrong.parse::<Order>().is_err(), "{wrong}");
        }
    }
}
