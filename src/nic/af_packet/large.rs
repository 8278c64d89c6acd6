//! The place where super-frames lie while they are split: they are larger than a ring slot and than a packet buffer.

use std::os::fd::OwnedFd;

use super::gso::{Kind, Split};
use super::slot::{Slot, VNET, Vnet};
use super::{queue, sys};
use crate::base::{Checksum, PortIndex};
use crate::nic::{Burst, Cache};

/// The largest super-frame: an IP packet of 64 KiB and its link header.
const LARGEST: usize = (1 << 16) + 64;

/// One frame larger than a slot, behind its `virtio_net_hdr`.
#[derive(Debug)]
pub(super) struct Large {
    bytes: Box<[u8]>,
    /// Where the frame ends.
    end: usize,
    /// Where the frame being split starts, and how far that is.
    split: Option<(usize, Split)>,
}

impl Large {
    pub(super) fn new() -> Self {
        Self { bytes: vec![0; VNET + LARGEST].into(), end: VNET, split: None }
    }

    /// Fetches the frame of a slot, from there or from the socket's receive queue, and says what is known of it. `None` if
    /// it cannot be had, or is larger than any frame.
    pub(super) fn fetch(&mut self, slot: &Slot<'_>, receiver: &OwnedFd) -> Option<Vnet> {
        let (vnet, end) = if slot.is_apart {
            let end = sys::receive(receiver, &mut self.bytes).ok()?;
            (Vnet::read(&self.bytes[..VNET])?, end)
        } else {
            let end = VNET + slot.frame.len();
            self.bytes.get_mut(VNET..end)?.copy_from_slice(slot.frame);
            (slot.vnet, end)
        };
        self.end = end;
        (VNET + queue::SHORTEST..=self.bytes.len()).contains(&end).then_some(vnet)
    }

    /// The bytes of the frame that was fetched.
    pub(super) fn frame(&self) -> &[u8] {
        &self.bytes[VNET..self.end]
    }

    /// Puts the VLAN tag back into the frame that was fetched, and begins to split it. `false` if it is not of that kind.
    pub(super) fn begin(&mut self, tag: Option<[u8; 4]>, kind: Kind, size: usize) -> bool {
        let mut start = VNET;
        if let Some(tag) = tag {
            // The addresses move towards the front, over the header that has been read.
            start -= queue::TAG;
            self.bytes.copy_within(VNET..VNET + queue::ADDRESSES, start);
            self.bytes[start + queue::ADDRESSES..VNET + queue::ADDRESSES].copy_from_slice(&tag);
        }
        self.split = Split::new(&self.bytes[start..self.end], kind, size).map(|split| (start, split));
        self.split.is_some()
    }

    /// Whether a frame is being split.
    #[inline]
    pub(super) fn is_busy(&self) -> bool {
        self.split.is_some()
    }

    /// Forgets the rest of the frame that is being split.
    pub(super) fn forget(&mut self) {
        self.split = None;
    }

    /// Makes segments while there is room for them, and says how many were too large for a packet buffer.
    pub(super) fn split(&mut self, port: PortIndex, cache: &mut Cache, burst: &mut Burst) -> u64 {
        let mut refused = 0;
        let Some((start, split)) = &mut self.split else { return refused };
        let frame = &self.bytes[*start..self.end];
        while !split.is_done() {
            if burst.is_full() {
                return refused;
            }
            let Some(mut segment) = cache.take() else { return refused };
            if split.next(frame, &mut segment) {
                segment.port = port;
                // Its sender's kernel vouches for the contents, or the device that merged it.
                segment.checksum = Checksum::Verified;
                burst.push(segment);
            } else {
                refused += 1;
                cache.give(segment);
            }
        }
        self.split = None;
        refused
    }
}
