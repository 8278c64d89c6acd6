//! A NAT in plain words, to compare the engine with. It has lists where the engine has tables, copies packets where the
//! engine patches them, and knows nothing of workers, neighbours or bytes.
//!
//! Where a standard leaves a choice (the external port, the EIP of a host without sessions, the IP identifier), it takes
//! the engine's choice from what was observed, checks it against what the standard asks, and goes on with it.
//!
//! - [`session`]: sessions and their timeouts
//! - [`rewrite`]: what translation does to packets
//! - [`judge`]: what was expected against what was observed

mod judge;
mod rewrite;
mod session;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use natgate::base::{DropReason as R, Moment};
use natgate::nat::query::SessionRow;
use natgate::policy::{Filtering, Mapping, Timeouts};

use self::judge::Expected;
use self::rewrite::{End, hop, quote, requoted};
use self::session::{Direction, Endpoint, Flow, Kind, Session, TcpState};
use crate::support::packet::{self, Body, Flags, Packet, Quote, UDP};
use crate::support::{Config, Dnat, Observed, Ports, Side, Snat};

/// The reference NAT.
#[derive(Clone, Debug)]
pub struct Reference {
    config: Config,
    /// Any worker translates a packet of a DNAT entry: with several, each has seen a part of its session.
    workers: u16,
    sessions: Vec<Session>,
    now: Moment,
}

/// Where a packet to an EIP goes.
struct Inside {
    vpc: usize,
    host: Endpoint,
}

impl Reference {
    pub fn new(config: &Config, workers: u16, now: Moment) -> Self {
        Self { config: config.clone(), workers, sessions: vec![], now }
    }

    /// The first moment from `now` on at which it is certain which sessions live.
    pub fn certain_from(&self, mut now: Moment) -> Moment {
        while let Some(session) = self.sessions.iter().find(|s| s.certain() <= now && now <= s.end()) {
            now = session.end() + Duration::from_millis(1);
        }
        now
    }

    /// Lets time pass: what is idle too long is gone.
    pub fn advance(&mut self, now: Moment) {
        self.now = now;
        self.sessions.retain(|session| now <= session.end());
    }

    /// Puts another configuration in force. A session goes on exactly if it could be made the same way now.
    pub fn reload(&mut self, config: &Config) {
        self.config = config.clone();
        let sessions = std::mem::take(&mut self.sessions);
        self.sessions = sessions.into_iter().filter(|session| self.still_valid(session)).collect();
    }

    fn still_valid(&self, session: &Session) -> bool {
        let Flow { vpc, protocol, inside, .. } = session.flow;
        let static_inside = self.static_inside(protocol, session.external);
        let Some(source) = session.entry else {
            return static_inside.is_some_and(|to| (to.vpc, to.host) == (vpc, inside));
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

    /// Judges what the engine made of a packet that came from `side`, and the sessions that it lists afterwards.
    ///
    /// # Errors
    /// What was expected instead.
    pub fn judge(
        &mut self,
        side: Side,
        packet: &Packet,
        observed: &Observed,
        listed: &[SessionRow],
    ) -> Result<(), String> {
        let expected = self.receive(side, packet, observed, listed)?;
        judge::compare(&expected, packet, observed)?;
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
        if let Some(reason) = self.refused(side, packet) {
            return Ok(Expected::Drop(reason));
        }
        // Its own address on this side; from the inside its outside address is not translated either.
        if [self.config.link(side).address, self.config.outside.address].contains(&packet.ip.dst) {
            return Ok(to_gateway(side, packet));
        }
        let mut after = self.clone();
        let expected = match side {
            Side::Outside => after.outside(packet),
            Side::Vpc(vpc) => after.inside(vpc, packet, observed, listed)?,
        };
        // RFC 1812 §5.3.1: a packet that would leave with a TTL of zero goes no further, and its sender is told, unless
        // it is an ICMP error itself (RFC 1122 §3.2.2). One that is answered or dropped is not on its way.
        let from = self.config.link(side).address;
        if packet.ip.ttl > 1 || matches!(expected, Expected::EchoReply { .. }) {
            *self = after;
            return Ok(expected);
        }
        // Whether it has made its session before is free.
        let made = after.sessions.into_iter().skip(self.sessions.len());
        self.sessions.extend(made.filter(|session| judge::is_listed(session, listed)).map(Session::unopened));
        Ok(match (&packet.body, expected) {
            (Body::Error { .. }, Expected::Forward { .. }) => Expected::Drop(vec![R::TtlExpired]),
            (Body::Error { .. }, Expected::Drop(reasons)) => {
                Expected::Drop([&reasons[..], &[R::TtlExpired]].concat())
            }
            (_, Expected::Forward { .. }) => Expected::TimeExceeded { side, from },
            (_, other) => other.or_time_exceeded(side, from),
        })
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

    fn outside(&mut self, packet: &Packet) -> Expected {
        if self.config.is_eip(packet.ip.dst) {
            return self.eip(Side::Outside, &hop(packet), false);
        }
        // The way back of what is exempt from translation (RFC 6888 REQ-6).
        let (src, dst) = (packet.ip.src, packet.ip.dst);
        let exempt = (0..self.config.vpcs.len()).find(|vpc| {
            let entry =
                self.snat_entry(*vpc, dst).filter(|_| self.config.vpcs[*vpc].cidr.contains(dst.into()));
            entry.is_some_and(|entry| entry.untranslated.iter().any(|prefix| prefix.contains(src.into())))
        });
        match exempt {
            Some(vpc) => Expected::Forward { side: Side::Vpc(vpc), packet: hop(packet), free_id: false },
            None => Expected::Drop(vec![R::NotOurs, R::EipUnassigned]),
        }
    }

    /// A packet to an EIP. `hairpin` if it came from the inside with its source translated already (RFC 4787 REQ-9).
    fn eip(&mut self, side: Side, packet: &Packet, hairpin: bool) -> Expected {
        if let Body::Error { kind, quote, .. } = &packet.body {
            return self.error_to_eip(packet, *kind, quote, hairpin);
        }
        let protocol = packet.protocol();
        let external = packet.destination();
        let peer = packet.source();
        let forward = |inside: Inside| Expected::Forward {
            side: Side::Vpc(inside.vpc),
            packet: packet.clone().to(inside.host),
            free_id: hairpin,
        };
        let tcp = tcp_of(packet);

        if let Some(inside) = self.static_inside(protocol, external) {
            let flow = Flow { vpc: inside.vpc, protocol, inside: inside.host, peer };
            // Answers to this peer leave from one external endpoint: that of the connection that came first, until it is over.
            if let Some(rival) = self.session(&flow).filter(|session| session.external != external) {
                if !rival.tcp.closed() || !tcp.is_some_and(|tcp| opens(tcp.flags)) {
                    return Expected::Drop(vec![R::FlowConflict]);
                }
                self.sessions.retain(|session| session.flow != flow);
            }
            self.note_static(flow, external, packet, Direction::In);
            return forward(inside);
        }
        if let Body::Echo { reply: false, .. } = packet.body {
            // Only requests from the inside make ICMP sessions (RFC 5508 §3); the EIP itself is pinged.
            return if self.answers_ping(external.0) {
                Expected::EchoReply { side }
            } else {
                Expected::Drop(vec![R::EipUnassigned])
            };
        }
        let of_mapping =
            |s: &&Session| s.kind != Kind::Static && (s.flow.protocol, s.external) == (protocol, external);
        let mapping: Vec<_> = self.sessions.iter().filter(of_mapping).cloned().collect();
        if let Some(session) = mapping.iter().find(|s| s.flow.peer == peer) {
            self.touch(&session.flow, tcp, Direction::In);
            return forward(Inside { vpc: session.flow.vpc, host: session.flow.inside });
        }
        let Some(session) = mapping.iter().find(|s| s.kind == Kind::Independent) else {
            return Expected::Drop(vec![R::NoMapping, R::EipUnassigned, R::UnsolicitedSyn]);
        };
        if let Body::Echo { .. } = packet.body {
            // A reply from somebody who was not asked.
            return Expected::Drop(vec![R::NoMapping, R::Filtered]);
        }
        if self.is_exempt(session.flow.vpc, session.flow.inside.0, peer.0) {
            // What the host says to it is not translated.
            return Expected::Drop(vec![R::NoMapping, R::Filtered, R::TcpNotSyn]);
        }
        if tcp.is_some_and(|tcp| !opens(tcp.flags)) {
            return Expected::Drop(vec![R::TcpNotSyn]);
        }
        let entry = self.entry_of(session).expect("sessions are valid").clone();
        // RFC 4787 §5.
        let admitted = match entry.filtering {
            Filtering::EndpointIndependent => true,
            Filtering::AddressDependent => mapping.iter().any(|s| s.flow.peer.0 == peer.0),
            Filtering::AddressAndPortDependent => false,
        };
        if !admitted || entry.mapping != Mapping::EndpointIndependent {
            return Expected::Drop(vec![R::Filtered]);
        }
        let flow = Flow { peer, ..session.flow };
        if let Some(limit) = self.limit(&flow, &entry) {
            return Expected::Drop(limit);
        }
        self.begin(flow, external, session.kind, &entry);
        self.touch(&flow, tcp, Direction::In);
        forward(Inside { vpc: flow.vpc, host: flow.inside })
    }

    /// An ICMP error about a packet that an EIP sent (RFC 5508 REQ-4): it goes to the host behind, which sees its own
    /// packet quoted. It neither refreshes nor ends a session (RFC 5508 REQ-6, RFC 4787 REQ-12, RFC 5382 REQ-10).
    fn error_to_eip(&self, packet: &Packet, kind: u8, about: &Quote, hairpin: bool) -> Expected {
        if kind == packet::REDIRECT {
            return Expected::Drop(vec![R::IcmpType]);
        }
        let no_flow =
            Expected::Drop(vec![R::IcmpErrorNoFlow, R::NoMapping, R::EipUnassigned, R::IcmpErrorMalformed]);
        let (external, peer) = (about.source(), about.destination());
        let dynamic =
            |s: &&Session| (s.flow.protocol, s.external, s.flow.peer) == (about.protocol, external, peer);
        let inside = self.static_inside(about.protocol, external).or_else(|| {
            let session = self.sessions.iter().find(dynamic)?;
            Some(Inside { vpc: session.flow.vpc, host: session.flow.inside })
        });
        let Some(inside) = inside else { return no_flow };
        let translated = requoted(packet.clone(), |about| quote(about, End::Source, inside.host));
        Expected::Forward {
            side: Side::Vpc(inside.vpc),
            packet: translated.to((inside.host.0, 0)),
            free_id: hairpin,
        }
    }

    fn inside(
        &mut self,
        vpc: usize,
        packet: &Packet,
        observed: &Observed,
        listed: &[SessionRow],
    ) -> Result<Expected, String> {
        if let Body::Error { kind, quote, .. } = &packet.body {
            return Ok(self.error_from_inside(vpc, packet, *kind, quote, observed));
        }
        let protocol = packet.protocol();
        let peer = packet.destination();
        let flow = Flow { vpc, protocol, inside: packet.source(), peer };
        let tcp = tcp_of(packet);
        let is_ping = matches!(packet.body, Body::Echo { reply: false, .. });

        let external = if let Some(session) = self.session(&flow).cloned() {
            // Where two entries could answer for a host, the session decides.
            self.touch(&flow, tcp, Direction::Out);
            session.external
        } else if self.config.vpcs[vpc].cidr.contains(packet.ip.dst.into()) {
            // A neighbour in the same VPC: routed, not translated.
            return Ok(Expected::Forward { side: Side::Vpc(vpc), packet: hop(packet), free_id: false });
        } else if is_ping && self.answers_ping(packet.ip.dst) {
            return Ok(Expected::EchoReply { side: Side::Vpc(vpc) });
        } else if let Some(external) = self.static_external(&flow) {
            self.note_static(flow, external, packet, Direction::Out);
            external
        } else {
            match self.snat(flow, packet, listed)? {
                Ok(external) => external,
                Err(expected) => return Ok(expected),
            }
        };
        let packet = hop(packet).from(external);
        // What leaves with an EIP that others share, too, gets an identification of its own (RFC 7857 §10), if it needs one.
        let is_its_own = self.config.dnat.iter().any(|d| d.eip == external.0 && d.ports == Ports::Any);
        let free_id = !is_its_own && !packet.ip.dont_fragment;
        // One whose TTL runs out does not get as far as the turn.
        Ok(if self.config.is_eip(packet.ip.dst) && packet.ip.ttl > 0 {
            self.eip(Side::Vpc(vpc), &packet, true)
        } else {
            Expected::Forward { side: Side::Outside, packet, free_id }
        })
    }

    /// The external endpoint of a new flow by its SNAT entry, or what becomes of the packet instead.
    fn snat(
        &mut self,
        flow: Flow,
        packet: &Packet,
        listed: &[SessionRow],
    ) -> Result<Result<Endpoint, Expected>, String> {
        let drop = |reasons: &[R]| Ok(Err(Expected::Drop(reasons.to_vec())));
        let Some(entry) = self.snat_entry(flow.vpc, flow.inside.0).cloned() else {
            return drop(&[R::NoSnatEntry]);
        };
        // RFC 6888 REQ-6.
        if entry.untranslated.iter().any(|prefix| prefix.contains(flow.peer.0.into())) {
            return Ok(Err(Expected::Forward { side: Side::Outside, packet: hop(packet), free_id: false }));
        }
        // Only what opens a session makes one.
        match &packet.body {
            Body::Tcp(tcp) if !opens(tcp.flags) => return drop(&[R::TcpNotSyn]),
            Body::Echo { reply: true, .. } => return drop(&[R::NoMapping]),
            Body::Other { .. } => return drop(&[R::ProtocolUnsupported]),
            _ => {}
        }
        if let Some(limit) = self.limit(&flow, &entry) {
            return Ok(Err(Expected::Drop(limit)));
        }
        let kind = match entry.mapping {
            Mapping::EndpointIndependent => Kind::Independent,
            Mapping::EndpointDependent => Kind::Dependent,
        };
        // RFC 4787 REQ-1: the same external endpoint for all peers.
        let same_inside = |s: &&Session| {
            let Flow { vpc, protocol, inside, .. } = s.flow;
            (vpc, protocol, inside) == (flow.vpc, flow.protocol, flow.inside) && s.kind == Kind::Independent
        };
        let mapped = self.sessions.iter().find(same_inside).filter(|_| kind == Kind::Independent).cloned();
        let tcp = tcp_of(packet);
        if let Some(mapped) = mapped {
            let entry = Snat { source: mapped.entry.unwrap_or(entry.source), ..entry };
            self.begin(flow, mapped.external, kind, &entry);
            self.touch(&flow, tcp, Direction::Out);
            return Ok(Ok(mapped.external));
        }
        let free = self.free_endpoints(&flow, &entry, kind);
        if free.is_empty() {
            return drop(&[R::PortsExhausted]);
        }
        let Some(choice) = judge::listed_external(&flow, listed) else {
            return Err(format!("a new mapping for {flow:?} was expected, one of {}", free.len()));
        };
        check_choice(&flow, &entry, &free, choice)?;
        self.begin(flow, choice, kind, &entry);
        self.touch(&flow, tcp, Direction::Out);
        Ok(Ok(choice))
    }

    /// The external endpoints that a new mapping may have.
    fn free_endpoints(&self, flow: &Flow, entry: &Snat, kind: Kind) -> BTreeSet<Endpoint> {
        let dynamic = || self.sessions.iter().filter(|s| s.kind != Kind::Static);
        // RFC 4787 REQ-2: paired pooling. A host that has sessions on two EIPs, left over from other entries, may go on
        // with any.
        let of_host = dynamic().filter(|s| (s.flow.vpc, s.flow.inside.0) == (flow.vpc, flow.inside.0));
        let has: BTreeSet<Ipv4Addr> = of_host.map(|s| s.external.0).collect();
        let paired = has.first().filter(|eip| has.len() == 1 && entry.pool.contains(eip)).copied();
        let pool = entry.pool.iter().copied().filter(|eip| paired.is_none_or(|paired| paired == *eip));
        // RFC 4787 REQ-3: a port has one owner; an endpoint-dependent one has one owner for each peer.
        let taken: BTreeSet<Endpoint> = dynamic()
            .filter(|s| s.flow.protocol == flow.protocol)
            .filter(|s| {
                let both_dependent = s.kind == Kind::Dependent && kind == Kind::Dependent;
                !both_dependent || s.flow.peer == flow.peer
            })
            .map(|s| s.external)
            .collect();
        let any_port = |eip: Ipv4Addr| self.config.dnat.iter().any(|d| d.eip == eip && d.ports == Ports::Any);
        let ports = entry.ports.first.max(1)..=entry.ports.last;
        pool.filter(|eip| !any_port(*eip))
            .flat_map(|eip| ports.clone().map(move |port| (eip, port)))
            .filter(|endpoint| !taken.contains(endpoint))
            // RFC 6888 REQ-1: what a DNAT entry owns is not free.
            .filter(|endpoint| self.static_inside(flow.protocol, *endpoint).is_none())
            .collect()
    }

    /// Why a session more is too many, if it is.
    fn limit(&self, flow: &Flow, entry: &Snat) -> Option<Vec<R>> {
        let dynamic = || self.sessions.iter().filter(|s| s.kind != Kind::Static && s.flow.vpc == flow.vpc);
        let mut reasons = vec![];
        if dynamic().count() as u64 >= self.config.vpcs[flow.vpc].limits.sessions {
            reasons.push(R::SessionLimit);
        }
        // RFC 6888 REQ-4.
        if dynamic().filter(|s| s.flow.inside.0 == flow.inside.0).count() as u64
            >= u64::from(entry.host_quota)
        {
            reasons.push(R::HostQuota);
        }
        (!reasons.is_empty()).then_some(reasons)
    }

    /// An ICMP error from the inside about a packet that came in (RFC 5508 REQ-5): it leaves from a public address and
    /// quotes what the peer has sent.
    fn error_from_inside(
        &mut self,
        vpc: usize,
        packet: &Packet,
        kind: u8,
        about: &Quote,
        observed: &Observed,
    ) -> Expected {
        if kind == packet::REDIRECT {
            return Expected::Drop(vec![R::IcmpType]);
        }
        let no_flow = Expected::Drop(vec![R::IcmpErrorNoFlow, R::NoSnatEntry, R::IcmpErrorMalformed]);
        let (inside, peer) = (about.destination(), about.source());
        let flow = Flow { vpc, protocol: about.protocol, inside, peer };
        let session = self.session(&flow).map(|s| s.external);
        let Some(external) = session.or_else(|| self.static_external(&flow)) else {
            return self.untranslated(&flow, packet).unwrap_or(no_flow);
        };
        // RFC 5508 REQ-5c: an inside router has no address outside; the gateway lends it one.
        let seen = observed.left.iter().find(|left| left.forwarded).map(|left| left.packet.ip.src);
        let source = match seen {
            Some(source) if source == self.config.outside.address && packet.ip.src != inside.0 => source,
            _ => external.0,
        };
        let mut translated = requoted(hop(packet), |about| quote(about, End::Destination, external));
        translated.ip.src = source;
        if self.config.is_eip(translated.ip.dst) {
            return self.eip(Side::Vpc(vpc), &translated, true);
        }
        Expected::Forward { side: Side::Outside, packet: translated, free_id: true }
    }

    /// An error about a flow that is not translated goes on as it is, if its own source is not translated either: between
    /// hosts of one VPC, or to exempt destinations (RFC 6888 REQ-6).
    fn untranslated(&self, flow: &Flow, packet: &Packet) -> Option<Expected> {
        let (src, dst) = (packet.ip.src, packet.ip.dst);
        let is_exempt = |host| self.is_exempt(flow.vpc, host, dst);
        let side = if self.config.vpcs[flow.vpc].cidr.contains(dst.into()) {
            Side::Vpc(flow.vpc)
        } else if is_exempt(flow.inside.0) && is_exempt(src) && self.any_port_of_host(flow.vpc, src).is_none()
        {
            Side::Outside
        } else {
            return None;
        };
        Some(Expected::Forward { side, packet: hop(packet), free_id: false })
    }

    fn is_exempt(&self, vpc: usize, host: Ipv4Addr, peer: Ipv4Addr) -> bool {
        let entry = self.snat_entry(vpc, host);
        entry.is_some_and(|entry| entry.untranslated.iter().any(|prefix| prefix.contains(peer.into())))
    }

    /// Who a DNAT entry makes of an external endpoint.
    fn static_inside(&self, protocol: u8, (eip, port): Endpoint) -> Option<Inside> {
        self.config.dnat.iter().filter(|d| d.eip == eip).find_map(|d| {
            let port = match d.ports {
                Ports::Any => port,
                Ports::Range { protocol: of, public, private, count } => {
                    let offset =
                        port.checked_sub(public).filter(|offset| of == protocol && *offset < count)?;
                    private + offset
                }
            };
            Some(Inside { vpc: d.vpc, host: (d.host, port) })
        })
    }

    /// The external endpoint that DNAT entries give a flow: the entry by port before the any-port entry.
    fn static_external(&self, flow: &Flow) -> Option<Endpoint> {
        let by_port = self.config.dnat.iter().find_map(|d| public_port(d, flow));
        by_port.or_else(|| Some((self.any_port_of_host(flow.vpc, flow.inside.0)?.eip, flow.inside.1)))
    }

    fn any_port_of_host(&self, vpc: usize, host: Ipv4Addr) -> Option<&Dnat> {
        self.config.dnat.iter().find(|d| (d.vpc, d.host, d.ports) == (vpc, host, Ports::Any))
    }

    fn dnat_timeouts(&self, protocol: u8, (eip, port): Endpoint) -> Timeouts {
        let entry = self.config.dnat.iter().filter(|d| d.eip == eip).find(|d| match d.ports {
            Ports::Any => true,
            Ports::Range { protocol: of, public, count, .. } => {
                of == protocol && port.checked_sub(public).is_some_and(|offset| offset < count)
            }
        });
        entry.map_or(Timeouts::RFC, |entry| entry.timeouts)
    }

    /// The SNAT entry of a private source: the longest prefix.
    fn snat_entry(&self, vpc: usize, source: Ipv4Addr) -> Option<&Snat> {
        let covering = self.config.snat.iter().filter(|s| s.vpc == vpc && s.source.contains(source.into()));
        covering.max_by_key(|s| s.source.len())
    }

    /// The SNAT entry that made a session.
    fn entry_of(&self, session: &Session) -> Option<&Snat> {
        self.config.snat.iter().find(|s| (s.vpc, Some(s.source)) == (session.flow.vpc, session.entry))
    }

    /// Whether the gateway itself answers an echo request to an EIP: if it is to be pinged and no host takes it.
    fn answers_ping(&self, eip: Ipv4Addr) -> bool {
        self.config.eips.iter().any(|e| e.address == eip && e.ping)
            && !self.config.dnat.iter().any(|d| d.eip == eip && d.ports == Ports::Any)
    }

    fn session(&self, flow: &Flow) -> Option<&Session> {
        self.sessions.iter().find(|s| s.flow == *flow)
    }

    /// Begins a session of a SNAT entry.
    fn begin(&mut self, flow: Flow, external: Endpoint, kind: Kind, entry: &Snat) {
        let (timeouts, entry) = (entry.timeouts, Some(entry.source));
        let tcp = TcpState::default();
        self.sessions.push(Session { flow, external, kind, entry, timeouts, last: self.now, tcp });
    }

    /// Notes a packet of a session.
    fn touch(&mut self, flow: &Flow, tcp: Option<&packet::Tcp>, direction: Direction) {
        let now = self.now;
        if let Some(session) = self.sessions.iter_mut().find(|s| s.flow == *flow) {
            session.touch(now, tcp, direction);
        }
    }

    /// Notes a packet of a DNAT entry. Its session begins with any packet but an answer or a reset.
    fn note_static(&mut self, flow: Flow, external: Endpoint, packet: &Packet, direction: Direction) {
        let tcp = tcp_of(packet);
        let begins = match &packet.body {
            Body::Tcp(tcp) => !tcp.flags.has(Flags::RST),
            Body::Echo { reply, .. } => !reply,
            _ => true,
        };
        if self.session(&flow).is_none() && begins {
            let timeouts = self.dnat_timeouts(flow.protocol, external);
            let middle = tcp.is_some_and(|tcp| !tcp.flags.has(Flags::SYN));
            let tcp = if middle { TcpState::MIDDLE } else { TcpState::default() };
            let (kind, entry) = (Kind::Static, None);
            self.sessions.push(Session { flow, external, kind, entry, timeouts, last: self.now, tcp });
        }
        self.touch(&flow, tcp, direction);
    }
}

/// Addressed to the gateway itself: it answers echo requests (RFC 1812 §4.3.3.6) and nothing else.
fn to_gateway(side: Side, packet: &Packet) -> Expected {
    match packet.body {
        Body::Echo { reply: false, .. } => Expected::EchoReply { side },
        _ => Expected::Silence(vec![R::LocalUnserved, R::IcmpErrorNoFlow, R::IcmpType]),
    }
}

/// The public endpoint of a flow by an entry by port.
fn public_port(entry: &Dnat, flow: &Flow) -> Option<Endpoint> {
    let Ports::Range { protocol, public, private, count } = entry.ports else { return None };
    let of_host = (entry.vpc, entry.host, protocol) == (flow.vpc, flow.inside.0, flow.protocol);
    let offset = flow.inside.1.checked_sub(private).filter(|offset| of_host && *offset < count)?;
    Some((entry.eip, public + offset))
}

fn tcp_of(packet: &Packet) -> Option<&packet::Tcp> {
    match &packet.body {
        Body::Tcp(tcp) => Some(tcp),
        _ => None,
    }
}

/// Whether a segment opens a connection.
fn opens(flags: Flags) -> bool {
    flags.has(Flags::SYN) && flags.0 & (Flags::ACK.0 | Flags::RST.0 | Flags::FIN.0) == 0
}

/// Checks a new external endpoint against what the standards ask.
fn check_choice(
    flow: &Flow,
    entry: &Snat,
    free: &BTreeSet<Endpoint>,
    choice: Endpoint,
) -> Result<(), String> {
    if !free.contains(&choice) {
        return Err(format!(
            "{choice:?} is no free endpoint of {:?} {:?} for {flow:?}",
            entry.pool, entry.ports
        ));
    }
    // RFC 4787 REQ-3a and REQ-4: the port's range and parity are kept where one such port is free.
    let alike = |port: u16| (port < 1024) == (flow.inside.1 < 1024) && port % 2 == flow.inside.1 % 2;
    let possible = free.iter().any(|(eip, port)| *eip == choice.0 && alike(*port));
    if flow.protocol == UDP && possible && !alike(choice.1) {
        return Err(format!("{choice:?} keeps neither range nor parity of {flow:?}"));
    }
    Ok(())
}
