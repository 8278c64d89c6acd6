//! What becomes of a packet from a VPC that has no session: decided, not yet done.

use crate::base::owner::owner_of_host;
use crate::base::{DropReason, VpcIndex};
use crate::nat::decision::{Decision, Static};
use crate::nat::engine::Engine;
use crate::nat::inward::{is_martian_destination, is_martian_source};
use crate::nat::key::FlowKey;
use crate::nat::lane::Lane;
use crate::nat::session::{Flow, SessionKind};
use crate::nat::tcp;
use crate::policy::{Realm, Snapshot};
use crate::wire::Transport;

impl Engine {
    /// Decides: the host's own DNAT entry, a SNAT entry, a route inside the VPC, the gateway itself, or why not.
    pub(super) fn decide_outward<'s>(
        &self,
        lane: &Lane,
        vpc: VpcIndex,
        snapshot: &'s Snapshot,
    ) -> Decision<'s> {
        let (key, datagram) = (&lane.key(), &lane.datagram);
        if let Err(reason) = check_inside(lane, vpc, snapshot) {
            return Decision::Drop(reason);
        }
        let own_realm = Realm::Vpc(vpc);
        if snapshot.is_own_address(own_realm, key.destination)
            || snapshot.is_own_address(Realm::Outside, key.destination)
        {
            return Decision::Local;
        }
        if snapshot.vpc(vpc).and_then(|vpc| vpc.cidr).is_some_and(|cidr| cidr.contains(key.destination)) {
            return Decision::Route(own_realm);
        }
        let answers_itself = |eip: &crate::policy::Eip| eip.ping && eip.any_port.is_none();
        if datagram.transport == Transport::EchoRequest
            && snapshot.eip(key.destination).is_some_and(|eip| answers_itself(eip))
        {
            return Decision::Echo;
        }
        if let Some(entry) = static_outward(key, vpc, snapshot) {
            return self.decide_static(entry, lane, snapshot);
        }
        let Some(entry) = snapshot.snat(vpc, key.source) else {
            return self.decide_uncovered(lane, snapshot);
        };
        if entry.untranslated.lookup(key.destination).is_some() {
            return Decision::Route(Realm::Outside);
        }
        match datagram.transport {
            Transport::Tcp | Transport::Udp | Transport::EchoRequest => {}
            Transport::EchoReply => return Decision::Drop(DropReason::NoMapping),
            _ => return Decision::Drop(DropReason::ProtocolUnsupported),
        }
        let owner = owner_of_host(key.source, self.workers);
        if owner != self.worker.0 {
            return Decision::hand(owner, lane);
        }
        if datagram.transport == Transport::Tcp && !tcp::opens(datagram.tcp_flags) {
            return Decision::Drop(DropReason::TcpNotSyn);
        }
        Decision::Snat(entry)
    }
}

impl Engine {
    /// No entry covers a private host any more, or none ever did; where sessions are kept, its owner may have one.
    fn decide_uncovered(&self, lane: &Lane, snapshot: &Snapshot) -> Decision<'static> {
        let owner = owner_of_host(lane.key().source, self.workers);
        if snapshot.is_any_leaving() && owner != self.worker.0 {
            return Decision::hand(owner, lane);
        }
        Decision::Drop(DropReason::NoSnatEntry)
    }
}

/// The DNAT entry that a private host answers by, or is known by: its port entry before its any-port entry.
pub(super) fn static_outward(key: &FlowKey, vpc: VpcIndex, snapshot: &Snapshot) -> Option<Static> {
    let host = snapshot.host(vpc, key.source)?;
    let (kind, entry, eip, external, timeouts) =
        if let Some(entry) = host.forward(key.protocol, key.source_port) {
            let external = (entry.address, entry.public_port(key.source_port));
            (SessionKind::DnatPort, entry.id, entry.eip, external, entry.timeouts)
        } else {
            let entry = host.any_port.as_ref()?;
            let external = (entry.address, key.source_port);
            (SessionKind::DnatAny, entry.id, entry.eip, external, entry.timeouts)
        };
    let flow = Flow {
        kind,
        protocol: key.protocol,
        tenant: key.tenant,
        inside: (key.source, key.source_port),
        external,
        peer: (key.destination, key.destination_port),
        eip,
        entry,
    };
    let gateway = snapshot.eip(external.0).and_then(|eip| eip.gateway).unwrap_or_default().0;
    Some(Static { flow, timeouts, gateway })
}

/// Sources and destinations that may not come from a VPC.
pub(super) fn check_inside(lane: &Lane, vpc: VpcIndex, snapshot: &Snapshot) -> Result<(), DropReason> {
    let key = &lane.key();
    if is_martian_source(key.source) || key.source == key.destination {
        return Err(DropReason::MartianSource);
    }
    if !snapshot.vpc(vpc).and_then(|vpc| vpc.cidr).is_some_and(|cidr| cidr.contains(key.source)) {
        return Err(DropReason::SourceOutsideVpc);
    }
    if is_martian_destination(key.destination) {
        return Err(DropReason::MartianDestination);
    }
    Ok(())
}
