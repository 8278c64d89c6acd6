//! Packets from a VPC.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use natgate::base::DropReason as R;
use natgate::nat::query::SessionRow;
use natgate::policy::Mapping;

use super::fragments::{is_fragment, is_later};
use super::judge::{self, Expected};
use super::rewrite::{End, hop, quote, requoted};
use super::session::{Direction, Endpoint, Flow, Kind, Session};
use super::{Reference, opens, tcp_of};
use crate::support::packet::{self, Body, Packet, Quote, UDP};
use crate::support::{Observed, Ports, Side, Snat};

impl Reference {
    pub(super) fn inside(
        &mut self,
        vpc: usize,
        (packet, raw): (&Packet, &Packet),
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
        let is_ping = matches!(packet.body, Body::Echo { reply: false, .. }) && !is_later(packet);

        let external = if let Some(session) = self.session(&flow).cloned() {
            // Where two entries could answer for a host, the session decides.
            self.touch(&flow, tcp, Direction::Out);
            session.external
        } else if self.config.vpcs[vpc].cidr.contains(packet.ip.dst.into()) {
            // A neighbour in the same VPC: routed, not translated.
            return Ok(Expected::Forward { side: Side::Vpc(vpc), packet: hop(packet), free_id: false });
        } else if is_ping && self.answers_ping(packet.ip.dst) {
            return Ok(if is_fragment(packet) {
                Expected::Drop(vec![R::LocalUnserved])
            } else {
                Expected::EchoReply { side: Side::Vpc(vpc) }
            });
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
        if !self.config.is_eip(packet.ip.dst) || packet.ip.ttl == 0 {
            return Ok(Expected::Forward { side: Side::Outside, packet, free_id });
        }
        if is_fragment(&packet) {
            return Ok(self.turn_in_parts(vpc, (&packet, free_id), raw, observed));
        }
        Ok(self.eip(Side::Vpc(vpc), &packet, true).with_id(free_id))
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
            _ if is_later(packet) => return drop(&[R::ProtocolUnsupported]),
            Body::Tcp(tcp) if !opens(tcp.flags) => return drop(&[R::TcpNotSyn]),
            Body::Echo { reply: true, .. } => return drop(&[R::NoMapping]),
            Body::Other { .. } => return drop(&[R::ProtocolUnsupported]),
            _ => {}
        }
        if let Some(limit) = self.limit(&flow, &entry)
            && let Some(again) = self.make_room(&flow, &entry, &limit, None)
        {
            return Ok(Err(Expected::Drop([limit, again].concat())));
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
