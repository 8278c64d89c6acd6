//! A frame in its buffer, as the engine sees it.

use crate::base::{Checksum, PortIndex};
use crate::wire::ethernet::LinkHeader;

/// Bytes of a [`Front`].
const FRONT: usize = size_of::<LinkHeader>() + 20 + 20;

/// How a packet came before the engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Arrival {
    /// Received from a port.
    #[default]
    Wire,
    /// A fragment, received by another worker and handed to this one, where the fragments of its datagram meet.
    Fragment,
    /// Received by another worker and handed to this one, which owns its session.
    Handed,
    /// Sent by a private host to an EIP of this gateway: its source is translated already, and it is treated as if it
    /// came from the outside (RFC 4787 REQ-9). It was handed over by another worker.
    Hairpin,
}

/// A frame in its buffer. The engine rewrites it in place and says in a verdict where in the buffer it then lies.
#[derive(Debug)]
pub struct Packet<'a> {
    /// The whole buffer: headroom, frame, tailroom.
    pub buffer: &'a mut [u8],
    /// Where the frame starts in the buffer.
    pub head: usize,
    /// Length of the frame in bytes. `head + len` lies within the buffer.
    pub len: usize,
    /// The port it came in on.
    pub port: PortIndex,
    /// What is known of its transport checksum.
    pub checksum: Checksum,
    /// How it came here.
    pub arrival: Arrival,
}

/// What translating touches of a packet without IP options, found with one look at the buffer's length.
#[derive(Debug)]
pub struct Front<'a> {
    /// Where the next link header will lie.
    pub link: &'a mut LinkHeader,
    /// The IP header.
    pub header: &'a mut [u8; 20],
    /// As much as the longest transport header takes, whether the packet reaches that far or not.
    pub segment: &'a mut [u8; 20],
}

impl<'a> Packet<'a> {
    /// The frame of `len` bytes at `head` in `buffer`, cut to what the buffer holds.
    pub fn new(buffer: &'a mut [u8], head: usize, len: usize, port: PortIndex, checksum: Checksum) -> Self {
        let head = head.min(buffer.len());
        let len = len.min(buffer.len() - head);
        Self { buffer, head, len, port, checksum, arrival: Arrival::Wire }
    }

    /// The same, arrived in another way.
    pub fn arrived(mut self, arrival: Arrival) -> Self {
        self.arrival = arrival;
        self
    }

    /// The front of the IP packet at `l3`; none where the buffer has less room before or after it.
    #[inline(always)]
    pub fn front(&mut self, l3: u16) -> Option<Front<'_>> {
        let start = usize::from(l3).checked_sub(size_of::<LinkHeader>())?;
        let (front, _) = self.buffer.get_mut(start..)?.split_first_chunk_mut::<FRONT>()?;
        let (link, rest) = front.split_first_chunk_mut()?;
        let (header, rest) = rest.split_first_chunk_mut()?;
        Some(Front { link, header, segment: rest.first_chunk_mut()? })
    }

    /// The frame's bytes.
    #[inline]
    pub fn frame(&self) -> &[u8] {
        &self.buffer[self.head..self.head + self.len]
    }

    /// The frame's bytes, to change.
    #[inline]
    pub fn frame_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.head..self.head + self.len]
    }
}
