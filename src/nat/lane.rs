//! What is known of one packet of the batch, from stage to stage.

use crate::base::{DropReason, InterfaceIndex, PortIndex};
use crate::nat::key::FlowKey;
use crate::policy::Snapshot;
use crate::wire::{Arrival, Datagram, ethernet};

/// Which way a packet goes after parsing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Next {
    /// It may belong to a session, and nothing about it is unusual: whole, without IP options, with hops left, not turned
    /// round in the gateway.
    #[default]
    Plain,
    /// It may belong to a session, and something about it is unusual.
    Flow,
    /// An ICMP error.
    IcmpError,
    /// A fragment that is not the first.
    LaterFragment,
    /// An ARP packet.
    Arp,
    /// Nothing more: it is dropped.
    Drop(DropReason),
}

impl Next {
    /// Whether it may belong to a session.
    #[inline(always)]
    pub const fn is_flow(self) -> bool {
        matches!(self, Self::Plain | Self::Flow)
    }
}

/// One packet of the batch.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
pub struct Lane {
    /// The hash of its [`key`](Self::key).
    pub hash: u64,
    /// The parsed packet; offsets are those in the buffer.
    pub datagram: Datagram,
    /// The tenant number of the realm that its addresses belong to.
    pub tenant: u16,
    /// The interface that it came in on.
    pub interface: InterfaceIndex,
    /// Where in the buffer the frame begins.
    pub frame: u16,
    /// The slot where its session probably is; out of range when there is none.
    pub candidate: u32,
    /// Of a packet that may make a SNAT session: its place among the batch's prospects; out of range when there is none.
    pub prospect: u16,
    /// Of a fragment: the identification that its datagram gets if it leaves with a shared EIP.
    pub identification: Option<u16>,
    /// Which way it goes.
    pub next: Next,
    /// How it came.
    pub arrival: Arrival,
    /// Whether it was sent to a link group address.
    pub is_group: bool,
}

const _: () = assert!(size_of::<Lane>() == 64);

impl Lane {
    /// No prospect: out of range.
    pub const NO_PROSPECT: u16 = u16::MAX;

    /// Its flow, as the side that it came from sees it.
    #[inline(always)]
    pub fn key(&self) -> FlowKey {
        FlowKey::of(&self.datagram, self.tenant)
    }

    /// The hops that translating takes off its TTL: none if an earlier pass has taken them.
    #[inline(always)]
    pub fn hops(&self) -> u8 {
        u8::from(self.arrival != Arrival::Hairpin)
    }
}

/// Where frames of one port and VLAN come in: the same for most packets of a batch, so it is kept from one to the next.
#[derive(Clone, Copy, Debug)]
pub struct Ingress {
    /// Port and VLAN as one number; none that there is when it is not known yet.
    place: u32,
    /// The interface.
    pub interface: InterfaceIndex,
    /// Its Ethernet address as a number.
    pub mac: u64,
    /// The tenant number of its realm.
    pub tenant: u16,
}

impl Ingress {
    /// Finds the interface of a port and a VLAN.
    pub fn find(snapshot: &Snapshot, port: PortIndex, vlan: u16) -> Option<Self> {
        let index = snapshot.interface_of(port, vlan)?;
        let interface = snapshot.interface(index)?;
        let (mac, tenant) = (ethernet::number(interface.mac), interface.realm.tenant());
        Some(Self { place: Self::place(port, vlan), interface: index, mac, tenant })
    }

    /// Whether this is the one of a port and a VLAN.
    #[inline(always)]
    pub fn is_of(&self, port: PortIndex, vlan: u16) -> bool {
        self.place == Self::place(port, vlan)
    }

    #[inline(always)]
    const fn place(port: PortIndex, vlan: u16) -> u32 {
        (port.0 as u32) << 16 | vlan as u32
    }
}

impl Default for Ingress {
    fn default() -> Self {
        // No VLAN has this number.
        let place = Self::place(PortIndex(u16::MAX), u16::MAX);
        Self { place, interface: InterfaceIndex::default(), mac: 0, tenant: 0 }
    }
}
