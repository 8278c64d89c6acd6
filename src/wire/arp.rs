//! ARP for IPv4 over Ethernet (RFC 826).

use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress};

use crate::base::DropReason;
use crate::wire::ethernet;

/// Length of an ARP packet in bytes.
pub const LEN: usize = 28;

/// An ARP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Whether it asks, or answers.
    pub is_request: bool,
    /// Who says so.
    pub sender_mac: [u8; 6],
    /// The sender's address; zero in a probe (RFC 5227 §2.1.1).
    pub sender: u32,
    /// Who is meant, in an answer.
    pub target_mac: [u8; 6],
    /// The address asked for.
    pub target: u32,
}

impl Arp {
    /// Reads the packet behind a link header.
    ///
    /// # Errors
    /// [`DropReason::ArpMalformed`].
    pub fn parse(bytes: &[u8]) -> Result<Self, DropReason> {
        const MALFORMED: DropReason = DropReason::ArpMalformed;
        let packet = ArpPacket::new_checked(bytes).map_err(|_| MALFORMED)?;
        let ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr,
            source_protocol_addr,
            target_hardware_addr,
            target_protocol_addr,
        } = ArpRepr::parse(&packet).map_err(|_| MALFORMED)?
        else {
            return Err(MALFORMED);
        };
        let is_request = match operation {
            ArpOperation::Request => true,
            ArpOperation::Reply => false,
            ArpOperation::Unknown(_) => return Err(MALFORMED),
        };
        let sender_mac = source_hardware_addr.0;
        if sender_mac[0] & 1 == 1 || sender_mac == [0; 6] {
            return Err(MALFORMED);
        }
        Ok(Self {
            is_request,
            sender_mac,
            sender: source_protocol_addr.into(),
            target_mac: target_hardware_addr.0,
            target: target_protocol_addr.into(),
        })
    }

    /// Length of its frame in bytes.
    pub fn frame_len(vlan: Option<u16>) -> usize {
        ethernet::HEADER + vlan.map_or(0, |_| ethernet::TAG) + LEN
    }

    /// Writes it as a frame of [`frame_len`](Self::frame_len) bytes to `destination`.
    pub fn write(&self, frame: &mut [u8], destination: [u8; 6], vlan: Option<u16>) {
        let (link, link_len) = ethernet::header(destination, self.sender_mac, vlan, ethernet::ARP);
        let Some((head, body)) = frame.split_at_mut_checked(link_len) else { return };
        head.copy_from_slice(&link[..link_len]);
        if body.len() < LEN {
            return;
        }
        let repr = ArpRepr::EthernetIpv4 {
            operation: if self.is_request { ArpOperation::Request } else { ArpOperation::Reply },
            source_hardware_addr: EthernetAddress(self.sender_mac),
            source_protocol_addr: self.sender.into(),
            target_hardware_addr: EthernetAddress(self.target_mac),
            target_protocol_addr: self.target.into(),
        };
        repr.emit(&mut ArpPacket::new_unchecked(body));
    }
}
