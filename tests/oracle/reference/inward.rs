//! Packets to an EIP, from the outside or turned round inside the gateway.

use natgate::base::DropReason as R;
use natgate::policy::{Filtering, Mapping};

use super::fragments::{is_fragment, is_later};
use super::judge::Expected;
use super::rewrite::{End, hop, quote, requoted};
use super::session::{Direction, Flow, Kind, Session};
use super::{Inside, Reference, opens, tcp_of};
use crate::support::Side;
use crate::support::packet::{self, Body, Packet, Quote};

impl Reference {
    pub(super) fn outside(&mut self, packet: &Packet) -> Expected {
        if self.config.is_eip(packet.ip.dst) {
            return self.eip(Side::Outside, &hop(packet), false);
        }
        self.exempt_inward(packet.ip.src, packet.ip.dst, &hop(packet))
    }

    /// A packet to an EIP. `hairpin` if it came from the inside with its source translated already (RFC 4787 REQ-9).
    pub(super) fn eip(&mut self, side: Side, packet: &Packet, hairpin: bool) -> Expected {
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
        if let Body::Echo { reply: false, .. } = packet.body
            && !is_later(packet)
        {
            // Only requests from the inside make ICMP sessions (RFC 5508 §3); the EIP itself is pinged.
            return if self.answers_ping(external.0) && is_fragment(packet) {
                Expected::Drop(vec![R::LocalUnserved])
            } else if self.answers_ping(external.0) {
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
        if is_later(packet) {
            // It begins nothing.
            return Expected::Drop(vec![R::NoMapping, R::EipUnassigned, R::UnsolicitedSyn]);
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
            // Of a packet that turns round the first half is there already: nothing gives way to the second.
            let again =
                if hairpin { Some(vec![]) } else { self.make_room(&flow, &entry, &limit, Some(external)) };
            if let Some(again) = again {
                return Expected::Drop([limit, again].concat());
            }
        }
        self.begin(flow, external, session.kind, &entry);
        self.touch(&flow, tcp, Direction::In);
        forward(Inside { vpc: flow.vpc, host: flow.inside })
    }

    /// An ICMP error about a packet that an EIP sent (RFC 5508 REQ-4): it goes to the host behind, which sees its own
    /// packet quoted. It neither refreshes nor ends a session (RFC 5508 REQ-6, RFC 4787 REQ-12, RFC 5382 REQ-10).
    pub(super) fn error_to_eip(&self, packet: &Packet, kind: u8, about: &Quote, hairpin: bool) -> Expected {
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
}
