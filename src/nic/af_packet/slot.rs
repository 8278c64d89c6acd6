//! A received frame in its ring slot: what the kernel says of it.

use super::gso::{Kind, Layout};
use crate::base::Checksum;

/// Length of `struct virtio_net_hdr`, which lies in front of the frame.
pub(super) const VNET: usize = 10;

const NEEDS_CHECKSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_UDP_L4: u8 = 5;
/// A bit beside the type: the segments may say that there was congestion.
const GSO_ECN: u8 = 0x80;

/// `struct tpacket2_hdr`, of which the status is read apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot<'a> {
    /// What of the frame lies in the slot.
    pub(super) frame: &'a [u8],
    /// Length of the frame in bytes.
    pub(super) len: usize,
    /// The VLAN tag that the kernel took out of the frame.
    pub(super) tag: Option<[u8; 4]>,
    /// Whether the whole frame waits in the socket's receive queue, being too large for a slot.
    pub(super) is_apart: bool,
    pub(super) vnet: Vnet,
}

impl<'a> Slot<'a> {
    /// Reads a slot: its status, and the bytes behind that. `None` if they make no sense.
    #[inline]
    pub(super) fn read(status: u32, bytes: &'a [u8]) -> Option<Self> {
        let number = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let long =
            |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize;
        if bytes.len() < size_of::<libc::tpacket2_hdr>() {
            return None;
        }
        // The offsets of the structure, less the status.
        let (len, captured, start, tci, tpid) =
            (long(0), long(4), usize::from(number(8)), number(20), number(22));
        let start = start.checked_sub(size_of::<u32>())?;
        let frame = bytes.get(start..start + captured)?;
        let vnet = Vnet::read(bytes.get(start.checked_sub(VNET)?..start)?)?;
        let tag = (status & libc::TP_STATUS_VLAN_VALID != 0).then(|| {
            let tpid = if status & libc::TP_STATUS_VLAN_TPID_VALID != 0 { tpid } else { 0x8100 };
            let ([a, b], [c, d]) = (tpid.to_be_bytes(), tci.to_be_bytes());
            [a, b, c, d]
        });
        let is_apart = status & libc::TP_STATUS_COPY != 0;
        (is_apart || captured == len).then_some(Self { frame, len, tag, is_apart, vnet })
    }
}

/// `struct virtio_net_hdr`: what a device would have to do to the frame, or has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Vnet {
    flags: u8,
    gso_type: u8,
    gso_size: u16,
    start: u16,
    offset: u16,
}

/// What is to be done with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Todo {
    /// Nothing: this is known of its checksum.
    Nothing(Checksum),
    /// A checksum that covers the bytes from `start` on must be completed `offset` bytes behind that.
    Complete {
        /// Where the covered bytes start.
        start: usize,
        /// The checksum's place, counted from there.
        offset: usize,
    },
    /// It must be split into segments of `size` bytes of payload.
    Split(Kind, usize),
    /// It cannot be used.
    Refuse,
}

impl Vnet {
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let &[flags, gso_type, _, _, s0, s1, c0, c1, o0, o1] = bytes else { return None };
        let number = |a, b| u16::from_ne_bytes([a, b]);
        Some(Self {
            flags,
            gso_type,
            gso_size: number(s0, s1),
            start: number(c0, c1),
            offset: number(o0, o1),
        })
    }

    /// What is to be done with `frame`, whose VLAN tag is still out of it.
    #[inline]
    pub(super) fn todo(self, frame: &[u8]) -> Todo {
        match self.gso_type & !GSO_ECN {
            GSO_NONE => self.todo_checksum(frame),
            GSO_TCPV4 => Todo::Split(Kind::Tcp, self.gso_size.into()),
            GSO_UDP_L4 => Todo::Split(Kind::Udp, self.gso_size.into()),
            _ => Todo::Refuse,
        }
    }

    #[inline]
    fn todo_checksum(self, frame: &[u8]) -> Todo {
        if self.flags & NEEDS_CHECKSUM == 0 {
            let verified = self.flags & DATA_VALID != 0;
            return Todo::Nothing(if verified { Checksum::Verified } else { Checksum::Unverified });
        }
        let (start, offset) = (usize::from(self.start), usize::from(self.offset));
        // The unfinished checksum may be that of a packet inside a tunnel's, which nobody would look for.
        let is_own = Layout::of(frame).is_some_and(|layout| {
            layout.transport == start && matches!((layout.protocol, offset), (6, 16) | (17, 6))
        });
        if is_own { Todo::Nothing(Checksum::Partial) } else { Todo::Complete { start, offset } }
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    fn frame() -> Vec<u8> {
        let mut bytes = Vec::new();
        let builder =
            PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9).udp(1, 2);
        builder.write(&mut bytes, b"payload").unwrap();
        bytes
    }

    fn vnet(flags: u8, gso_type: u8, gso_size: u16, start: u16, offset: u16) -> Vnet {
        Vnet { flags, gso_type, gso_size, start, offset }
    }

    #[test]
    fn what_is_to_be_done() {
        let frame = frame();
        let todo = |vnet: Vnet| vnet.todo(&frame);
        assert_eq!(todo(vnet(0, 0, 0, 0, 0)), Todo::Nothing(Checksum::Unverified));
        assert_eq!(todo(vnet(2, 0, 0, 0, 0)), Todo::Nothing(Checksum::Verified));
        assert_eq!(todo(vnet(1, 0, 0, 34, 6)), Todo::Nothing(Checksum::Partial));
        assert_eq!(todo(vnet(1, 0, 0, 34, 16)), Todo::Complete { start: 34, offset: 16 });
        assert_eq!(todo(vnet(1, 0, 0, 84, 6)), Todo::Complete { start: 84, offset: 6 });
        assert_eq!(todo(vnet(1, 0x81, 1448, 34, 16)), Todo::Split(Kind::Tcp, 1448));
        assert_eq!(todo(vnet(1, 5, 1000, 34, 6)), Todo::Split(Kind::Udp, 1000));
        assert_eq!(todo(vnet(1, 3, 1000, 34, 6)), Todo::Refuse);
        assert_eq!(todo(vnet(1, 4, 1000, 54, 16)), Todo::Refuse);
    }

    /// A slot as the kernel fills it, without the status.
    fn slot(len: u32, captured: u32, tci: u16, tpid: u16) -> Vec<u8> {
        let frame = frame();
        let mut bytes = vec![0; 200];
        let mut put = |at: usize, value: &[u8]| bytes[at - 4..at - 4 + value.len()].copy_from_slice(value);
        put(4, &len.to_ne_bytes());
        put(8, &captured.to_ne_bytes());
        put(12, &90_u16.to_ne_bytes());
        put(24, &tci.to_ne_bytes());
        put(26, &tpid.to_ne_bytes());
        put(80, &[1, 0, 0, 0, 0, 0]);
        put(86, &34_u16.to_ne_bytes());
        put(88, &6_u16.to_ne_bytes());
        put(90, &frame);
        bytes
    }

    #[test]
    fn a_slot_is_read() {
        let frame = frame();
        let len = frame.len() as u32;
        let (user, tagged, tpid, apart) = (1, 0x10, 0x40, 2);
        let bytes = slot(len, len, 5, 0x88a8);
        let read = Slot::read(user, &bytes).unwrap();
        assert_eq!((read.frame, read.len, read.tag, read.is_apart), (&frame[..], frame.len(), None, false));
        assert_eq!(read.vnet.todo(read.frame), Todo::Nothing(Checksum::Partial));
        assert_eq!(Slot::read(user | tagged, &bytes).unwrap().tag, Some([0x81, 0, 0, 5]));
        assert_eq!(Slot::read(user | tagged | tpid, &bytes).unwrap().tag, Some([0x88, 0xa8, 0, 5]));
        // Cut off, unless the whole frame is elsewhere.
        let bytes = slot(len + 100, len, 0, 0);
        assert_eq!(Slot::read(user, &bytes), None);
        assert!(Slot::read(user | apart, &bytes).unwrap().is_apart);
        // Beyond the slot.
        assert_eq!(Slot::read(user, &slot(200, 200, 0, 0)), None);
        assert_eq!(Slot::read(user, &bytes[..20]), None);
    }
}
