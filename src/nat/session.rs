//! A session: one flow between a private host and a peer, with what both directions need of it in one cache line.

use zerocopy::FromZeros;

use crate::base::{EipIndex, EntryId, Generation, Tick};
use crate::nat::carried::Carried;
use crate::nat::key::{FlowKey, addresses, ports};
use crate::nat::neighbours::Adjacency;
use crate::policy::Realm;
use crate::wire::rewrite::{Change, End, transport_delta};
use crate::wire::{Delta, protocol};

/// What made a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SessionKind {
    /// A SNAT entry with endpoint-independent mapping.
    Snat,
    /// A SNAT entry with endpoint-dependent mapping.
    SnatDependent,
    /// A DNAT entry by port.
    DnatPort,
    /// An any-port DNAT entry.
    DnatAny,
}

impl SessionKind {
    #[inline(always)]
    const fn bits(self) -> u8 {
        match self {
            Self::Snat => 1,
            Self::SnatDependent => 2,
            Self::DnatPort => 3,
            Self::DnatAny => 4,
        }
    }

    const fn of_bits(bits: u8) -> Self {
        match bits & KIND {
            1 => Self::Snat,
            2 => Self::SnatDependent,
            3 => Self::DnatPort,
            _ => Self::DnatAny,
        }
    }

    /// Whether a SNAT entry made it.
    pub const fn is_snat(self) -> bool {
        matches!(self, Self::Snat | Self::SnatDependent)
    }

    /// Whether other private hosts may have sessions with the same EIP.
    pub const fn shares_eip(self) -> bool {
        self.bits() != Self::DnatAny.bits()
    }
}

/// The part of a session that every packet touches: one cache line.
#[derive(Clone, Copy, Debug, FromZeros)]
#[repr(C, align(64))]
pub struct Session {
    // The peer stands between the two others, so that each direction's source and destination are side by side in the order
    // of a packet's header, and are compared at once.
    /// The private host's address.
    pub inside: u32,
    /// The peer's address.
    pub peer: u32,
    /// The EIP.
    pub external: u32,
    /// The private host's port.
    pub inside_port: u16,
    /// The peer's port.
    pub peer_port: u16,
    /// The port on the EIP.
    pub external_port: u16,
    /// The VPC as a tenant number; zero in a free slot.
    pub tenant: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// The TCP state: see [`crate::nat::tcp`].
    pub tcp: u8,
    kind: u8,
    /// By how many bits the windows of the private host (low half) and the peer (high half) are shifted.
    window_scales: u8,
    ip_delta: u16,
    transport_delta: u16,
    /// The next hop on the way out, or [`Adjacency::HAIRPIN`].
    pub way_out: Adjacency,
    /// The next hop on the way in.
    pub way_in: Adjacency,
    /// When the last packet came.
    pub last_seen: u32,
    /// The configuration that it was last checked against.
    pub generation: u32,
    /// The slot of the EIP.
    pub eip: u32,
    /// What it has carried out, less what was moved to [`Record::settled_out`].
    pub carried_out: Carried,
    /// What it has carried in, less what was moved to [`Record::settled_in`].
    pub carried_in: Carried,
    /// What the private host has acknowledged of a TCP connection; zero if it has not yet.
    pub acknowledged_out: u32,
    /// What the peer has acknowledged.
    pub acknowledged_in: u32,
}

const _: () = assert!(size_of::<Session>() == 64);

/// The part of a session that only its beginning, its end and its listing touch.
#[derive(Clone, Copy, Debug, FromZeros)]
#[repr(C)]
pub struct Record {
    /// When it began.
    pub created: u32,
    /// The entry that made it.
    pub entry: u32,
    /// The gateway whose limits it counts against.
    pub gateway: u32,
    /// Its mapping, in an endpoint-independent SNAT session.
    pub mapping: u32,
    /// Idle timeout in ticks while it is opening or closing, and of all that is not TCP.
    pub timeout_transitory: u32,
    /// Idle timeout in ticks of an established TCP connection.
    pub timeout_established: u32,
    /// Bytes out that were moved here, and are accounted for in the usage of its entry.
    pub settled_out: ByteCount,
    /// Bytes in, likewise.
    pub settled_in: ByteCount,
}

const _: () = assert!(size_of::<Record>() == 36);

/// A number of bytes, up to 281 terabytes, in six bytes: a record is kept small.
#[derive(Clone, Copy, Debug, Default, FromZeros)]
pub struct ByteCount([u16; 3]);

impl ByteCount {
    /// The number.
    pub fn get(self) -> u64 {
        let Self([low, middle, high]) = self;
        u64::from(low) | u64::from(middle) << 16 | u64::from(high) << 32
    }

    /// Adds to it, as far as there is room.
    pub fn add(&mut self, bytes: u32) {
        let sum = (self.get() + u64::from(bytes)).min((1 << 48) - 1);
        self.0 = [sum as u16, (sum >> 16) as u16, (sum >> 32) as u16];
    }
}

/// In `kind`: what made the session.
const KIND: u8 = 7;

/// In `kind`: the session is found by its mapping and peer, too.
const NOTES_PEER: u8 = 8;

/// In `kind`: both hosts are sent a TCP reset when it expires.
const RESETS: u8 = 16;

/// In `kind`: its external port is one of a block of ports, and the session log tells of the block.
const IN_BLOCK: u8 = 32;

/// In `window_scales`: neither host's SYN was seen.
const UNKNOWN_SCALES: u8 = 0xff;

/// The three endpoints of a flow, and what they belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// What makes it.
    pub kind: SessionKind,
    /// IP protocol number.
    pub protocol: u8,
    /// The VPC as a tenant number.
    pub tenant: u16,
    /// The private host.
    pub inside: (u32, u16),
    /// The EIP and the port on it.
    pub external: (u32, u16),
    /// The peer.
    pub peer: (u32, u16),
    /// The slot of the EIP.
    pub eip: EipIndex,
    /// The entry.
    pub entry: EntryId,
}

impl Flow {
    /// What the private host's packets change at this gateway.
    pub fn outward(&self) -> Change {
        self.change(End::Source)
    }

    /// What the peer's packets change at this gateway.
    pub fn inward(&self) -> Change {
        self.change(End::Destination)
    }

    /// Its key in the private host's packets.
    pub fn outward_key(&self) -> FlowKey {
        FlowKey::outward(self.tenant, self.protocol, self.inside, self.peer)
    }

    fn change(&self, end: End) -> Change {
        let (from, to) = match end {
            End::Source => (self.inside, self.external),
            End::Destination => (self.external, self.inside),
        };
        let ip = Delta::of_u32(from.0, to.0);
        let transport = transport_delta(self.protocol, ip, Delta::of_u16(from.1, to.1));
        Change { end, address: to.0, port: to.1, identification: None, ip, transport }
    }
}

impl Session {
    /// A session of a flow that begins now.
    pub fn new(flow: &Flow, generation: Generation, now: Tick) -> Self {
        let outward = flow.outward();
        Self {
            inside: flow.inside.0,
            external: flow.external.0,
            peer: flow.peer.0,
            inside_port: flow.inside.1,
            external_port: flow.external.1,
            peer_port: flow.peer.1,
            tenant: flow.tenant,
            protocol: flow.protocol,
            tcp: 0,
            kind: flow.kind.bits(),
            window_scales: UNKNOWN_SCALES,
            ip_delta: outward.ip.0,
            transport_delta: outward.transport.0,
            way_out: Adjacency::NONE,
            way_in: Adjacency::NONE,
            last_seen: now.0,
            generation: generation.0,
            eip: flow.eip.0,
            carried_out: Carried::default(),
            carried_in: Carried::default(),
            acknowledged_out: 0,
            acknowledged_in: 0,
        }
    }

    /// What made it.
    pub fn kind(&self) -> SessionKind {
        SessionKind::of_bits(self.kind)
    }

    /// Whether other private hosts may have sessions with its EIP.
    #[inline(always)]
    pub fn shares_eip(&self) -> bool {
        self.kind & KIND != SessionKind::DnatAny.bits()
    }

    /// Whether its peer is noted for filtering.
    pub(super) fn notes_peer(&self) -> bool {
        self.kind & NOTES_PEER != 0
    }

    pub(super) fn set_notes_peer(&mut self) {
        self.kind |= NOTES_PEER;
    }

    /// Whether both hosts are to be told when it expires as an established connection.
    pub(super) fn is_reset_at_expiry(&self) -> bool {
        self.kind & RESETS != 0
    }

    pub(super) fn set_reset_at_expiry(&mut self) {
        self.kind |= RESETS;
    }

    /// Whether its external port is one of a block.
    pub(super) fn is_in_block(&self) -> bool {
        self.kind & IN_BLOCK != 0
    }

    pub(super) fn set_in_block(&mut self) {
        self.kind |= IN_BLOCK;
    }

    /// Whether it is TCP.
    #[inline]
    pub fn is_tcp(&self) -> bool {
        self.protocol == protocol::TCP
    }

    /// Notes what a host has acknowledged with a segment in this direction.
    #[inline(always)]
    pub fn acknowledge(&mut self, end: End, number: u32) {
        match end {
            End::Source => self.acknowledged_out = number,
            End::Destination => self.acknowledged_in = number,
        }
    }

    /// Notes the window scale of a host whose SYN goes in this direction.
    pub fn scale_windows(&mut self, end: End, scale: u8) {
        match end {
            End::Source => self.window_scales = self.window_scales & 0xf0 | scale,
            End::Destination => self.window_scales = self.window_scales & 0x0f | scale << 4,
        }
    }

    /// Forgets what is known of sequence numbers: another connection begins.
    pub fn restart_windows(&mut self) {
        (self.window_scales, self.acknowledged_out, self.acknowledged_in) = (UNKNOWN_SCALES, 0, 0);
    }

    /// Whether a reset in this direction may come from its sender and not from somebody who guesses: its sequence number
    /// lies in the window of the receiver (RFC 5961 §3), as far as that is known.
    pub fn admits_reset(&self, end: End, sequence: u32) -> bool {
        let (acknowledged, scale) = match end {
            End::Source => (self.acknowledged_in, self.window_scales >> 4),
            End::Destination => (self.acknowledged_out, self.window_scales & 0x0f),
        };
        let window = u32::from(u16::MAX) << scale.min(14);
        acknowledged == 0 || sequence.wrapping_sub(acknowledged) <= window
    }

    /// Its key in the private host's packets.
    pub fn outward_key(&self) -> FlowKey {
        let (inside, peer) = ((self.inside, self.inside_port), (self.peer, self.peer_port));
        FlowKey::outward(self.tenant, self.protocol, inside, peer)
    }

    /// Its key in the peer's packets.
    pub fn inward_key(&self) -> FlowKey {
        FlowKey {
            source: self.peer,
            source_port: self.peer_port,
            destination: self.external,
            destination_port: self.external_port,
            tenant: Realm::Outside.tenant(),
            protocol: self.protocol,
        }
    }

    /// Whether a packet with this key belongs to it. A free slot has no packets.
    #[inline(always)]
    pub fn has(&self, key: &FlowKey) -> bool {
        if key.tenant == Realm::Outside.tenant() {
            self.has_at(End::Destination, key)
        } else {
            self.has_at(End::Source, key)
        }
    }

    /// The same for a packet of which this end is changed.
    #[inline(always)]
    pub fn has_at(&self, end: End, key: &FlowKey) -> bool {
        let is_of_realm = match end {
            End::Source => key.tenant == self.tenant,
            End::Destination => self.tenant != 0,
        };
        let (source, destination) = match end {
            End::Source => ((self.inside, self.inside_port), (self.peer, self.peer_port)),
            End::Destination => ((self.peer, self.peer_port), (self.external, self.external_port)),
        };
        key.addresses() == addresses(source.0, destination.0)
            && key.ports() == ports(source.1, destination.1)
            && key.protocol == self.protocol
            && is_of_realm
    }

    /// What a packet in this direction changes.
    #[inline(always)]
    pub fn change(&self, end: End) -> Change {
        let ip = Delta(self.ip_delta);
        let transport = Delta(self.transport_delta);
        match end {
            End::Source => Change {
                end,
                address: self.external,
                port: self.external_port,
                identification: None,
                ip,
                transport,
            },
            End::Destination => Change {
                end,
                address: self.inside,
                port: self.inside_port,
                identification: None,
                ip: ip.inverse(),
                transport: transport.inverse(),
            },
        }
    }

    /// Its flow, with the entry from its record.
    pub fn flow(&self, record: &Record) -> Flow {
        Flow {
            kind: self.kind(),
            protocol: self.protocol,
            tenant: self.tenant,
            inside: (self.inside, self.inside_port),
            external: (self.external, self.external_port),
            peer: (self.peer, self.peer_port),
            eip: EipIndex(self.eip),
            entry: EntryId(record.entry),
        }
    }
}
