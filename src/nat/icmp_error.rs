//! ICMP errors about translated packets (RFC 5508 §4): the error goes to whoever sent the packet that it quotes, and quotes
//! it as its sender knows it.

use crate::base::DropReason;
use crate::base::owner::owner_of_host;
use crate::nat::Verdict;
use crate::nat::decision::{Decision, routed};
use crate::nat::engine::{Context, Engine};
use crate::nat::inward::{check_outside_source, static_inward};
use crate::nat::key::FlowKey;
use crate::nat::lane::Lane;
use crate::nat::neighbours::Adjacency;
use crate::nat::outward::{check_inside, static_outward};
use crate::nat::session::Flow;
use crate::policy::{Host, Realm, Snapshot};
use crate::wire::bytes::put_u16;
use crate::wire::icmp::Quoted;
use crate::wire::rewrite::{Change, End, apply_quoted};
use crate::wire::{Datagram, Packet, checksum, protocol};

impl Engine {
    /// An ICMP error from either side.
    #[cold]
    pub(super) fn icmp_error(
        &mut self,
        packet: &mut Packet<'_>,
        lane: &Lane,
        cx: &mut Context<'_>,
    ) -> Verdict {
        match self.try_icmp_error(packet, lane, cx) {
            Ok(verdict) | Err(verdict) => verdict,
        }
    }

    fn try_icmp_error(
        &mut self,
        packet: &mut Packet<'_>,
        lane: &Lane,
        cx: &mut Context<'_>,
    ) -> Result<Verdict, Verdict> {
        let dropped = Verdict::Drop;
        let datagram = &lane.datagram;
        let (l4, end) = (usize::from(datagram.l4), datagram.end());
        let realm = Realm::of_tenant(lane.tenant);
        match realm {
            Realm::Outside => check_outside_source(lane, cx.snapshot).map_err(dropped)?,
            Realm::Vpc(vpc) => check_inside(lane, vpc, cx.snapshot).map_err(dropped)?,
        }
        let is_own = |realm| cx.snapshot.is_own_address(realm, datagram.destination);
        if is_own(realm) || is_own(Realm::Outside) {
            return Err(self.meant_for_gateway(packet, lane, cx));
        }
        if datagram.is_fragment() {
            return Err(dropped(DropReason::IcmpErrorMalformed));
        }
        let message = packet.buffer.get(l4..end).unwrap_or_default();
        // RFC 5508 REQ-3: a wrong ICMP checksum is dropped.
        if checksum::of(message) != 0 {
            return Err(dropped(DropReason::TransportChecksum));
        }
        let quoted = Quoted::parse(message).map_err(dropped)?;
        // The quoted packet went the other way: its reverse is the key that this side's packets have.
        let key = FlowKey {
            source: quoted.destination,
            source_port: quoted.destination_port,
            destination: quoted.source,
            destination_port: quoted.source_port,
            tenant: lane.tenant,
            protocol: quoted.protocol,
        };
        let Some(flow) = self.known_flow(&key, &quoted, cx.snapshot) else {
            return Err(self.unknown_flow(&key, realm, packet, lane, cx));
        };
        if datagram.ttl <= lane.hops() {
            return Err(self.ttl_expired(packet, lane, cx));
        }
        let message = packet.buffer.get_mut(l4..end).unwrap_or_default();
        let (change, way_realm, destination) = match realm {
            Realm::Outside => {
                apply_quoted(message, &quoted, End::Source, flow.inside.0, flow.inside.1);
                let change = Change::of(datagram, End::Destination, flow.inside.0, 0);
                (change, Realm::of_tenant(flow.tenant), flow.inside.0)
            }
            Realm::Vpc(_) => {
                apply_quoted(message, &quoted, End::Destination, flow.external.0, flow.external.1);
                // Whoever in the VPC speaks, host or router, is shown as the EIP (RFC 5508 REQ-5).
                let identification = self.identifications.of(lane, flow.kind.shares_eip());
                let change = Change::of(datagram, End::Source, flow.external.0, 0);
                (Change { identification, ..change }, Realm::Outside, datagram.destination)
            }
        };
        if quoted.protocol == protocol::TCP {
            self.restore_quoted(message, &quoted, &key);
        }
        put_u16(message, 2, 0);
        let sum = checksum::of(message);
        put_u16(message, 2, sum);
        let way = self.way_to(way_realm, destination, cx).map_err(dropped)?;
        if way == Adjacency::HAIRPIN && datagram.destination != flow.peer.0 {
            return Err(dropped(DropReason::HairpinLoop));
        }
        Ok(self.leave(packet, lane, &change, way, cx))
    }

    /// The flow that a quoted packet belonged to: a session's, or an entry's.
    fn known_flow(&self, key: &FlowKey, quoted: &Quoted, snapshot: &Snapshot) -> Option<Flow> {
        if quoted.has_ports
            && let Some(slot) = self.sessions.find(self.sessions.hash(key), key)
            && let Some((session, record)) = self.sessions.get(slot)
        {
            return Some(session.flow(record));
        }
        let entry = match Realm::of_tenant(key.tenant) {
            Realm::Outside => static_inward(key, snapshot),
            Realm::Vpc(vpc) => static_outward(key, vpc, snapshot),
        };
        let is_anothers =
            |flow: &Flow| self.owner_of_contested(flow, snapshot).is_some_and(|owner| owner != self.worker.0);
        // Towards the outside only the session knows which of several entries it was.
        entry.map(|entry| entry.flow).filter(|flow| key.tenant != flow.tenant || !is_anothers(flow))
    }

    /// An error about a flow that this worker does not know: another one may, or the flow is not translated.
    fn unknown_flow(
        &mut self,
        key: &FlowKey,
        realm: Realm,
        packet: &mut Packet<'_>,
        lane: &Lane,
        cx: &mut Context<'_>,
    ) -> Verdict {
        let owner = match realm {
            Realm::Outside => {
                let Some(eip) = cx.snapshot.eip(key.destination) else {
                    return self
                        .routed_error(key, packet, lane, cx)
                        .unwrap_or(Verdict::Drop(DropReason::NotOurs));
                };
                cx.snapshot.owner_of_port(eip, key.destination_port, self.workers)
            }
            Realm::Vpc(_) => owner_of_host(key.source, self.workers),
        };
        if owner != self.worker.0
            && let Decision::Hand { to, arrival } = Decision::hand(owner, lane)
        {
            return Verdict::Hand { to, arrival };
        }
        self.routed_error(key, packet, lane, cx).unwrap_or(Verdict::Drop(DropReason::IcmpErrorNoFlow))
    }

    /// An error about a flow that is not translated goes on as it is, if neither is the one who sends it.
    fn routed_error(
        &mut self,
        key: &FlowKey,
        packet: &mut Packet<'_>,
        lane: &Lane,
        cx: &mut Context<'_>,
    ) -> Option<Verdict> {
        let Datagram { source, destination, .. } = lane.datagram;
        let has_entry =
            |host: &Host| host.any_port.is_some() || host.forward(key.protocol, key.source_port).is_some();
        let realm = routed(key.tenant, key.source, key.destination, cx.snapshot, has_entry)?;
        let sender = routed(key.tenant, source, destination, cx.snapshot, |host| host.any_port.is_some());
        let is_routed = destination == key.destination && sender == Some(realm);
        is_routed.then(|| self.route(packet, lane, realm, cx))
    }
}
