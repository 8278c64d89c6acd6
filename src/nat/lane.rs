//! What is known of one packet of the batch, from stage to stage.

use crate::base::{DropReason, InterfaceIndex};
use crate::nat::key::FlowKey;
use crate::wire::{Arrival, Datagram};

/// Which way a packet goes after parsing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Next {
    /// It may belong to a session.
    #[default]
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

/// One packet of the batch.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lane {
    /// Its flow, as the side that it came from sees it.
    pub key: FlowKey,
    /// The hash of `key`.
    pub hash: u64,
    /// The parsed packet; offsets are those in the buffer.
    pub datagram: Datagram,
    /// The interface that it came in on.
    pub interface: InterfaceIndex,
    /// Where in the buffer the frame begins.
    pub frame: u16,
    /// The slot where its session probably is; out of range when there is none.
    pub candidate: u32,
    /// Which way it goes.
    pub next: Next,
    /// How it came.
    pub arrival: Arrival,
    /// Whether it was sent to a link group address.
    pub is_group: bool,
}

impl Lane {
    /// The hops that translating takes off its TTL: none if an earlier pass has taken them.
    #[inline(always)]
    pub fn hops(&self) -> u8 {
        u8::from(self.arrival != Arrival::Hairpin)
    }
}
