//! Listings of sessions and ports: questions to an engine that change nothing, answered a piece at a time.

use crate::base::{EntryId, GatewayIndex, Moment, Tick, VpcIndex, WorkerIndex};
use crate::nat::engine::Engine;
use crate::nat::ports::{Destination, PortsRow};
use crate::nat::session::{Record, Session, SessionKind};
use crate::nat::table::timeout;
use crate::nat::tcp::{self, TcpState};
use crate::policy::{Prefix, Realm};

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
    /// Whether a session is one of those that are asked for.
    pub fn admits(&self, row: &SessionRow) -> bool {
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
    /// Continues a listing of EIPs of which ports, or blocks of them, are taken: appends rows within the capacity of `rows`, and
    /// says whether it has come to the end.
    pub fn list_ports(&self, cursor: &mut PortsCursor, rows: &mut Vec<PortsRow>) -> bool {
        continue_listing(self.ports.rows(), &mut cursor.ports, rows)
            && continue_listing(self.port_blocks.rows(), &mut cursor.blocks, rows)
    }

    /// Destinations to which nearly all ports of an EIP are in use by endpoint-dependent sessions, with how many are: a few of them.
    pub fn crowded(&self, rows: &mut Vec<(Destination, u32)>) {
        let room = rows.capacity() - rows.len();
        rows.extend(self.ports.crowded().into_iter().take(room));
    }
}

/// How far a listing of ports, and of blocks of them, has come. Both grow meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortsCursor {
    ports: usize,
    blocks: usize,
}

/// Appends those of which some are taken, from a place on, within the capacity of `rows`; says whether it has come to the end.
fn continue_listing(all: impl Iterator<Item = PortsRow>, next: &mut usize, rows: &mut Vec<PortsRow>) -> bool {
    for row in all.skip(*next) {
        if rows.len() == rows.capacity() {
            return false;
        }
        *next += 1;
        if row.taken > 0 {
            rows.push(row);
        }
    }
    true
}

/// How far a listing of sessions has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionCursor(u32);

impl SessionCursor {
    /// The next slots to look at, at most `budget`.
    pub(super) fn advance(&mut self, budget: usize, capacity: usize) -> std::ops::Range<u32> {
        let from = self.0;
        self.0 = (from as usize + budget).min(capacity) as u32;
        from..self.0
    }

    /// Whether all slots were looked at.
    pub(super) fn is_at(self, capacity: usize) -> bool {
        self.0 as usize >= capacity
    }
}

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

    pub(super) fn row(&self, slot: u32, now: Tick) -> Option<SessionRow> {
        if !self.sessions.is_live(slot) {
            return None;
        }
        let (session, record) = self.sessions.get(slot)?;
        Some(session_row(self.worker, session, record, now))
    }
}

/// A session as listings and logs show it.
pub(super) fn session_row(worker: WorkerIndex, session: &Session, record: &Record, now: Tick) -> SessionRow {
    let flow = session.flow(record);
    let vpc = match Realm::of_tenant(flow.tenant) {
        Realm::Vpc(vpc) => vpc,
        Realm::Outside => VpcIndex(u16::MAX),
    };
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
        bytes_out: record.settled_out.get() + u64::from(session.carried_out.bytes()),
        bytes_in: record.settled_in.get() + u64::from(session.carried_in.bytes()),
        age: now.since(Tick(record.created)),
        idle,
        expires: timeout(session, record).saturating_sub(idle),
    }
}
