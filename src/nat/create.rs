//! Making sessions, and what they hold: a mapping, a port, a place among their host's and their gateway's limits. All of it or
//! nothing.

use crate::base::{DropReason, EipIndex};
use crate::nat::decision::Static;
use crate::nat::engine::{Context, Engine};
use crate::nat::events::Ending;
use crate::nat::flow::{Found, end_of, in_force};
use crate::nat::key::{EndpointKey, FlowKey};
use crate::nat::lane::{Lane, Next};
use crate::nat::mappings::Mapping as MappingRow;
use crate::nat::ports::{Offer, PortRequest};
use crate::nat::session::{Flow, SessionKind};
use crate::nat::table::SessionTable;
use crate::nat::tcp;
use crate::policy::{Filtering, Mapping, PoolAddress, Realm, Snapshot, SnatEntry};
use crate::wire::datagram::tcp_flags;
use crate::wire::{Transport, protocol};

impl Engine {
    /// Packets without a session may make one: starts to load what that will read, for all of them, so that the misses
    /// overlap. Each gets the port that it would get now, so that what depends on the port can be loaded, too; if another
    /// packet of the batch takes that port first, a new one is looked for.
    #[cold]
    pub(super) fn prefetch_misses(&mut self, lanes: &mut [Lane], snapshot: &Snapshot) {
        let makes_one = |lane: &&mut Lane| {
            lane.candidate == SessionTable::NO_SLOT
                && lane.next == Next::Flow
                && lane.tenant != Realm::Outside.tenant()
        };
        for lane in lanes.iter_mut().filter(makes_one) {
            let key = &lane.key();
            self.hosts.prefetch(key.tenant, key.source);
            self.mappings.prefetch(&inside_endpoint(key));
        }
        for lane in lanes.iter_mut().filter(makes_one) {
            lane.offer = self.offer_port(&lane.key(), snapshot);
        }
    }

    /// The port that a packet's new mapping would get now. What making the mapping will write starts to load.
    fn offer_port(&mut self, key: &FlowKey, snapshot: &Snapshot) -> Option<Offer> {
        let Realm::Vpc(vpc) = Realm::of_tenant(key.tenant) else { return None };
        let entry = snapshot.snat(vpc, key.source)?;
        if entry.mapping != Mapping::EndpointIndependent {
            return None;
        }
        let member = self.choose_eip(entry, key, self.hosts.find(key.tenant, key.source))?;
        let offer = self.ports.offer(snapshot.eip(member.address)?, port_request(entry, key))?;
        let inward = FlowKey {
            source: key.destination,
            source_port: key.destination_port,
            destination: member.address,
            destination_port: offer.port,
            tenant: Realm::Outside.tenant(),
            protocol: key.protocol,
        };
        self.sessions.prefetch_bucket(self.sessions.hash(&inward));
        self.mappings.prefetch(&EndpointKey::external(key.protocol, member.address, offer.port));
        Some(offer)
    }

    /// Begins the session of a DNAT flow, or does without one.
    pub(super) fn open_static(&mut self, entry: &Static, lane: &Lane, cx: &Context<'_>) -> Found {
        // A reply, or a segment that closes, makes no session: only what begins or goes on does.
        let begins = match lane.datagram.transport {
            Transport::Tcp => lane.datagram.tcp_flags & tcp_flags::RST == 0,
            Transport::EchoReply => false,
            _ => true,
        };
        let slot = if begins { self.open_over_rival(entry, cx) } else { None };
        let Some(slot) = slot else { return Found::Stateless(entry.flow) };
        if entry.flow.protocol == protocol::TCP
            && let Some(session) = self.sessions.session_mut(slot)
        {
            // What is met in its middle counts as established; the segment itself is noted when it is translated.
            let end = end_of(lane.tenant);
            session.tcp = tcp::picked_up(lane.datagram.tcp_flags, end);
        }
        Found::Session(slot)
    }

    /// Makes the session of a DNAT flow. One that has its private side is over, or not in force any more, when a packet comes
    /// as far as this: it makes room.
    fn open_over_rival(&mut self, entry: &Static, cx: &Context<'_>) -> Option<u32> {
        let open = |engine: &mut Self| engine.open(&entry.flow, entry.gateway, &entry.timeouts, 0, cx);
        open(self).or_else(|| {
            let rival = self.rival(&entry.flow)?;
            self.close(rival, cx.snapshot, Ending::Superseded);
            open(self)
        })
    }

    /// Makes the session of a new peer of a mapping.
    pub(super) fn open_admitted(
        &mut self,
        entry: &SnatEntry,
        mapping: u32,
        flow: &Flow,
        cx: &Context<'_>,
    ) -> Result<u32, DropReason> {
        let host = self.hosts.find(flow.tenant, flow.inside.0);
        let host = self.enter_limits(entry, host, (flow.tenant, flow.inside.0), flow.eip, cx)?;
        self.mappings.share(mapping);
        self.open(flow, entry.gateway.0, &entry.timeouts, mapping, cx).ok_or_else(|| {
            self.mappings.release(mapping);
            self.leave_limits(entry, host, cx);
            DropReason::SessionTableFull
        })
    }

    /// Makes a SNAT session, its mapping and its port: all of them or nothing.
    pub(super) fn open_snat(
        &mut self,
        entry: &SnatEntry,
        lane: &Lane,
        cx: &mut Context<'_>,
    ) -> Result<u32, DropReason> {
        let key = &lane.key();
        let known = match entry.mapping {
            Mapping::EndpointIndependent => self.mapping_in_force(&inside_endpoint(key), cx),
            Mapping::EndpointDependent => None,
        };
        let host = self.hosts.find(key.tenant, key.source);
        let choice = match known.and_then(|slot| self.mappings.get(slot)) {
            Some(row) => PoolAddress { index: EipIndex(row.eip), address: row.external },
            None => self.choose_eip(entry, key, host).ok_or(DropReason::PortsExhausted)?,
        };
        let host = self.enter_limits(entry, host, (key.tenant, key.source), choice.index, cx)?;
        let opened = match (entry.mapping, known) {
            (Mapping::EndpointIndependent, Some(mapping)) => {
                self.mappings.share(mapping);
                self.open_independent(entry, mapping, key, cx)
            }
            (Mapping::EndpointIndependent, None) => self
                .make_mapping(entry, host, choice, lane, cx)
                .and_then(|mapping| self.open_independent(entry, mapping, key, cx)),
            (Mapping::EndpointDependent, _) => self.open_dependent(entry, host, choice, lane, cx),
        };
        if opened.is_err() {
            self.leave_limits(entry, host, cx);
        }
        opened
    }

    /// The mapping of an inside endpoint, whichever entry made it. One that the configuration does not stand behind any more
    /// serves no new session: it is taken off the index and ends with its sessions.
    fn mapping_in_force(&mut self, inside: &EndpointKey, cx: &Context<'_>) -> Option<u32> {
        let slot = self.mappings.by_inside(inside)?;
        let row = self.mappings.get(slot)?;
        if in_force(&row.flow((0, 0)), cx.snapshot) {
            return Some(slot);
        }
        self.mappings.orphan(slot);
        None
    }

    /// The EIP that a host leaves with: the one that it has (paired pooling), else one by its address, so that it gets the
    /// same one again.
    pub(super) fn choose_eip(
        &self,
        entry: &SnatEntry,
        key: &FlowKey,
        host: Option<u32>,
    ) -> Option<PoolAddress> {
        let by_address = usual_place(entry, key.source).and_then(|place| entry.pool.get(place).copied());
        let Some(host) = host.and_then(|slot| self.hosts.get(slot)) else { return by_address };
        let paired = EipIndex(host.eip);
        by_address.filter(|member| member.index == paired).or_else(|| entry.member(paired)).or(by_address)
    }

    /// The EIPs to try for a host, in order: only its own while it has other sessions on one of the pool.
    fn candidates<'e>(
        &self,
        entry: &'e SnatEntry,
        host: u32,
        choice: PoolAddress,
        key: &FlowKey,
    ) -> impl Iterator<Item = PoolAddress> + use<'e> {
        // The session to come is counted already.
        let is_bound = self.hosts.get(host).is_some_and(|host| host.sessions > 1);
        let others = if is_bound { &[] } else { &*entry.pool };
        let start = usual_place(entry, key.source).unwrap_or_default();
        let others = others.iter().cycle().skip(start).take(others.len());
        std::iter::once(choice).chain(others.copied().filter(move |member| *member != choice))
    }

    /// Makes the session of a mapping, which counts it already.
    fn open_independent(
        &mut self,
        entry: &SnatEntry,
        mapping: u32,
        key: &FlowKey,
        cx: &mut Context<'_>,
    ) -> Result<u32, DropReason> {
        let row = self.mappings.get(mapping).ok_or(DropReason::NoMapping)?;
        let flow = row.flow((key.destination, key.destination_port));
        let Some(slot) = self.open(&flow, entry.gateway.0, &entry.timeouts, mapping, cx) else {
            if let Some(gone) = self.mappings.release(mapping) {
                self.ports.give(EipIndex(gone.eip), gone.protocol, gone.external_port);
            }
            return Err(DropReason::SessionTableFull);
        };
        if entry.filtering == Filtering::AddressDependent {
            self.sessions.note_peer(slot);
        }
        Ok(slot)
    }

    fn make_mapping(
        &mut self,
        entry: &SnatEntry,
        host: u32,
        choice: PoolAddress,
        lane: &Lane,
        cx: &Context<'_>,
    ) -> Result<u32, DropReason> {
        let key = &lane.key();
        for member in self.candidates(entry, host, choice, key) {
            let offered = lane.offer.filter(|offer| offer.eip == member.index);
            let port = offered.and_then(|offer| self.ports.accept(offer)).or_else(|| {
                let eip = cx.snapshot.eip(member.address)?;
                self.ports.take(eip, port_request(entry, key))
            });
            let Some(port) = port else { continue };
            let row = MappingRow::new(inside_endpoint(key), (member.address, port), member.index, entry.id.0);
            let Some(slot) = self.mappings.insert(row) else {
                self.ports.give(member.index, key.protocol, port);
                return Err(DropReason::SessionTableFull);
            };
            self.hosts.move_to(host, member.index);
            return Ok(slot);
        }
        Err(DropReason::PortsExhausted)
    }

    fn open_dependent(
        &mut self,
        entry: &SnatEntry,
        host: u32,
        choice: PoolAddress,
        lane: &Lane,
        cx: &Context<'_>,
    ) -> Result<u32, DropReason> {
        let key = &lane.key();
        let request = port_request(entry, key);
        let is_query = lane.datagram.transport == Transport::EchoRequest;
        for member in self.candidates(entry, host, choice, key) {
            let Some(eip) = cx.snapshot.eip(member.address) else { continue };
            let sessions = &self.sessions;
            let peer = (key.destination, key.destination_port);
            let port = self.ports.take_shared(eip, request, peer, cx.tick, |port| {
                let inward = FlowKey {
                    source: key.destination,
                    source_port: if is_query { 0 } else { key.destination_port },
                    destination: member.address,
                    destination_port: port,
                    tenant: Realm::Outside.tenant(),
                    protocol: key.protocol,
                };
                sessions.find(sessions.hash(&inward), &inward).is_none()
            });
            let Some(port) = port else { continue };
            let flow = Flow {
                kind: SessionKind::SnatDependent,
                protocol: key.protocol,
                tenant: key.tenant,
                inside: (key.source, key.source_port),
                external: (member.address, port),
                peer,
                eip: member.index,
                entry: entry.id,
            };
            let Some(slot) = self.open(&flow, entry.gateway.0, &entry.timeouts, 0, cx) else {
                self.ports.give_shared(member.index, key.protocol, port, peer);
                return Err(DropReason::SessionTableFull);
            };
            self.hosts.move_to(host, member.index);
            return Ok(slot);
        }
        Err(DropReason::PortsExhausted)
    }

    /// Counts one more SNAT session of a host, known by its slot or new, against its quota and its gateway's specification.
    /// Returns the host's slot.
    fn enter_limits(
        &mut self,
        entry: &SnatEntry,
        host: Option<u32>,
        (tenant, address): (u16, u32),
        eip: EipIndex,
        cx: &Context<'_>,
    ) -> Result<u32, DropReason> {
        let has = host.and_then(|slot| self.hosts.get(slot)).map_or(0, |host| host.sessions);
        if has >= entry.host_quota {
            return Err(DropReason::HostQuota);
        }
        let gateway = cx.snapshot.gateway(entry.gateway).ok_or(DropReason::NoSnatEntry)?;
        if !gateway.meter.admit(gateway.limits, cx.now) {
            return Err(DropReason::SessionRateLimit);
        }
        if !gateway.meter.enter(gateway.limits) {
            return Err(DropReason::SessionLimit);
        }
        match host {
            Some(slot) => {
                self.hosts.enter(slot);
                Ok(slot)
            }
            None => self.hosts.insert(tenant, address, eip).ok_or_else(|| {
                gateway.meter.leave();
                DropReason::SessionTableFull
            }),
        }
    }

    /// Takes back what [`enter_limits`](Self::enter_limits) counted.
    fn leave_limits(&mut self, entry: &SnatEntry, host: u32, cx: &Context<'_>) {
        self.hosts.leave(host);
        if let Some(gateway) = cx.snapshot.gateway(entry.gateway) {
            gateway.meter.leave();
        }
    }
}

/// The place in an entry's pool that a host's address leads to.
fn usual_place(entry: &SnatEntry, address: u32) -> Option<usize> {
    let hash = address.wrapping_mul(0x9e37_79b1) >> 8;
    hash.checked_rem(entry.pool.len() as u32).map(|place| place as usize)
}

/// What a new mapping of a flow asks of its port.
fn port_request(entry: &SnatEntry, key: &FlowKey) -> PortRequest {
    PortRequest { protocol: key.protocol, inside_port: key.source_port, range: entry.ports }
}

/// The inside endpoint of a private host's packet.
fn inside_endpoint(key: &FlowKey) -> EndpointKey {
    EndpointKey { tenant: key.tenant, protocol: key.protocol, address: key.source, port: key.source_port }
}
