//! What is found out beforehand of packets that may make a SNAT session, for all of a batch at once, so that what making
//! them reads and writes is on its way when it is their turn, and is hashed once.

use crate::base::EipIndex;
use crate::base::owner::owner_of_host;
use crate::nat::engine::Engine;
use crate::nat::hosts::HostKey;
use crate::nat::key::{EndpointKey, FlowKey, Hashed};
use crate::nat::lane::Lane;
use crate::nat::ports::{Offer, PortRequest, Towards};
use crate::nat::table::SessionTable;
use crate::nat::tcp;
use crate::policy::{Allocation, Eip, Mapping, PoolAddress, Realm, Snapshot, SnatEntry};
use crate::wire::{Transport, protocol};

/// What a packet's SNAT session would be made of.
#[derive(Clone, Copy, Debug)]
pub struct Prospect {
    /// The private host.
    pub host: Hashed<HostKey>,
    /// The inside endpoint.
    pub inside: Hashed<EndpointKey>,
    /// The external endpoint that its mapping would have got when the batch was probed. If another packet of the batch takes
    /// the port first, a new one is looked for.
    pub external: Option<ExternalOffer>,
}

/// An external endpoint that was free.
#[derive(Clone, Copy, Debug)]
pub struct ExternalOffer {
    /// The EIP.
    pub member: PoolAddress,
    /// The port.
    pub port: Offer,
    /// Both.
    pub endpoint: Hashed<EndpointKey>,
}

impl Engine {
    /// Packets without a session may make one: starts to load what that will read and write.
    #[cold]
    pub(super) fn prefetch_misses(&mut self, lanes: &mut [Lane], snapshot: &Snapshot) {
        self.prospects.clear();
        for lane in lanes.iter_mut() {
            let datagram = &lane.datagram;
            let is_from_inside = lane.next.is_flow() && lane.tenant != Realm::Outside.tenant();
            let may_open = datagram.transport != Transport::Tcp || tcp::opens(datagram.tcp_flags);
            if lane.candidate != SessionTable::NO_SLOT
                || !is_from_inside
                || !may_open
                || owner_of_host(datagram.source, self.workers) != self.worker.0
            {
                continue;
            }
            let prospect = self.prospect(&lane.key());
            self.hosts.prefetch(&prospect.host);
            self.mappings.prefetch(&prospect.inside);
            // There is room for as many as there are lanes.
            lane.prospect = self.prospects.len() as u16;
            let _ = self.prospects.try_push(prospect);
        }
        for lane in lanes.iter() {
            let at = usize::from(lane.prospect);
            let Some(host) = self.prospects.get(at).map(|prospect| prospect.host) else { continue };
            let external = self.offer_external(&lane.key(), &host, snapshot);
            if let Some(prospect) = self.prospects.get_mut(at) {
                prospect.external = external;
            }
        }
    }

    /// What was foreseen of a packet's session, or else what is known without any look-up.
    pub(super) fn prospect_of(&self, lane: &Lane) -> Prospect {
        let key = &lane.key();
        let foreseen = self.prospects.get(usize::from(lane.prospect));
        let foreseen = foreseen.filter(|prospect| prospect.inside.key == inside_endpoint(key));
        foreseen.copied().unwrap_or_else(|| self.prospect(key))
    }

    /// What is known of a packet's session without any look-up.
    pub(super) fn prospect(&self, key: &FlowKey) -> Prospect {
        Prospect {
            host: self.hosts.hashed(HostKey { tenant: key.tenant, address: key.source }),
            inside: self.mappings.hashed(inside_endpoint(key)),
            external: None,
        }
    }

    /// The external endpoint that a packet's new mapping would get now. What making the mapping and its session will write
    /// starts to load.
    fn offer_external(
        &mut self,
        key: &FlowKey,
        host: &Hashed<HostKey>,
        snapshot: &Snapshot,
    ) -> Option<ExternalOffer> {
        let Realm::Vpc(vpc) = Realm::of_tenant(key.tenant) else { return None };
        let entry = snapshot.snat(vpc, key.source)?;
        if entry.mapping != Mapping::EndpointIndependent || entry.allocation != Allocation::Ports {
            return None;
        }
        let member = self.choose_eip(entry, key, self.hosts.find(host))?;
        let eip = snapshot.eip(member.address)?;
        let request = self.port_request(entry, key, eip, snapshot);
        let port = self.ports.offer(eip, request)?;
        let inward = key.answer_to(member.address, port.port);
        self.sessions.prefetch_bucket(self.sessions.hash(&inward));
        let endpoint = EndpointKey::external(key.protocol, member.address, port.port);
        let endpoint = self.mappings.hashed(endpoint);
        self.mappings.prefetch(&endpoint);
        Some(ExternalOffer { member, port, endpoint })
    }

    /// What a new mapping of a flow on an EIP asks of its port.
    #[inline]
    pub(super) fn port_request(
        &self,
        entry: &SnatEntry,
        key: &FlowKey,
        eip: &Eip,
        snapshot: &Snapshot,
    ) -> PortRequest {
        let towards = if self.ports.knows_distributions() { self.towards(key, eip, snapshot) } else { None };
        let (protocol, inside_port) = (key.protocol, key.source_port);
        PortRequest { protocol, inside_port, range: entry.ports, is_block: false, towards }
    }

    /// Where the answers to a flow come to. An ICMP identifier plays no part in it.
    #[inline(never)]
    fn towards(&self, key: &FlowKey, eip: &Eip, snapshot: &Snapshot) -> Option<Towards> {
        let port = snapshot.interface(eip.interface).filter(|_| key.protocol != protocol::ICMP)?.port;
        self.ports.towards(port, (key.destination, key.destination_port), eip.address)
    }

    /// The EIP that a host leaves with: the one that it has (paired pooling), else one by its address, so that it gets the
    /// same one again.
    pub(super) fn choose_eip(
        &self,
        entry: &SnatEntry,
        key: &FlowKey,
        host: Option<u32>,
    ) -> Option<PoolAddress> {
        if let Some((member, _)) = entry.fixed(key.source) {
            return Some(member);
        }
        let by_address = usual_place(entry, key.source).and_then(|place| entry.pool.get(place).copied());
        let Some(host) = host.and_then(|slot| self.hosts.get(slot)) else { return by_address };
        let paired = EipIndex(host.eip);
        by_address.filter(|member| member.index == paired).or_else(|| entry.member(paired)).or(by_address)
    }
}

/// The place in an entry's pool that a host's address leads to.
pub(super) fn usual_place(entry: &SnatEntry, address: u32) -> Option<usize> {
    let hash = address.wrapping_mul(0x9e37_79b1) >> 8;
    hash.checked_rem(entry.pool.len() as u32).map(|place| place as usize)
}

/// The inside endpoint of a private host's packet.
fn inside_endpoint(key: &FlowKey) -> EndpointKey {
    EndpointKey { tenant: key.tenant, protocol: key.protocol, address: key.source, port: key.source_port }
}
