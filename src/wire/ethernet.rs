//! Ethernet II and 802.1Q.

use crate::base::DropReason;
use crate::wire::bytes::{get_u16, put, put_u16};

/// Length of an untagged header in bytes.
pub const HEADER: usize = 14;
/// Length of a VLAN tag in bytes.
pub const TAG: usize = 4;
/// Room for the longest header, which may be shorter: it then lies at the end.
pub type LinkHeader = [u8; HEADER + TAG];

/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// EtherType of an 802.1Q tag.
pub const VLAN: u16 = 0x8100;
/// The broadcast address.
pub const BROADCAST: [u8; 6] = [0xff; 6];

/// The bits of an address in a number.
const ADDRESS: u64 = (1 << 48) - 1;

/// An Ethernet address as a number, its first byte lowest: compared at once.
pub const fn number(address: [u8; 6]) -> u64 {
    let mut bytes = [0; 8];
    let (front, _) = bytes.split_at_mut(6);
    front.copy_from_slice(&address);
    u64::from_le_bytes(bytes)
}

/// The link header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Destination address as a number: see [`number`].
    pub destination: u64,
    /// VLAN identifier, 0 when untagged or priority-tagged.
    pub vlan: u16,
    /// EtherType of what follows.
    pub ether_type: u16,
    /// Length of the header in bytes.
    pub len: usize,
}

impl Link {
    /// Reads the link header.
    ///
    /// # Errors
    /// [`DropReason::FrameTooShort`].
    #[inline(always)]
    pub fn parse(frame: &[u8]) -> Result<Self, DropReason> {
        let Some(header) = frame.first_chunk::<HEADER>() else {
            return Err(DropReason::FrameTooShort);
        };
        // One load for eight bytes, of which two belong to the source address.
        let (first, _) = header.as_chunks::<8>();
        let destination = u64::from_le_bytes(first[0]) & ADDRESS;
        let ether_type = u16::from_be_bytes([header[12], header[13]]);
        if ether_type != VLAN {
            return Ok(Self { destination, vlan: 0, ether_type, len: HEADER });
        }
        if frame.len() < HEADER + TAG {
            return Err(DropReason::FrameTooShort);
        }
        let vlan = get_u16(frame, 14) & 0x0fff;
        Ok(Self { destination, vlan, ether_type: get_u16(frame, 16), len: HEADER + TAG })
    }

    /// Whether the destination is a group address (broadcast included).
    #[inline]
    pub const fn is_group(&self) -> bool {
        self.destination & 1 == 1
    }
}

/// Builds a link header: its bytes and its length.
pub fn header(
    destination: [u8; 6],
    source: [u8; 6],
    vlan: Option<u16>,
    ether_type: u16,
) -> (LinkHeader, usize) {
    let mut bytes = [0; HEADER + TAG];
    put(&mut bytes, 0, &destination);
    put(&mut bytes, 6, &source);
    let len = match vlan {
        None => HEADER,
        Some(vlan) => {
            put_u16(&mut bytes, 12, VLAN);
            put_u16(&mut bytes, 14, vlan & 0x0fff);
            HEADER + TAG
        }
    };
    put_u16(&mut bytes, len - 2, ether_type);
    (bytes, len)
}
