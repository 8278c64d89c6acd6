//! Random configurations and conversations, each packet's fate compared with what the reference NAT says of it.

mod reference;
mod support;

use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use natgate::policy::{Filtering, Limits, Mapping, PortRange, Prefix, Timeouts};
use proptest::prelude::*;
use proptest::sample::select;

use self::reference::Reference;
use self::support::config::{EipConfig, prefix};
use self::support::packet::{GRE, PARAMETER_PROBLEM, REDIRECT, TCP, TIME_EXCEEDED, UDP, UNREACHABLE};
use self::support::{Body, Config, Dnat, Flags, Observed, Packet, Ports, Side, Snat, TestNet, cases};

const EIPS: [Ipv4Addr; 5] = [
    Ipv4Addr::new(203, 0, 113, 16),
    Ipv4Addr::new(203, 0, 113, 17),
    Ipv4Addr::new(203, 0, 113, 18),
    Ipv4Addr::new(203, 0, 113, 20),
    Ipv4Addr::new(203, 0, 113, 31),
];
const HOSTS: [Ipv4Addr; 4] = [
    Ipv4Addr::new(10, 0, 0, 2),
    Ipv4Addr::new(10, 0, 0, 3),
    Ipv4Addr::new(10, 0, 1, 2),
    Ipv4Addr::new(10, 0, 1, 3),
];
const PEERS: [Ipv4Addr; 4] = [
    Ipv4Addr::new(198, 51, 100, 1),
    Ipv4Addr::new(198, 51, 100, 2),
    Ipv4Addr::new(192, 0, 2, 7),
    Ipv4Addr::new(203, 0, 113, 9),
];
const PORTS: [u16; 8] = [53, 80, 1023, 1024, 4000, 4001, 40000, 65535];

/// An entry that somebody might configure; it is left out where it breaks a rule of the product.
#[derive(Clone, Debug)]
enum Proposal {
    AnyPort { vpc: usize, eip: usize, host: usize },
    Forward { vpc: usize, eip: usize, host: usize, protocol: u8, public: u16, private: u16, count: u16 },
    Snat { vpc: usize, source: Prefix, pool: Vec<usize>, how: How },
}

#[derive(Clone, Debug)]
struct How {
    mapping: Mapping,
    filtering: Filtering,
    ports: PortRange,
    exempt: bool,
    host_quota: u32,
}

fn owner_of(config: &Config, eip: Ipv4Addr) -> Option<usize> {
    let dnat = config.dnat.iter().find(|d| d.eip == eip).map(|d| d.vpc);
    dnat.or_else(|| config.snat.iter().find(|s| s.pool.contains(&eip)).map(|s| s.vpc))
}

impl Proposal {
    /// Adds the entry if the rules allow it.
    fn apply(&self, config: &mut Config) {
        match self {
            Self::AnyPort { vpc, eip, host } => {
                let (eip, host) = (EIPS[*eip], HOSTS[*host]);
                let host_has_one =
                    config.dnat.iter().any(|d| (d.vpc, d.host, d.ports) == (*vpc, host, Ports::Any));
                if owner_of(config, eip).is_none() && !host_has_one {
                    config.dnat.push(Dnat {
                        eip,
                        vpc: *vpc,
                        host,
                        ports: Ports::Any,
                        timeouts: Timeouts::RFC,
                    });
                }
            }
            Self::Forward { vpc, eip, host, protocol, public, private, count } => {
                let (eip, host) = (EIPS[*eip], HOSTS[*host]);
                let count = (*count).min(u16::MAX - (*public).max(*private));
                let (protocol, public, private) = (*protocol, *public, *private);
                let overlaps =
                    |a: u16, b: u16, n: u16| a < b.saturating_add(n) && b < a.saturating_add(count);
                let conflict = config.dnat.iter().any(|d| match d.ports {
                    Ports::Any => d.eip == eip,
                    Ports::Range { protocol: p, public: other, private: other_private, count: n } => {
                        p == protocol
                            && (d.eip == eip && overlaps(public, other, n)
                                || (d.vpc, d.host) == (*vpc, host) && overlaps(private, other_private, n))
                    }
                });
                if count > 0 && !conflict && owner_of(config, eip).is_none_or(|owner| owner == *vpc) {
                    let ports = Ports::Range { protocol, public, private, count };
                    config.dnat.push(Dnat { eip, vpc: *vpc, host, ports, timeouts: Timeouts::RFC });
                }
            }
            Self::Snat { vpc, source, pool, how } => {
                let usable = |eip: &Ipv4Addr| {
                    !config.dnat.iter().any(|d| d.eip == *eip && d.ports == Ports::Any)
                        && owner_of(config, *eip).is_none_or(|owner| owner == *vpc)
                };
                let mut pool: Vec<_> = pool.iter().map(|eip| EIPS[*eip]).filter(usable).collect();
                pool.sort();
                pool.dedup();
                let same = config.snat.iter().any(|s| (s.vpc, s.source) == (*vpc, *source));
                if !pool.is_empty() && !same {
                    config.snat.push(Snat {
                        vpc: *vpc,
                        source: *source,
                        pool,
                        mapping: how.mapping,
                        filtering: how.filtering,
                        ports: how.ports,
                        untranslated: if how.exempt { vec![prefix("192.0.2.0/24")] } else { vec![] },
                        timeouts: Timeouts::RFC,
                        host_quota: how.host_quota,
                    });
                }
            }
        }
    }
}

fn configuration(proposals: &[Proposal], session_limit: u64) -> Config {
    let mut config = Config::new().vpc(20);
    config.eips = EIPS
        .iter()
        .map(|address| EipConfig { address: *address, ping: address.octets()[3] % 2 == 0, bandwidth: None })
        .collect();
    for vpc in &mut config.vpcs {
        vpc.limits = Limits { sessions: session_limit, ..Limits::UNLIMITED };
    }
    for proposal in proposals {
        proposal.apply(&mut config);
    }
    config
}

fn port() -> impl Strategy<Value = u16> {
    select(&PORTS[..])
}

fn how(ports: Vec<PortRange>) -> impl Strategy<Value = How> {
    let mapping = prop_oneof![3 => Just(Mapping::EndpointIndependent), 1 => Just(Mapping::EndpointDependent)];
    let filtering = prop_oneof![
        2 => Just(Filtering::EndpointIndependent),
        1 => Just(Filtering::AddressDependent),
        1 => Just(Filtering::AddressAndPortDependent),
    ];
    let host_quota = prop_oneof![4 => Just(u32::MAX), 1 => 1..4_u32];
    (mapping, filtering, select(ports), any::<bool>(), host_quota).prop_map(
        |(mapping, filtering, ports, exempt, host_quota)| How {
            mapping,
            filtering,
            ports,
            exempt,
            host_quota,
        },
    )
}

/// `roomy` leaves out port ranges that could be exhausted.
fn proposal(roomy: bool) -> impl Strategy<Value = Proposal> {
    let mut ranges = vec![PortRange { first: 1024, last: 65535 }, PortRange::ALL];
    if !roomy {
        ranges.push(PortRange { first: 4000, last: 4002 });
        ranges.push(PortRange { first: 1022, last: 1025 });
    }
    let sources = ["10.0.0.0/16", "10.0.0.0/24", "10.0.1.0/24", "10.0.0.2/32", "10.0.1.3/32"];
    let vpc = || prop_oneof![3 => Just(0), 1 => Just(1)];
    let eip = || 0..EIPS.len();
    let forward =
        (vpc(), eip(), 0..HOSTS.len(), select(vec![TCP, UDP]), port(), port(), select(vec![1, 1, 2, 100]));
    prop_oneof![
        1 => (vpc(), eip(), 0..HOSTS.len()).prop_map(|(vpc, eip, host)| Proposal::AnyPort { vpc, eip, host }),
        2 => forward.prop_map(|(vpc, eip, host, protocol, public, private, count)| Proposal::Forward {
            vpc, eip, host, protocol, public, private, count,
        }),
        3 => (vpc(), select(sources.map(prefix).to_vec()), prop::collection::vec(eip(), 1..3), how(ranges))
            .prop_map(|(vpc, source, pool, how)| Proposal::Snat { vpc, source, pool, how }),
    ]
}

/// What somebody sends.
#[derive(Clone, Copy, Debug)]
enum What {
    Udp { checksum: bool },
    Tcp(Flags),
    Ping,
    Pong,
    Gre,
}

#[derive(Clone, Copy, Debug)]
enum To {
    Peer(usize, u16),
    Eip(usize, u16),
    /// The source of the n-th last packet that left to the outside.
    Mapping(usize),
    Gateway,
}

/// One thing that happens.
#[derive(Clone, Debug)]
enum Action {
    FromInside {
        vpc: usize,
        host: usize,
        port: u16,
        what: What,
        to: To,
        ttl: u8,
    },
    FromOutside {
        peer: usize,
        port: u16,
        what: What,
        to: To,
        ttl: u8,
    },
    /// Whoever got the n-th last packet answers it.
    Answer(usize),
    /// The same with other TCP flags.
    AnswerTcp(usize, Flags),
    /// The last packet but n that was sent is sent again.
    Again(usize),
    /// Whoever got the n-th last packet, or a router before it, complains of it.
    Complain {
        about: usize,
        router: bool,
        kind: u8,
        code: u8,
        bytes: Option<usize>,
    },
    Wait(Duration),
    /// An entry more.
    Add(Proposal),
    /// One of the entries less.
    Remove(prop::sample::Index),
    /// The same configuration again.
    Reload,
}

fn what() -> impl Strategy<Value = What> {
    let flags = [Flags::ACK, Flags::SYN_ACK, Flags::FIN_ACK, Flags::RST, Flags(0), Flags(0x29)];
    prop_oneof![
        4 => any::<bool>().prop_map(|checksum| What::Udp { checksum }),
        4 => Just(What::Tcp(Flags::SYN)),
        1 => select(flags.to_vec()).prop_map(What::Tcp),
        2 => Just(What::Ping),
        1 => Just(What::Pong),
        1 => Just(What::Gre),
    ]
}

fn action(roomy: bool) -> impl Strategy<Value = Action> {
    let to = || {
        prop_oneof![
            4 => (0..PEERS.len(), port()).prop_map(|(peer, port)| To::Peer(peer, port)),
            3 => (0..EIPS.len(), port()).prop_map(|(eip, port)| To::Eip(eip, port)),
            3 => (0..4_usize).prop_map(To::Mapping),
            1 => Just(To::Gateway),
        ]
    };
    let vpc = prop_oneof![3 => Just(0_usize), 1 => Just(1_usize)];
    let ttl = || prop_oneof![8 => Just(64_u8), 1 => 0..3_u8, 1 => Just(255_u8)];
    let waits = [1, 31, 62, 130, 242, 302, 3600, 7500].map(Duration::from_secs);
    let flags = [Flags::FIN_ACK, Flags::RST_ACK, Flags::SYN, Flags(0x18)];
    let complaints =
        [(UNREACHABLE, 3), (UNREACHABLE, 4), (TIME_EXCEEDED, 0), (PARAMETER_PROBLEM, 0), (REDIRECT, 1)];
    prop_oneof![
        6 => (vpc, 0..HOSTS.len(), port(), what(), to(), ttl())
            .prop_map(|(vpc, host, port, what, to, ttl)| Action::FromInside { vpc, host, port, what, to, ttl }),
        4 => (0..PEERS.len(), port(), what(), to(), ttl())
            .prop_map(|(peer, port, what, to, ttl)| Action::FromOutside { peer, port, what, to, ttl }),
        8 => (0..4_usize).prop_map(Action::Answer),
        2 => (0..3_usize, select(flags.to_vec())).prop_map(|(n, flags)| Action::AnswerTcp(n, flags)),
        2 => (0..4_usize).prop_map(Action::Again),
        3 => (0..4_usize, any::<bool>(), select(complaints.to_vec()), select(vec![None, Some(8), Some(28)]))
            .prop_map(|(about, router, (kind, code), bytes)| Action::Complain { about, router, kind, code, bytes }),
        2 => select(waits.to_vec()).prop_map(Action::Wait),
        1 => proposal(roomy).prop_map(Action::Add),
        1 => any::<prop::sample::Index>().prop_map(Action::Remove),
        1 => Just(Action::Reload),
    ]
}

#[derive(Clone, Debug)]
struct Scenario {
    workers: u16,
    seed: u64,
    session_limit: u64,
    proposals: Vec<Proposal>,
    actions: Vec<Action>,
}

fn scenario(workers: u16, actions: usize) -> impl Strategy<Value = Scenario> {
    let roomy = workers > 1;
    let limit = prop_oneof![5 => Just(u64::MAX), 1 => 1..5_u64];
    let proposals = prop::collection::vec(proposal(roomy), 1..7);
    (any::<u16>(), limit, proposals, prop::collection::vec(action(roomy), 1..actions)).prop_map(
        move |(seed, session_limit, proposals, actions)| Scenario {
            workers,
            seed: u64::from(seed),
            session_limit,
            proposals,
            actions,
        },
    )
}

/// A conversation in progress.
struct Conversation {
    net: TestNet,
    reference: Reference,
    proposals: Vec<Proposal>,
    session_limit: u64,
    /// Packets that were sent, and packets that left.
    sent: Vec<(Side, Packet)>,
    left: Vec<(Side, Packet)>,
    trace: Vec<String>,
}

/// A difference, with everything that led to it.
struct Difference {
    error: String,
    trace: Vec<String>,
}

impl fmt::Debug for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n\nwhat happened:", self.error)?;
        self.trace.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

fn nth_last<T>(list: &[T], n: usize) -> Option<&T> {
    list.len().checked_sub(n + 1).map(|at| &list[at])
}

impl Conversation {
    fn new(scenario: &Scenario) -> Self {
        let config = configuration(&scenario.proposals, scenario.session_limit);
        let net = TestNet::sized(&config, scenario.workers, scenario.seed, 256);
        Self {
            reference: Reference::new(&config, scenario.workers, net.now),
            net,
            proposals: scenario.proposals.clone(),
            session_limit: scenario.session_limit,
            sent: vec![],
            left: vec![],
            trace: vec![describe(&config)],
        }
    }

    fn act(&mut self, action: &Action) -> Result<(), Difference> {
        match action {
            Action::Wait(duration) => self.wait(*duration),
            Action::Add(proposal) => {
                self.proposals.push(proposal.clone());
                self.reload();
            }
            Action::Remove(index) => {
                if !self.proposals.is_empty() {
                    self.proposals.remove(index.index(self.proposals.len()));
                }
                self.reload();
            }
            Action::Reload => self.reload(),
            _ => {
                if let Some((side, packet)) = self.packet(action) {
                    return self.send(side, packet);
                }
            }
        }
        Ok(())
    }

    fn wait(&mut self, duration: Duration) {
        let until = self.net.now + duration;
        self.net.advance(duration);
        self.reference.advance(until);
        if duration > Duration::ZERO {
            self.trace.push(format!("{:.1} s: waited {duration:?}", until.0 as f64 / 1e9));
        }
    }

    fn reload(&mut self) {
        let config = configuration(&self.proposals, self.session_limit);
        self.net.reload(&config);
        self.reference.reload(&config);
        self.trace.push(format!("another configuration: {}", describe(&config)));
    }

    /// The packet that an action sends, if the conversation has come so far that there is one.
    fn packet(&self, action: &Action) -> Option<(Side, Packet)> {
        match action {
            Action::FromInside { vpc, host, port, what, to, ttl } => {
                let side = Side::Vpc(*vpc);
                Some((side, self.fresh(side, (HOSTS[*host], *port), *what, *to)?.ttl(*ttl)))
            }
            Action::FromOutside { peer, port, what, to, ttl } => {
                let to = if let To::Peer(peer, port) = to { To::Eip(*peer, *port) } else { *to };
                Some((Side::Outside, self.fresh(Side::Outside, (PEERS[*peer], *port), *what, to)?.ttl(*ttl)))
            }
            Action::Answer(n) => {
                let (side, packet) = nth_last(&self.left, *n)?;
                (!matches!(packet.body, Body::Error { .. })).then(|| (*side, packet.answer()))
            }
            Action::AnswerTcp(n, flags) => {
                let (side, packet) = nth_last(&self.left, *n)?;
                let mut answer = matches!(packet.body, Body::Tcp(_)).then(|| packet.answer())?;
                if let Body::Tcp(tcp) = &mut answer.body {
                    tcp.flags = *flags;
                }
                Some((*side, answer))
            }
            Action::Again(n) => nth_last(&self.sent, *n).cloned(),
            Action::Complain { about, router, kind, code, bytes } => {
                let (side, packet) = nth_last(&self.left, *about)?;
                if matches!(packet.body, Body::Error { .. })
                    || self.net.config().link(*side).address == packet.ip.src
                {
                    return None;
                }
                let router = router.then_some(match side {
                    Side::Outside => Ipv4Addr::new(198, 51, 100, 254),
                    Side::Vpc(_) => Ipv4Addr::new(10, 0, 9, 254),
                });
                let from = router.unwrap_or(packet.ip.dst);
                let mut error = Packet::error(from, *kind, *code, packet, *bytes);
                if let ((UNREACHABLE, 4), Body::Error { rest, .. }) = ((*kind, *code), &mut error.body) {
                    *rest = [0, 0, 0x05, 0x14];
                }
                Some((*side, error))
            }
            _ => None,
        }
    }

    fn fresh(&self, side: Side, from: (Ipv4Addr, u16), what: What, to: To) -> Option<Packet> {
        let to = match to {
            To::Peer(peer, port) => (PEERS[peer], port),
            To::Eip(eip, port) => (EIPS[eip], port),
            To::Mapping(n) => {
                let outside = self.left.iter().rev().filter(|(side, _)| *side == Side::Outside);
                outside.map(|(_, packet)| packet.source()).nth(n)?
            }
            To::Gateway => (self.net.config().link(side).address, 53),
        };
        Some(match what {
            What::Udp { checksum } => {
                let mut packet = Packet::udp(from, to, b"hello");
                if let Body::Udp { checksum: computed, .. } = &mut packet.body {
                    *computed = checksum;
                }
                packet
            }
            What::Tcp(flags) => Packet::tcp(from, to, flags, 1000, 0),
            What::Ping => Packet::ping(from.0, to.0, from.1, 1),
            What::Pong => Packet::pong(from.0, to.0, to.1, 1),
            What::Gre => Packet::other(from.0, to.0, GRE, b"\0\0\x08\0tunnelled"),
        })
    }

    fn send(&mut self, side: Side, packet: Packet) -> Result<(), Difference> {
        let certain = self.reference.certain_from(self.net.now);
        self.wait(certain.since(self.net.now));
        let observed = self.net.send(side, &packet);
        let now = self.net.now.0 as f64 / 1e9;
        self.trace.push(format!("{now:.1} s: {side:?} sent {packet:?}"));
        self.trace.push(format!("    {}", Short(&observed)));
        if let Err(error) = self.reference.judge(side, &packet, &observed, &self.net.sessions()) {
            return Err(Difference { error, trace: std::mem::take(&mut self.trace) });
        }
        self.sent.push((side, packet));
        self.left.extend(observed.left.into_iter().map(|left| (left.side, left.packet)));
        Ok(())
    }
}

/// A configuration in a line for each entry.
fn describe(config: &Config) -> String {
    let limits: Vec<_> = config.vpcs.iter().map(|vpc| vpc.limits.sessions).collect();
    let dnat = config.dnat.iter().map(|Dnat { eip, vpc, host, ports, .. }| {
        format!("    DNAT {eip} to {host} in VPC {vpc}: {ports:?}")
    });
    let snat = config.snat.iter().map(|entry| {
        let Snat { vpc, source, pool, mapping, filtering, ports, untranslated, host_quota, .. } = entry;
        let exempt: Vec<_> = untranslated.iter().map(ToString::to_string).collect();
        format!(
            "    SNAT {source} in VPC {vpc} as {pool:?}: {mapping:?}, filtering {filtering:?}, \
             ports {}-{}, quota {host_quota}, exempt {exempt:?}",
            ports.first, ports.last
        )
    });
    let lines: Vec<_> = std::iter::once(format!("limits {limits:?}")).chain(dnat).chain(snat).collect();
    lines.join("\n")
}

struct Short<'a>(&'a Observed);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for left in &self.0.left {
            let how = if left.forwarded { "forwarded" } else { "replied" };
            write!(f, "{how} to {:?}: {:?} ", left.side, left.packet)?;
        }
        if self.0.drops.is_empty() { Ok(()) } else { write!(f, "dropped: {:?}", self.0.drops) }
    }
}

fn play(scenario: &Scenario) -> Result<(), TestCaseError> {
    let mut conversation = Conversation::new(scenario);
    for action in &scenario.actions {
        conversation.act(action).map_err(|difference| TestCaseError::fail(format!("{difference:?}")))?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn one_worker_does_what_the_reference_says(scenario in scenario(1, 60)) {
        play(&scenario)?;
    }
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn two_workers_do_what_the_reference_says(scenario in scenario(2, 60)) {
        play(&scenario)?;
    }

    #[test]
    fn four_workers_do_what_the_reference_says(scenario in scenario(4, 60)) {
        play(&scenario)?;
    }
}
