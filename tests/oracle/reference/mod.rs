//! A NAT in plain words, to compare the engine with. It has lists where the engine has tables, copies packets where the
//! engine patches them, and knows nothing of workers, neighbours or bytes.
//!
//! Where a standard leaves a choice (the external port, the EIP of a host without sessions, the IP identifier), it takes
//! the engine's choice from what was observed, checks it against what the standard asks, and goes on with it.
//!
//! - [`inward`], [`outward`]: packets to an EIP, and from a VPC
//! - [`entries`]: what the configuration says of an address
//! - [`limits`]: how many sessions there may be
//! - [`fragments`]: which fragments belong together
//! - [`session`], [`kept`]: sessions, their timeouts, and the list of them
//! - [`rewrite`]: what translation does to packets
//! - [`judge`]: what was expected against what was observed

mod entries;
mod fragments;
mod inward;
mod judge;
mod kept;
mod limits;
mod outward;
mod rewrite;
mod session;

use std::net::Ipv4Addr;
use std::time::Duration;

use natgate::base::{DropReason as R, Moment};
use natgate::nat::query::SessionRow;

use self::entries::static_entry;
use self::fragments::{Fragments, Part, Place, Waiting, is_first, is_later, malformed, part_of, with_ports};
use self::judge::Expected;
use self::session::{Endpoint, Flow, Kind, Session};
use crate::support::packet::{self, Body, Flags, Packet};
use crate::support::{Config, Dnat, Observed, Ports, Side};

/// The reference NAT.
#[derive(Clone, Debug)]
pub struct Reference {
    config: Config,
    /// Any worker translates a packet of a DNAT entry: with several, each has seen a part of its session.
    workers: u16,
    sessions: Vec<Session>,
    now: Moment,
    /// Packets of sessions so far.
    touches: u64,
    /// Private hosts with open DNAT flows to a port to which a second entry came to lead: with several workers it is not certain
    /// by which one they answer.
    unsure: Vec<Ipv4Addr>,
    fragments: Fragments,
    /// What may follow the first fragment that came just now.
    released: Vec<Waiting>,
}

/// Where a packet to an EIP goes.
struct Inside {
    vpc: usize,
    host: Endpoint,
}

impl Reference {
    pub fn new(config: &Config, workers: u16, now: Moment) -> Self {
        Self {
            config: config.clone(),
            workers,
            sessions: vec![],
            now,
            touches: 0,
            unsure: vec![],
            fragments: Fragments::default(),
            released: vec![],
        }
    }

    /// The first moment from `now` on at which it is certain which sessions live and what is known of fragments.
    pub fn certain_from(&self, mut now: Moment) -> Moment {
        loop {
            let session = self.sessions.iter().find(|s| s.certain() <= now && now <= s.end());
            let session = session.map(|session| session.end() + Duration::from_millis(1));
            let Some(later) = session.or_else(|| self.fragments.certain_from(now)) else { return now };
            now = later;
        }
    }

    /// Lets time pass: what is idle too long is gone. Says how many fragments have waited in vain.
    pub fn advance(&mut self, now: Moment) -> usize {
        self.now = now;
        self.sessions.retain(|session| now <= session.end());
        self.fragments.advance(now)
    }

    /// How many fragments wait for the first one of their datagram.
    pub fn waiting(&self) -> usize {
        self.fragments.waiting()
    }

    /// Puts another configuration in force. A session goes on exactly if it could be made the same way now.
    pub fn reload(&mut self, config: &Config) {
        let before = std::mem::replace(&mut self.config, config.clone());
        let sessions = std::mem::take(&mut self.sessions);
        self.sessions = sessions.into_iter().filter(|session| self.still_valid(session, &before)).collect();
        if self.workers > 1 {
            let flows = self.sessions.iter().filter(|s| s.kind == Kind::Static).map(|s| &s.flow);
            let gained = flows.filter(|flow| leading_to(config, flow) > 1 && leading_to(&before, flow) < 2);
            self.unsure.extend(gained.map(|flow| flow.inside.0));
            // Fragments to an any-port EIP did not meet anywhere.
            let was_any_port = |eip| before.dnat.iter().any(|d| (d.eip, d.ports) == (eip, Ports::Any));
            self.fragments.doubt_those_to(was_any_port);
        }
    }

    /// Whether a packet may concern a private host of which it is not certain by which entry it answers.
    pub fn is_unsure(&self, packet: &Packet) -> bool {
        let quoted = match &packet.body {
            Body::Error { quote, .. } => vec![quote.ip.src, quote.ip.dst],
            _ => vec![],
        };
        let is_its = |address: &Ipv4Addr| {
            let leads = |d: &Dnat| d.eip == *address && self.unsure.contains(&d.host);
            self.unsure.contains(address) || self.config.dnat.iter().any(leads)
        };
        [packet.ip.src, packet.ip.dst].iter().chain(&quoted).any(is_its)
    }

    fn still_valid(&self, session: &Session, before: &Config) -> bool {
        let Flow { vpc, protocol, inside, .. } = session.flow;
        let static_inside = self.static_inside(protocol, session.external);
        let Some(source) = session.entry else {
            // Another entry that leads to the same endpoint has sessions of its own.
            let entry = |config| static_entry(config, protocol, session.external).map(|entry| entry.ports);
            return static_inside.is_some_and(|to| (to.vpc, to.host) == (vpc, inside))
                && entry(&self.config) == entry(before);
        };
        // A static entry always beats dynamic sessions, that of the EIP and that of the host; another SNAT entry for the
        // same host leaves them alone.
        static_inside.is_none()
            && self.static_external(&session.flow).is_none()
            && !self.is_exempt(vpc, inside.0, session.flow.peer.0)
            && self.config.snat.iter().any(|entry| {
                (entry.vpc, entry.source) == (vpc, source)
                    && entry.pool.contains(&session.external.0)
                    && entry.ports.contains(session.external.1)
            })
    }

    /// Whether it is left open what becomes of this packet, or of others by it: with several workers a first fragment that is handed on
    /// counts as one that goes on, and takes others of its datagram along, although it may go no further at the other worker.
    pub fn leaves_open(&self, side: Side, packet: &Packet) -> bool {
        if self.workers == 1 || packet.ip.fragment.is_none() || malformed(packet).is_some() {
            return false;
        }
        let is_known = self.fragments.know(side, packet).is_some();
        let goes_on = || {
            let expected = self.clone().receive(side, packet, &Observed::default(), &[]);
            match expected {
                Ok(
                    Expected::Drop(_) | Expected::DropOrTimeExceeded { .. } | Expected::TimeExceeded { .. },
                ) => false,
                Ok(_) => true,
                // It makes a mapping first. What turns round then may go no further at the other worker.
                Err(_) => !self.config.is_eip(packet.ip.dst),
            }
        };
        if is_first(packet) {
            // Fragments to an EIP that has become any-port do not meet any more.
            let is_any_port = |d: &Dnat| (d.eip, d.ports) == (packet.ip.dst, Ports::Any);
            self.fragments.is_doubtful(side, packet)
                || self.fragments.is_waited_for(side, packet)
                    && (!goes_on() || self.config.dnat.iter().any(is_any_port))
        } else {
            self.fragments.is_doubtful(side, packet) || is_known && !goes_on()
        }
    }

    /// Judges what the engine made of a packet that came from `side`, and the sessions that it lists afterwards. Gives what
    /// was observed of this packet, without fragments that waited for it.
    ///
    /// # Errors
    /// What was expected instead.
    pub fn judge(
        &mut self,
        side: Side,
        packet: &Packet,
        observed: &Observed,
        listed: &[SessionRow],
    ) -> Result<Observed, String> {
        let expected = self.receive(side, packet, observed, listed)?;
        let mut of_it = observed.clone();
        for (expected, waited) in self.follow_first(observed)? {
            judge::take(&expected, &waited, &mut of_it)?;
        }
        judge::compare(&expected, packet, &of_it)?;
        self.compare_sessions(listed)?;
        Ok(of_it)
    }

    /// Judges what the engine made of a fragment of which it is [left open](Self::leaves_open) whether it goes on: if it does, then as
    /// the reference says, and so do others of its datagram; nothing else leaves.
    ///
    /// # Errors
    /// What was expected instead.
    pub fn judge_open(
        &mut self,
        side: Side,
        packet: &Packet,
        observed: &Observed,
        listed: &[SessionRow],
    ) -> Result<(), String> {
        // It may overlap one that the worker knows where they meet, and the reference does not.
        if observed.left.is_empty() && observed.drops == [R::FragmentOverlap] {
            return self.compare_sessions(listed);
        }
        let mut after = self.clone();
        let expected = after.receive(side, packet, observed, listed)?;
        let mut of_it = observed.clone();
        for (expected, waited) in after.follow_first(observed)? {
            let _ = judge::take(&expected, &waited, &mut of_it);
        }
        // Others of its datagram may have waited for it in vain.
        of_it.drops.retain(|reason| ![R::FragmentNoFirst, R::FragmentOverlap].contains(reason));
        let goes_on = judge::compare(&expected, packet, &of_it).is_ok();
        if !goes_on && !of_it.left.is_empty() {
            return Err(format!("of a fragment expected {expected:?}, or nothing\nobserved {observed:?}"));
        }
        if goes_on {
            *self = after;
        }
        // One that turns round may have come as far as the turn, and refreshed its session.
        let (protocol, ends) = (packet.protocol(), (packet.ip.src, packet.ip.dst));
        for session in &mut self.sessions {
            let is_its =
                (session.flow.protocol, (session.flow.inside.0, session.flow.peer.0)) == (protocol, ends);
            if is_its && listed.iter().any(|row| judge::is_of(session, row) && row.idle == 0) {
                session.last = self.now;
            }
        }
        self.compare_sessions(listed)
    }

    fn compare_sessions(&self, listed: &[SessionRow]) -> Result<(), String> {
        let whole: Vec<_> = listed.iter().filter(|row| self.workers == 1 || row.kind.is_snat()).collect();
        let sessions: Vec<_> =
            self.sessions.iter().filter(|s| self.workers == 1 || s.kind != Kind::Static).collect();
        judge::compare_sessions(&sessions, self.now, &whole)
    }

    fn receive(
        &mut self,
        side: Side,
        packet: &Packet,
        observed: &Observed,
        listed: &[SessionRow],
    ) -> Result<Expected, String> {
        if let Some(reason) = malformed(packet).filter(|_| packet.ip.ttl > 0) {
            return Ok(Expected::Drop(vec![reason]));
        }
        if let Some(reason) = self.refused(side, packet) {
            return Ok(Expected::Drop(reason));
        }
        // Its own address on this side; from the inside its outside address is not translated either.
        if [self.config.link(side).address, self.config.outside.address].contains(&packet.ip.dst) {
            return Ok(to_gateway(side, packet));
        }
        let known = match packet.ip.fragment {
            None => Some(packet.clone()),
            Some(_) => {
                let part = Part::of(packet);
                let seen = with_ports(packet);
                match self.fragments.place(side, &seen, part, self.now) {
                    Place::Unfit if !self.addresses_tell(side, packet) => {
                        return Ok(Expected::Drop(vec![R::FragmentOverlap]));
                    }
                    Place::Belongs => {
                        self.fragments.add(side, packet, part);
                        self.fragments.know(side, packet)
                    }
                    _ => is_first(packet).then_some(seen),
                }
            }
        };
        let mut after = self.clone();
        let expected = match (side, &known) {
            (_, None) => after.without_first(side, packet),
            (Side::Outside, Some(known)) => after.outside(known),
            (Side::Vpc(vpc), Some(known)) => after.inside(vpc, (known, packet), observed, listed)?,
        };
        // RFC 1812 §5.3.1: a packet that would leave with a TTL of zero goes no further, and its sender is told, unless
        // it is an ICMP error itself or a later fragment (RFC 1122 §3.2.2). One that is answered, dropped or held is not on its
        // way.
        if packet.ip.ttl > 1 || matches!(expected, Expected::EchoReply { .. } | Expected::Waits) {
            let in_parts = after.in_parts(expected.clone(), side, packet);
            match expected {
                Expected::Forward { free_id, .. } if is_first(packet) => {
                    after.goes_on(side, packet, free_id, observed);
                }
                _ if is_first(packet) && self.workers > 1 => after.fragments.doubt(side, packet, self.now),
                _ => {}
            }
            *self = after;
            return Ok(in_parts);
        }
        if is_first(packet) && self.workers > 1 {
            self.fragments.doubt(side, packet, self.now);
        }
        self.touches = after.touches;
        let is_told = !is_later(packet) && !matches!(packet.body, Body::Error { .. });
        if is_told {
            // Whether it has made its session before is free.
            let known: Vec<Flow> = self.sessions.iter().map(|session| session.flow).collect();
            let made = after.sessions.into_iter().filter(|session| !known.contains(&session.flow));
            // So is whether one has given way to it.
            self.sessions.retain(|session| session.half_open.is_none() || judge::is_listed(session, listed));
            self.sessions
                .extend(made.filter(|session| judge::is_listed(session, listed)).map(Session::unopened));
        }
        let from = self.config.link(side).address;
        Ok(match expected {
            Expected::Forward { .. } if is_told => Expected::TimeExceeded { side, from },
            Expected::Forward { .. } => Expected::Drop(vec![R::TtlExpired]),
            Expected::Drop(reasons) if !is_told => Expected::Drop([&reasons[..], &[R::TtlExpired]].concat()),
            other => other.or_time_exceeded(side, from),
        })
    }

    /// What becomes of a packet, as it was found for all of its datagram, if it is a fragment.
    fn in_parts(&self, expected: Expected, side: Side, packet: &Packet) -> Expected {
        match expected {
            Expected::Forward { side: to, packet: whole, free_id } if packet.ip.fragment.is_some() => {
                let mut part = part_of(whole, packet);
                let seen = with_ports(packet);
                let given = self.fragments.given_id(side, &seen, Part::of(packet), self.now);
                let given = given.filter(|_| free_id);
                part.ip.id = given.unwrap_or(part.ip.id);
                Expected::Forward { side: to, packet: part, free_id: free_id && given.is_none() }
            }
            other => other,
        }
    }

    /// Sources and destinations that are wrong whatever they want.
    fn refused(&self, side: Side, packet: &Packet) -> Option<Vec<R>> {
        let (src, dst) = (packet.ip.src, packet.ip.dst);
        // RFC 1812 §5.3.7.
        let martian = |a: Ipv4Addr| a.octets()[0] == 0 || a.is_loopback() || a.octets()[0] >= 224;
        if packet.ip.ttl == 0 {
            return Some(vec![R::TtlZero]);
        }
        // A redirect is between a host and its own router: it is never passed on.
        if matches!(packet.body, Body::Error { kind: packet::REDIRECT, .. }) {
            return Some(vec![R::IcmpType]);
        }
        // Nobody sends to itself over a wire.
        if martian(src) || src == dst {
            return Some(vec![R::MartianSource, R::SpoofedSource]);
        }
        if martian(dst) {
            return Some(vec![R::MartianDestination]);
        }
        match side {
            // RFC 2827: nobody outside has an inside address, nor one of ours.
            Side::Outside => {
                let private = self.config.vpcs.iter().any(|vpc| vpc.cidr.contains(src.into()));
                let own = self.config.is_eip(src) || src == self.config.outside.address;
                (private || own).then(|| vec![R::SpoofedSource, R::MartianSource])
            }
            Side::Vpc(vpc) => {
                let vpc = &self.config.vpcs[vpc];
                let foreign = !vpc.cidr.contains(src.into()) || src == vpc.link.address;
                foreign.then(|| vec![R::SourceOutsideVpc, R::SpoofedSource, R::MartianSource])
            }
        }
    }
}

/// How many DNAT entries lead to the private endpoint of a flow.
fn leading_to(config: &Config, flow: &Flow) -> usize {
    let leads = |d: &&Dnat| match d.ports {
        Ports::Any => true,
        Ports::Range { protocol, private, count, .. } => {
            protocol == flow.protocol
                && flow.inside.1.checked_sub(private).is_some_and(|offset| offset < count)
        }
    };
    config.dnat.iter().filter(|d| (d.vpc, d.host) == (flow.vpc, flow.inside.0)).filter(leads).count()
}

/// Addressed to the gateway itself: it answers echo requests (RFC 1812 §4.3.3.6) and nothing else.
fn to_gateway(side: Side, packet: &Packet) -> Expected {
    match packet.body {
        Body::Echo { reply: false, .. } => Expected::EchoReply { side },
        _ => Expected::Silence(vec![R::LocalUnserved, R::IcmpErrorNoFlow, R::IcmpType, R::FragmentNoFirst]),
    }
}

/// The header of a TCP segment, unless it is in another fragment.
fn tcp_of(packet: &Packet) -> Option<&packet::Tcp> {
    match &packet.body {
        Body::Tcp(tcp) if !is_later(packet) => Some(tcp),
        _ => None,
    }
}

/// Whether a segment opens a connection.
fn opens(flags: Flags) -> bool {
    flags.has(Flags::SYN) && flags.0 & (Flags::ACK.0 | Flags::RST.0 | Flags::FIN.0) == 0
}
