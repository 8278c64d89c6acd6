//! A conversation: who sends what, and whether the engine does with it what the reference NAT says.

use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use natgate::base::DropReason;

use crate::actions::{Action, Cut, Extra, To, What, Which};
use crate::entries::{Proposal, configuration, describe};
use crate::reference::Reference;
use crate::support::packet::{GRE, UNREACHABLE};
use crate::support::{Body, Observed, Packet, Side, TestNet};
use crate::{EIPS, HOSTS, PEERS, Scenario};

/// A time after which no fragment is remembered, and none waits.
const FORGOTTEN: Duration = Duration::from_secs(33);

/// A conversation in progress.
pub struct Conversation {
    net: TestNet,
    reference: Reference,
    proposals: Vec<Proposal>,
    session_limit: u64,
    /// Packets that were sent, and packets that left.
    sent: Vec<(Side, Packet)>,
    left: Vec<(Side, Packet)>,
    /// Fragments that are still to be sent, and those that came where they should.
    parts: Vec<(Side, Packet)>,
    arrived: Vec<(Side, Packet)>,
    trace: Vec<String>,
}

/// A difference, with everything that led to it.
pub struct Difference {
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
    pub fn new(scenario: &Scenario) -> Self {
        let config = configuration(&scenario.proposals, scenario.session_limit);
        let net = TestNet::sized(&config, scenario.workers, scenario.seed, 256);
        Self {
            reference: Reference::new(&config, scenario.workers, net.now),
            net,
            proposals: scenario.proposals.clone(),
            session_limit: scenario.session_limit,
            sent: vec![],
            left: vec![],
            parts: vec![],
            arrived: vec![],
            trace: vec![describe(&config)],
        }
    }

    /// Has something happen, and looks whether everything still fits together.
    pub fn act(&mut self, action: &Action) -> Result<(), Difference> {
        self.happens(action)?;
        let net = std::panic::AssertUnwindSafe(&self.net);
        std::panic::catch_unwind(|| net.assert_consistent()).map_err(|panic| {
            let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
            self.difference(text)
        })
    }

    fn happens(&mut self, action: &Action) -> Result<(), Difference> {
        match action {
            Action::Wait(duration) => self.wait(*duration)?,
            Action::Cut(datagram, cut) => {
                if let Some((side, packet)) = self.packet(datagram) {
                    self.parts.extend(parts(&packet, *cut).into_iter().map(|part| (side, part)));
                }
            }
            Action::Part { which, again } => {
                let Some(last) = self.parts.len().checked_sub(1) else { return Ok(()) };
                let at = match which {
                    Which::Oldest => 0,
                    Which::Newest => last,
                    Which::Any(index) => index.index(last + 1),
                };
                let (side, part) = if *again { self.parts[at].clone() } else { self.parts.remove(at) };
                return self.send(side, part);
            }
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

    fn wait(&mut self, duration: Duration) -> Result<(), Difference> {
        let until = self.reference.certain_from(self.net.now + duration);
        let duration = until.since(self.net.now);
        let observed = self.net.advance(duration);
        let in_vain = self.reference.advance(until);
        if duration > Duration::ZERO {
            self.trace.push(format!("{:.1} s: waited {duration:?}", until.0 as f64 / 1e9));
        }
        if observed.drops == vec![DropReason::FragmentNoFirst; in_vain] {
            return Ok(());
        }
        Err(self.difference(format!("{in_vain} fragments waited in vain: {:?}", observed.drops)))
    }

    fn difference(&mut self, error: String) -> Difference {
        Difference { error, trace: std::mem::take(&mut self.trace) }
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
        self.wait(certain.since(self.net.now))?;
        if self.reference.is_unsure(&packet) {
            return Ok(());
        }
        if self.reference.leaves_open(side, &packet) {
            return self.send_open(side, packet);
        }
        let foretold = if self.net.engines.len() == 1 { self.net.explain(side, &packet) } else { None };
        let observed = self.net.send(side, &packet);
        let now = self.net.now.0 as f64 / 1e9;
        self.trace.push(format!("{now:.1} s: {side:?} sent {packet:?}"));
        self.trace.push(format!("    {}", Short(&observed)));
        let judged = self.reference.judge(side, &packet, &observed, &self.net.sessions());
        // What `explain` said before is what the engine did.
        let told =
            |of_it: Observed| foretold.map_or(Ok(()), |told| told.came_true(self.net.config(), &of_it));
        if let Err(error) = judged.and_then(told) {
            return Err(self.difference(error));
        }
        let (held, waiting) = (self.net.totals().held, self.reference.waiting());
        if held != waiting as u64 {
            return Err(self.difference(format!("{held} are held, and {waiting} should be")));
        }
        self.took_place(side, packet, observed);
        Ok(())
    }

    /// Sends a fragment of which it is left open whether it and others of its datagram go on, though not where to.
    fn send_open(&mut self, side: Side, packet: Packet) -> Result<(), Difference> {
        let observed = self.net.send(side, &packet);
        let now = self.net.now.0 as f64 / 1e9;
        self.trace.push(format!("{now:.1} s: {side:?} sent, with an open end, {packet:?}"));
        self.trace.push(format!("    {}", Short(&observed)));
        if let Err(error) = self.reference.judge_open(side, &packet, &observed, &self.net.sessions()) {
            return Err(self.difference(error));
        }
        self.took_place(side, packet, observed);
        // What was left open ends once all fragments are forgotten.
        let until = self.reference.certain_from(self.net.now + FORGOTTEN);
        let observed = self.net.advance(until.since(self.net.now));
        self.reference.advance(until);
        let in_vain = observed.drops.iter().all(|reason| *reason == DropReason::FragmentNoFirst);
        if in_vain && observed.left.is_empty() && self.net.totals().held == 0 {
            return Ok(());
        }
        Err(self.difference(format!("fragments that wait: {observed:?}")))
    }

    /// Keeps what was sent, and what somebody got.
    fn took_place(&mut self, side: Side, packet: Packet, observed: Observed) {
        self.sent.push((side, packet));
        for left in observed.left {
            match left.packet.ip.fragment {
                Some(_) => self.arrive(left.side, &left.packet),
                None => self.left.push((left.side, left.packet)),
            }
        }
    }

    /// Somebody got a fragment: once there are all of the datagram, it has got that.
    fn arrive(&mut self, side: Side, part: &Packet) {
        let key = |packet: &Packet| (packet.ip.src, packet.ip.dst, packet.protocol(), packet.ip.id);
        let is_of_it = |(of, other): &(Side, Packet)| *of == side && key(other) == key(part);
        // Of an offset the last one counts.
        let is_place =
            |other: &Packet| other.ip.fragment.map(|(at, _)| at) == part.ip.fragment.map(|(at, _)| at);
        self.arrived.retain(|other| !is_of_it(other) || !is_place(&other.1));
        self.arrived.push((side, part.clone()));
        let parts: Vec<_> = self.arrived.iter().filter(|o| is_of_it(o)).map(|(_, o)| o.clone()).collect();
        if let Ok(whole) = Packet::reassemble(&parts) {
            self.arrived.retain(|other| !is_of_it(other));
            self.left.push((side, whole));
        }
    }
}

/// A datagram in fragments, and what somebody puts among them.
fn parts(packet: &Packet, cut: Cut) -> Vec<Packet> {
    if matches!(packet.body, Body::Error { .. }) {
        return vec![];
    }
    let Cut { size, id, extra } = cut;
    let mut packet = packet.clone().payload(b"a datagram that is cut into several fragments");
    packet.ip.id = id;
    let mut parts = packet.fragments(size);
    match extra {
        Extra::Nothing => {}
        Extra::Overlap => {
            let mut other = parts[1].clone();
            other.ip.fragment = Some((8, true));
            parts.insert(2, other.payload(&[0xee; 24]));
        }
        Extra::Forged => {
            let (to, port) = packet.destination();
            parts.insert(1, packet.to((to, port ^ 1)).fragments(size)[0].clone());
        }
    }
    parts
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
