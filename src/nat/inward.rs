//! Packets from the outside without a session.

use crate::base::{DropReason, WorkerIndex};
use crate::nat::Verdict;
use crate::nat::engine::{Context, Engine};
use crate::nat::flow::{Found, in_force};
use crate::nat::key::{EndpointKey, FlowKey};
use crate::nat::lane::Lane;
use crate::nat::session::{Flow, SessionKind};
use crate::nat::tcp;
use crate::policy::{Filtering, Mapping, Realm, Snapshot, Timeouts};
use crate::wire::datagram::tcp_flags;
use crate::wire::{Arrival, Packet, Transport, protocol};

/// A flow that a DNAT entry makes, with what a session of it needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Static {
    pub flow: Flow,
    pub timeouts: Timeouts,
    pub gateway: u32,
}

/// The DNAT entry that takes a packet from the outside: translation follows from it alone.
pub(super) fn static_inward(key: &FlowKey, snapshot: &Snapshot) -> Option<Static> {
    let eip = snapshot.eip(key.destination)?;
    let external = (key.destination, key.destination_port);
    let peer = (key.source, key.source_port);
    let (kind, entry, vpc, inside, timeouts) = if let Some(entry) = &eip.any_port {
        (SessionKind::DnatAny, entry.id, entry.vpc, (entry.host, key.destination_port), entry.timeouts)
    } else {
        let entry = eip.forward(key.protocol, key.destination_port)?;
        let inside = (entry.host, entry.host_port(key.destination_port));
        (SessionKind::DnatPort, entry.id, entry.vpc, inside, entry.timeouts)
    };
    let flow = Flow {
        kind,
        protocol: key.protocol,
        tenant: Realm::Vpc(vpc).tenant(),
        inside,
        external,
        peer,
        eip: eip.index,
        entry,
    };
    Some(Static { flow, timeouts, gateway: eip.gateway.unwrap_or_default().0 })
}

/// Whether an address may be the source of a packet at all (RFC 1812 §5.3.7, RFC 6890).
pub(super) const fn is_martian_source(address: u32) -> bool {
    let first = address >> 24;
    first == 0 || first == 127 || first >= 224
}

/// Whether an address may be forwarded to (RFC 1812 §5.3.7): unicast only.
pub(super) const fn is_martian_destination(address: u32) -> bool {
    is_martian_source(address)
}

impl Engine {
    /// Finds the entry or mapping that takes a packet from the outside, and makes its session.
    ///
    /// # Errors
    /// What becomes of the packet instead.
    pub(super) fn inward(
        &mut self,
        packet: &mut Packet<'_>,
        lane: &Lane,
        cx: &mut Context<'_>,
    ) -> Result<Found, Verdict> {
        check_outside_source(lane, cx.snapshot).map_err(Verdict::Drop)?;
        if let Some(entry) = static_inward(&lane.key, cx.snapshot) {
            return Ok(self.open_static(&entry, lane, cx));
        }
        let key = &lane.key;
        let Some(eip) = cx.snapshot.eip(key.destination) else {
            return Err(self.meant_for_no_eip(packet, lane, cx));
        };
        if lane.datagram.transport == Transport::EchoRequest {
            return Err(if eip.ping {
                self.answer_echo(packet, lane, cx)
            } else {
                Verdict::Drop(DropReason::EipUnassigned)
            });
        }
        if eip.gateway.is_none() || !lane.datagram.has_ports() {
            return Err(Verdict::Drop(DropReason::EipUnassigned));
        }
        self.check_port_owner(key.destination_port, lane)?;
        self.admit_to_mapping(lane, cx).map(Found::Session).map_err(Verdict::Drop)
    }

    /// Begins the session of a DNAT flow, or does without one.
    pub(super) fn open_static(&mut self, entry: &Static, lane: &Lane, cx: &Context<'_>) -> Found {
        // A reply, or a segment that closes, makes no session: only what begins or goes on does.
        let begins = match lane.datagram.transport {
            Transport::Tcp => lane.datagram.tcp_flags & tcp_flags::RST == 0,
            Transport::EchoReply => false,
            _ => true,
        };
        let slot = if begins { self.open(&entry.flow, entry.gateway, &entry.timeouts, 0, cx) } else { None };
        let Some(slot) = slot else { return Found::Stateless(entry.flow) };
        if entry.flow.protocol == protocol::TCP
            && let Some(session) = self.sessions.session_mut(slot)
        {
            // What is met in its middle counts as established; the segment itself is noted when it is translated.
            let end = super::flow::end_of(&lane.key);
            session.tcp = tcp::picked_up(lane.datagram.tcp_flags, end);
        }
        Found::Session(slot)
    }

    /// Hands a packet over unless this worker owns the external port.
    fn check_port_owner(&self, port: u16, lane: &Lane) -> Result<(), Verdict> {
        let owner = WorkerIndex(crate::base::owner::owner_of_port(port, self.workers));
        self.hand_to(owner, lane)
    }

    /// Hands a packet over unless `owner` is this worker.
    pub(super) fn hand_to(&self, owner: WorkerIndex, lane: &Lane) -> Result<(), Verdict> {
        if owner == self.worker {
            return Ok(());
        }
        let arrival = match lane.arrival {
            Arrival::Wire => Arrival::Handed,
            // It turned round in this worker, or was handed here by mistake.
            Arrival::Hairpin => Arrival::Hairpin,
            Arrival::Handed => return Err(Verdict::Drop(DropReason::HairpinLoop)),
        };
        Err(Verdict::Hand { to: owner, arrival })
    }

    /// Admits a peer to a mapping, as its filtering says, and makes the session.
    fn admit_to_mapping(&mut self, lane: &Lane, cx: &Context<'_>) -> Result<u32, DropReason> {
        let key = &lane.key;
        let datagram = &lane.datagram;
        let is_tcp = datagram.transport == Transport::Tcp;
        let external = EndpointKey::external(key.protocol, key.destination, key.destination_port);
        let Some(slot) = self.mappings.by_external(&external) else {
            let opens = is_tcp && tcp::opens(datagram.tcp_flags);
            return Err(if opens { DropReason::UnsolicitedSyn } else { DropReason::NoMapping });
        };
        let mapping = *self.mappings.get(slot).ok_or(DropReason::NoMapping)?;
        let flow = mapping.flow((key.source, key.source_port));
        if !in_force(&flow, cx.snapshot) {
            return Err(DropReason::NoMapping);
        }
        if datagram.transport == Transport::EchoReply {
            // Only requests make sessions.
            return Err(DropReason::NoMapping);
        }
        if is_tcp && !tcp::opens(datagram.tcp_flags) {
            return Err(DropReason::TcpNotSyn);
        }
        let Realm::Vpc(vpc) = Realm::of_tenant(mapping.tenant) else { return Err(DropReason::NoMapping) };
        let entry = cx.snapshot.snat_entry(vpc, flow.entry).cloned().ok_or(DropReason::NoMapping)?;
        let is_admitted = match entry.filtering {
            Filtering::EndpointIndependent => true,
            Filtering::AddressDependent => self.sessions.has_peer(slot, key.source),
            // Whoever it has sent to has a session.
            Filtering::AddressAndPortDependent => false,
        };
        if !is_admitted || entry.mapping != Mapping::EndpointIndependent {
            return Err(DropReason::Filtered);
        }
        self.enter_limits(&entry, flow.tenant, flow.inside.0, flow.eip, cx)?;
        self.mappings.share(slot);
        match self.open(&flow, entry.gateway.0, &entry.timeouts, slot, cx) {
            Some(session) => Ok(session),
            None => {
                self.mappings.release(slot);
                self.leave_limits(&entry, flow.tenant, flow.inside.0, cx);
                Err(DropReason::SessionTableFull)
            }
        }
    }

    /// A packet to an address that is no EIP.
    fn meant_for_no_eip(&mut self, packet: &mut Packet<'_>, lane: &Lane, cx: &mut Context<'_>) -> Verdict {
        let destination = lane.key.destination;
        if cx.snapshot.is_own_address(Realm::Outside, destination) {
            return self.meant_for_gateway(packet, lane, cx);
        }
        if let Some(vpc) = cx.snapshot.untranslated_vpc(lane.key.source, destination) {
            return self.route(packet, lane, Realm::Vpc(vpc), cx);
        }
        let is_public = cx.snapshot.topology().public_ranges.lookup(destination).is_some();
        Verdict::Drop(if is_public { DropReason::EipUnassigned } else { DropReason::NotOurs })
    }
}

/// Sources that may not come from the outside.
pub(super) fn check_outside_source(lane: &Lane, snapshot: &Snapshot) -> Result<(), DropReason> {
    let key = &lane.key;
    if is_martian_source(key.source) || key.source == key.destination && lane.arrival != Arrival::Hairpin {
        return Err(DropReason::MartianSource);
    }
    if lane.arrival != Arrival::Hairpin
        && (snapshot.eip(key.source).is_some() || snapshot.is_private(key.source))
    {
        return Err(DropReason::SpoofedSource);
    }
    Ok(())
}
