//! Questions to an engine that change nothing: which sessions there are, and what would become of a packet.

use crate::base::{
    DropReason, EipIndex, EntryId, GatewayIndex, InterfaceIndex, Moment, PortIndex, Tick, VpcIndex,
    WorkerIndex,
};
use crate::nat::decision::Decision;
use crate::nat::engine::Engine;
use crate::nat::flow::{end_of, in_force};
use crate::nat::key::{EndpointKey, FlowKey};
use crate::nat::lane::Lane;
use crate::nat::ports::PortsRow;
use crate::nat::session::{CARRY, Flow, Record, Session, SessionKind};
use crate::nat::table::timeout;
use crate::nat::tcp::{self, TcpState};
use crate::policy::{Mapping, Prefix, Realm, Snapshot, SnatEntry};
use crate::wire::rewrite::End;
use crate::wire::{Arrival, Datagram};

/// The state of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SessionState {
    /// It is not TCP, and lives as long as packets come.
    Active,
    /// It is TCP.
    Tcp(TcpState),
}

/// One session, as listings show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionRow {
    /// The worker that has it.
    pub worker: WorkerIndex,
    /// What made it.
    pub kind: SessionKind,
    /// The VPC of the private host.
    pub vpc: VpcIndex,
    /// IP protocol number.
    pub protocol: u8,
    /// The private host's address and port.
    pub inside: (u32, u16),
    /// The EIP and the port on it.
    pub external: (u32, u16),
    /// The peer's address and port.
    pub peer: (u32, u16),
    /// Its state.
    pub state: SessionState,
    /// The entry that made it.
    pub entry: EntryId,
    /// The gateway.
    pub gateway: GatewayIndex,
    /// Bytes of IP packets from the private host.
    pub bytes_out: u64,
    /// Bytes of IP packets to the private host.
    pub bytes_in: u64,
    /// Ticks since it began.
    pub age: u32,
    /// Ticks since its last packet.
    pub idle: u32,
    /// Ticks until it ends if no packet comes.
    pub expires: u32,
}

/// Which sessions are asked for: all that agree with every part that is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionFilter {
    /// The VPC.
    pub vpc: Option<VpcIndex>,
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// The private host.
    pub inside: Option<Prefix>,
    /// The private host's port.
    pub inside_port: Option<u16>,
    /// The EIP.
    pub external: Option<Prefix>,
    /// The port on the EIP.
    pub external_port: Option<u16>,
    /// The peer.
    pub peer: Option<Prefix>,
    /// The peer's port.
    pub peer_port: Option<u16>,
    /// The entry that made it.
    pub entry: Option<EntryId>,
    /// The gateway.
    pub gateway: Option<GatewayIndex>,
    /// What made it: SNAT (`true`) or DNAT (`false`).
    pub is_snat: Option<bool>,
}

fn agrees<T: PartialEq + Copy>(wanted: Option<T>, is: T) -> bool {
    wanted.is_none_or(|wanted| wanted == is)
}

fn contains(wanted: Option<Prefix>, address: u32) -> bool {
    wanted.is_none_or(|prefix| prefix.contains(address))
}

impl SessionFilter {
    fn admits(&self, row: &SessionRow) -> bool {
        agrees(self.vpc, row.vpc)
            && agrees(self.protocol, row.protocol)
            && contains(self.inside, row.inside.0)
            && agrees(self.inside_port, row.inside.1)
            && contains(self.external, row.external.0)
            && agrees(self.external_port, row.external.1)
            && contains(self.peer, row.peer.0)
            && agrees(self.peer_port, row.peer.1)
            && agrees(self.entry, row.entry)
            && agrees(self.gateway, row.gateway)
            && agrees(self.is_snat, row.kind.is_snat())
    }
}

impl Engine {
    /// Continues a listing of the external ports that are taken; see [`Ports::list`](crate::nat::ports::Ports::list).
    pub fn list_ports(&self, cursor: &mut u32, rows: &mut Vec<PortsRow>) -> bool {
        self.ports.list(cursor, rows)
    }
}

/// How far a listing has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionCursor(u32);

impl Engine {
    /// Continues a listing: looks at no more than `budget` slots and appends rows to `rows` within its capacity, so that it
    /// neither takes long nor allocates. Says whether it has come to the end. Sessions that begin or end meanwhile may be
    /// missed or shown; none is shown twice.
    pub fn list_sessions(
        &self,
        cursor: &mut SessionCursor,
        filter: &SessionFilter,
        budget: usize,
        now: Moment,
        rows: &mut Vec<SessionRow>,
    ) -> bool {
        for _ in 0..budget {
            let slot = cursor.0;
            if slot as usize >= self.sessions.capacity() {
                return true;
            }
            if rows.len() == rows.capacity() {
                return false;
            }
            cursor.0 += 1;
            if let Some(row) = self.row(slot, now.tick())
                && filter.admits(&row)
            {
                rows.push(row);
            }
        }
        cursor.0 as usize >= self.sessions.capacity()
    }

    fn row(&self, slot: u32, now: Tick) -> Option<SessionRow> {
        if !self.sessions.is_live(slot) {
            return None;
        }
        let (session, record) = self.sessions.get(slot)?;
        Some(session_row(self.worker, session, record, now))
    }

    /// What would become of a packet that came now, by the same decisions that packets meet. Nothing changes.
    pub fn explain(&self, question: &Question, snapshot: &Snapshot, now: Moment) -> Explanation {
        let mut explanation = Explanation::default();
        let mut lane = Lane {
            tenant: question.realm.tenant(),
            datagram: question.datagram,
            interface: question.interface,
            ..Lane::default()
        };
        // A packet turns round at most once.
        for step in 0..2 {
            let Some(flow) = self.explain_step(&lane, snapshot, now, &mut explanation) else { break };
            let end = end_of(lane.tenant);
            let (realm, destination) = match end {
                End::Source => (Realm::Outside, flow.peer.0),
                End::Destination => (Realm::of_tenant(flow.tenant), flow.inside.0),
            };
            if end == End::Source && snapshot.eip(destination).is_some() && step == 0 {
                explanation.hairpin = true;
                lane.arrival = Arrival::Hairpin;
                lane.datagram.ttl = lane.datagram.ttl.saturating_sub(1);
                lane.datagram.source = flow.external.0;
                lane.datagram.source_port = flow.external.1;
                lane.tenant = Realm::Outside.tenant();
                continue;
            }
            self.explain_way(realm, destination, &lane, snapshot, &mut explanation);
            break;
        }
        explanation
    }

    /// One translation: its flow, or `None` when the packet ends here.
    fn explain_step(
        &self,
        lane: &Lane,
        snapshot: &Snapshot,
        now: Moment,
        told: &mut Explanation,
    ) -> Option<Flow> {
        if let Some(slot) = self.sessions.find(self.sessions.hash(&lane.key()), &lane.key())
            && let Some((session, record)) = self.sessions.get(slot)
            && in_force(&session.flow(record), snapshot)
        {
            let row = session_row(self.worker, session, record, now.tick());
            let flow = session.flow(record);
            told.push(Step::Session(row));
            return told.survives(lane).then_some(flow);
        }
        let decision = match Realm::of_tenant(lane.tenant) {
            Realm::Outside => self.decide_inward(lane, snapshot),
            Realm::Vpc(vpc) => self.decide_outward(lane, vpc, snapshot),
        };
        match decision {
            Decision::Static(entry) => {
                told.push(Step::Static(entry.flow));
                told.survives(lane).then_some(entry.flow)
            }
            Decision::Admit { entry, flow, .. } => {
                if let Err(reason) = self.would_admit(entry, flow.inside.0, flow.tenant, snapshot) {
                    told.fate = Some(Fate::Drop(reason));
                    return None;
                }
                told.push(Step::Admitted(flow));
                told.survives(lane).then_some(flow)
            }
            Decision::Snat(entry) => {
                if let Err(reason) = self.would_admit(entry, lane.key().source, lane.tenant, snapshot) {
                    told.fate = Some(Fate::Drop(reason));
                    return None;
                }
                let flow = self.would_map(entry, &lane.key(), snapshot);
                told.push(Step::NewSession(flow));
                told.survives(lane).then_some(flow)
            }
            Decision::Route(realm) => {
                told.push(Step::Routed(realm));
                if told.survives(lane) {
                    self.explain_way(realm, lane.key().destination, lane, snapshot, told);
                }
                None
            }
            Decision::Echo => {
                told.fate = Some(Fate::AnsweredByGateway);
                None
            }
            Decision::Local => {
                let is_echo = lane.datagram.transport == crate::wire::Transport::EchoRequest;
                told.fate = Some(if is_echo {
                    Fate::AnsweredByGateway
                } else {
                    Fate::Drop(DropReason::LocalUnserved)
                });
                None
            }
            Decision::Hand { to, .. } => {
                told.fate = Some(Fate::Handed(to));
                None
            }
            Decision::Drop(reason) => {
                told.fate = Some(Fate::Drop(reason));
                None
            }
        }
    }

    /// Whether limits and tables have room for one more SNAT session of a host.
    fn would_admit(
        &self,
        entry: &SnatEntry,
        host: u32,
        tenant: u16,
        snapshot: &Snapshot,
    ) -> Result<(), DropReason> {
        let host = self.hosts.find(tenant, host).and_then(|slot| self.hosts.get(slot));
        if host.is_some_and(|host| host.sessions >= entry.host_quota) {
            return Err(DropReason::HostQuota);
        }
        let gateway = snapshot.gateway(entry.gateway).ok_or(DropReason::NoSnatEntry)?;
        if gateway.meter.sessions() >= gateway.limits.sessions {
            return Err(DropReason::SessionLimit);
        }
        if self.sessions.len() >= self.sessions.capacity() {
            return Err(DropReason::SessionTableFull);
        }
        Ok(())
    }

    /// The flow that a SNAT entry would make: its external port is zero where it would be chosen then.
    fn would_map(&self, entry: &SnatEntry, key: &FlowKey, snapshot: &Snapshot) -> Flow {
        let inside = EndpointKey {
            tenant: key.tenant,
            protocol: key.protocol,
            address: key.source,
            port: key.source_port,
        };
        let peer = (key.destination, key.destination_port);
        let known = (entry.mapping == Mapping::EndpointIndependent)
            .then(|| self.mappings.by_inside(&inside))
            .flatten()
            .and_then(|slot| self.mappings.get(slot))
            .map(|row| row.flow(peer))
            .filter(|flow| in_force(flow, snapshot));
        known.unwrap_or_else(|| {
            let choice = self.choose_eip(entry, key, self.hosts.find(key.tenant, key.source));
            Flow {
                kind: match entry.mapping {
                    Mapping::EndpointIndependent => SessionKind::Snat,
                    Mapping::EndpointDependent => SessionKind::SnatDependent,
                },
                protocol: key.protocol,
                tenant: key.tenant,
                inside: (key.source, key.source_port),
                external: (choice.map_or(0, |choice| choice.address), 0),
                peer,
                eip: choice.map_or(EipIndex(0), |choice| choice.index),
                entry: entry.id,
            }
        })
    }

    fn explain_way(
        &self,
        realm: Realm,
        destination: u32,
        lane: &Lane,
        snapshot: &Snapshot,
        told: &mut Explanation,
    ) {
        let Some(route) = snapshot.route(realm, destination) else {
            told.fate = Some(Fate::Drop(DropReason::NoRoute));
            return;
        };
        let Some(interface) = snapshot.interface(route.interface) else {
            told.fate = Some(Fate::Drop(DropReason::NoRoute));
            return;
        };
        if lane.datagram.total_len > interface.mtu && lane.datagram.dont_fragment() {
            told.fate = Some(Fate::Drop(DropReason::FragmentationNeeded));
            return;
        }
        let address = route.next_hop.unwrap_or(destination);
        told.fate = Some(Fate::Sent {
            port: interface.port,
            interface: route.interface,
            next_hop: address,
            mac: self.neighbours.mac_of(route.interface, address),
        });
    }
}

/// A session as listings and logs show it.
pub(super) fn session_row(worker: WorkerIndex, session: &Session, record: &Record, now: Tick) -> SessionRow {
    let flow = session.flow(record);
    let vpc = match Realm::of_tenant(flow.tenant) {
        Realm::Vpc(vpc) => vpc,
        Realm::Outside => VpcIndex(u16::MAX),
    };
    let carried = |carries: u32, rest: u32| u64::from(carries) * u64::from(CARRY) + u64::from(rest);
    let idle = now.since(Tick(session.last_seen));
    SessionRow {
        worker,
        kind: flow.kind,
        vpc,
        protocol: flow.protocol,
        inside: flow.inside,
        external: flow.external,
        peer: flow.peer,
        state: if session.is_tcp() {
            SessionState::Tcp(tcp::state(session.tcp))
        } else {
            SessionState::Active
        },
        entry: flow.entry,
        gateway: GatewayIndex(record.gateway),
        bytes_out: carried(record.carried_out, session.bytes_out),
        bytes_in: carried(record.carried_in, session.bytes_in),
        age: now.since(Tick(record.created)),
        idle,
        expires: timeout(session, record).saturating_sub(idle),
    }
}

/// A packet that might come.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// The packet: addresses, ports, protocol, transport, TTL, length and flags count; offsets do not.
    pub datagram: Datagram,
    /// The side that it would come from.
    pub realm: Realm,
    /// The interface that it would come in on.
    pub interface: InterfaceIndex,
}

/// One translation on the way of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// By a session that exists.
    Session(SessionRow),
    /// By a DNAT entry; a session would be made to watch it.
    Static(Flow),
    /// By a mapping that admits a new peer.
    Admitted(Flow),
    /// By a SNAT entry that makes a new session. An external port of zero stands for one that is chosen then.
    NewSession(Flow),
    /// Not translated, routed on this side.
    Routed(Realm),
}

/// The end that a packet would come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Sent.
    Sent {
        /// The port.
        port: PortIndex,
        /// The interface.
        interface: InterfaceIndex,
        /// The next hop.
        next_hop: u32,
        /// Its Ethernet address, if it is known.
        mac: Option<[u8; 6]>,
    },
    /// Answered by the gateway itself.
    AnsweredByGateway,
    /// Handed to another worker, which is to be asked for the rest.
    Handed(WorkerIndex),
    /// Dropped.
    Drop(DropReason),
}

/// What would become of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    /// The translations that it meets, in order.
    pub steps: [Option<Step>; 2],
    /// Whether it turns round inside the gateway, between the first and the second.
    pub hairpin: bool,
    /// Its end.
    pub fate: Option<Fate>,
}

impl Explanation {
    /// Whether the TTL lasts.
    fn survives(&mut self, lane: &Lane) -> bool {
        let survives = lane.datagram.ttl > lane.hops();
        if !survives {
            self.fate = Some(Fate::Drop(DropReason::TtlExpired));
        }
        survives
    }

    fn push(&mut self, step: Step) {
        if let Some(free) = self.steps.iter_mut().find(|step| step.is_none()) {
            *free = Some(step);
        }
    }
}
