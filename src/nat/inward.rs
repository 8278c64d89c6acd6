//! What becomes of a packet from the outside that has no session: decided, not yet done.

use crate::base::DropReason;
use crate::nat::decision::{Decision, Static};
use crate::nat::engine::Engine;
use crate::nat::flow::in_force;
use crate::nat::key::{EndpointKey, FlowKey};
use crate::nat::lane::Lane;
use crate::nat::session::{Flow, SessionKind};
use crate::nat::tcp;
use crate::policy::{Filtering, Mapping, Realm, Snapshot};
use crate::wire::{Arrival, Transport};

impl Engine {
    /// Decides: a DNAT entry takes it, a mapping admits it, the gateway itself is meant, or why not.
    pub(super) fn decide_inward<'s>(&self, lane: &Lane, snapshot: &'s Snapshot) -> Decision<'s> {
        let key = &lane.key();
        if let Err(reason) = check_outside_source(lane, snapshot) {
            return Decision::Drop(reason);
        }
        if let Some(entry) = static_inward(key, snapshot) {
            return self.decide_static(entry, lane, snapshot);
        }
        let Some(eip) = snapshot.eip(key.destination) else {
            return decide_without_eip(key, snapshot);
        };
        if lane.datagram.transport == Transport::EchoRequest {
            return if eip.ping { Decision::Echo } else { Decision::Drop(DropReason::EipUnassigned) };
        }
        if eip.gateway.is_none() || lane.datagram.transport == Transport::Other {
            return Decision::Drop(DropReason::EipUnassigned);
        }
        let owner = snapshot.owner_of_port(eip, key.destination_port, self.workers);
        if owner != self.worker.0 {
            return Decision::hand(owner, lane);
        }
        self.decide_by_mapping(lane, snapshot).unwrap_or_else(Decision::Drop)
    }

    /// Whether a mapping admits a new peer, as its filtering says (RFC 4787 §5).
    fn decide_by_mapping<'s>(&self, lane: &Lane, snapshot: &'s Snapshot) -> Result<Decision<'s>, DropReason> {
        let (key, datagram) = (&lane.key(), &lane.datagram);
        let is_tcp = datagram.transport == Transport::Tcp;
        let opens = is_tcp && tcp::opens(datagram.tcp_flags);
        let external = EndpointKey::external(key.protocol, key.destination, key.destination_port);
        let Some(slot) = self.mappings.by_external(&self.mappings.hashed(external)) else {
            return Err(if opens { DropReason::UnsolicitedSyn } else { DropReason::NoMapping });
        };
        let mapping = self.mappings.get(slot).ok_or(DropReason::NoMapping)?;
        let flow = mapping.flow((key.source, key.source_port));
        // Only requests make sessions, and only by their first fragments.
        let begins = !matches!(datagram.transport, Transport::EchoReply | Transport::LaterFragment);
        if !begins || !in_force(&flow, snapshot) {
            return Err(DropReason::NoMapping);
        }
        if is_tcp && !opens {
            return Err(DropReason::TcpNotSyn);
        }
        let Realm::Vpc(vpc) = Realm::of_tenant(mapping.tenant) else { return Err(DropReason::NoMapping) };
        let entry = snapshot.snat_entry(vpc, flow.entry).ok_or(DropReason::NoMapping)?;
        let expected = self.ftp.expects(slot);
        let is_admitted = match entry.filtering {
            _ if expected == Some(key.source) => true,
            // Nothing holds it yet but the expectation of another peer.
            _ if expected.is_some() && !mapping.is_shared() => false,
            Filtering::EndpointIndependent => true,
            Filtering::AddressDependent => self.sessions.has_peer(slot, key.source),
            // Whoever it has sent to has a session.
            Filtering::AddressAndPortDependent => false,
        };
        if !is_admitted || entry.mapping != Mapping::EndpointIndependent {
            return Err(DropReason::Filtered);
        }
        Ok(Decision::Admit { entry, mapping: slot, flow })
    }
}

/// A packet to an address that is no EIP.
fn decide_without_eip<'s>(key: &FlowKey, snapshot: &Snapshot) -> Decision<'s> {
    if snapshot.is_own_address(Realm::Outside, key.destination) {
        return Decision::Local;
    }
    if let Some(vpc) = snapshot.untranslated_vpc(key.source, key.destination) {
        return Decision::Route(Realm::Vpc(vpc));
    }
    let is_public = snapshot.topology().public_ranges.lookup(key.destination).is_some();
    Decision::Drop(if is_public { DropReason::EipUnassigned } else { DropReason::NotOurs })
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

/// Sources that may not come from the outside.
pub(super) fn check_outside_source(lane: &Lane, snapshot: &Snapshot) -> Result<(), DropReason> {
    let key = &lane.key();
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
