//! Packets to bytes and back. etherparse computes and verifies every length and checksum, so the judge of what the
//! gateway sends is not the gateway's own code.

use std::net::Ipv4Addr;

use etherparse::checksum::Sum16BitWords;
use etherparse::{
    ArpEthIpv4Packet, ArpOperation, IpNumber, Ipv4Header, Ipv4HeaderSlice, TcpHeader, TcpHeaderSlice,
    UdpHeader,
};

use super::packet::{Body, Flags, ICMP, Ip, Packet, Quote, TCP, Tcp, UDP};

/// An Ethernet address.
pub type Mac = [u8; 6];

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_VLAN: u16 = 0x8100;

/// A frame's link header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    pub dst: Mac,
    pub src: Mac,
    pub vlan: Option<u16>,
}

/// An ARP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    pub request: bool,
    pub sender: (Mac, Ipv4Addr),
    pub target: (Mac, Ipv4Addr),
}

/// What a frame carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Ip(Packet),
    Arp(Arp),
}

fn header(ip: &Ip, protocol: u8, payload_len: usize) -> Ipv4Header {
    let mut header =
        Ipv4Header::new(payload_len as u16, ip.ttl, IpNumber(protocol), ip.src.octets(), ip.dst.octets())
            .expect("the length fits");
    header.options = ip.options.as_slice().try_into().expect("whole words of options");
    header.total_len = (header.header_len() + payload_len) as u16;
    header.dscp = (ip.tos >> 2).try_into().expect("six bits");
    header.ecn = (ip.tos & 3).try_into().expect("two bits");
    header.identification = ip.id;
    header.dont_fragment = ip.dont_fragment;
    if let Some((offset, more)) = ip.fragment {
        header.fragment_offset = (offset / 8).try_into().expect("thirteen bits");
        header.more_fragments = more;
    }
    header
}

fn write_header(mut header: Ipv4Header) -> Vec<u8> {
    header.header_checksum = header.calc_header_checksum();
    header.to_bytes().to_vec()
}

impl Packet {
    /// The packet's bytes with right lengths and checksums.
    pub fn encode(&self) -> Vec<u8> {
        let body = match &self.body {
            Body::Udp { src, dst, checksum, payload } => {
                let ip = header(&self.ip, UDP, 8 + payload.len());
                let udp = if *checksum {
                    UdpHeader::with_ipv4_checksum(*src, *dst, &ip, payload)
                } else {
                    UdpHeader::without_ipv4_checksum(*src, *dst, payload.len())
                };
                [&udp.expect("the length fits").to_bytes()[..], payload].concat()
            }
            Body::Tcp(tcp) => {
                let mut head = TcpHeader::new(tcp.src, tcp.dst, tcp.seq, tcp.window);
                head.acknowledgment_number = tcp.ack;
                let has = |bit: u8| tcp.flags.0 & bit != 0;
                (head.fin, head.syn, head.rst, head.psh) = (has(1), has(2), has(4), has(8));
                (head.ack, head.urg, head.ece, head.cwr) = (has(16), has(32), has(64), has(128));
                head.urgent_pointer = tcp.urgent;
                head.set_options_raw(&tcp.options).expect("whole words of options");
                let ip = header(&self.ip, TCP, head.header_len() + tcp.payload.len());
                head.checksum = head.calc_checksum_ipv4(&ip, &tcp.payload).expect("the length fits");
                [&head.to_bytes()[..], &tcp.payload].concat()
            }
            Body::Echo { reply, id, seq, payload } => {
                let [i0, i1] = id.to_be_bytes();
                let [s0, s1] = seq.to_be_bytes();
                icmp(if *reply { 0 } else { 8 }, 0, [i0, i1, s0, s1], payload)
            }
            Body::Error { kind, code, rest, quote } => icmp(*kind, *code, *rest, &quote.encode()),
            Body::Other { payload, .. } => payload.clone(),
        };
        let mut bytes = write_header(header(&self.ip, self.protocol(), body.len()));
        bytes.extend(body);
        bytes
    }

    /// Reads a packet, and refuses it with a reason if a length or a checksum in it is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let (ip, protocol, head) = decode_header(bytes)?;
        if usize::from(head.total_len()) != bytes.len() {
            return Err(format!("total length {} in {} bytes", head.total_len(), bytes.len()));
        }
        let payload = &bytes[head.slice().len()..];
        let body = match protocol {
            _ if ip.fragment.is_some() => Body::Other { protocol, payload: payload.to_vec() },
            UDP => decode_udp(&ip, payload)?,
            TCP => decode_tcp(&ip, payload)?,
            ICMP => decode_icmp(payload)?,
            _ => Body::Other { protocol, payload: payload.to_vec() },
        };
        Ok(Self { ip, body })
    }
}

impl Quote {
    /// The quote's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut head = header(&self.ip, self.protocol, 0);
        head.total_len = self.total_len;
        let mut bytes = write_header(head);
        bytes.extend(&self.transport);
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let (ip, protocol, head) = decode_header(bytes).map_err(|e| format!("quoted: {e}"))?;
        let transport = bytes[head.slice().len()..].to_vec();
        Ok(Self { ip, protocol, total_len: head.total_len(), transport })
    }
}

fn icmp(kind: u8, code: u8, rest: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut bytes = [&[kind, code, 0, 0], &rest[..], payload].concat();
    let checksum = Sum16BitWords::new().add_slice(&bytes).ones_complement();
    // The sum is kept in memory order, as the slice was read.
    bytes[2..4].copy_from_slice(&checksum.to_ne_bytes());
    bytes
}

/// Reads an IPv4 header and verifies its checksum.
pub fn decode_header(bytes: &[u8]) -> Result<(Ip, u8, Ipv4HeaderSlice<'_>), String> {
    let head = Ipv4HeaderSlice::from_slice(bytes).map_err(|e| e.to_string())?;
    // Over the bytes as they are: the reserved flag counts too.
    if Sum16BitWords::new().add_slice(head.slice()).ones_complement() != 0 {
        return Err(format!("wrong IP header checksum {:#06x}", head.header_checksum()));
    }
    let ip = Ip {
        src: head.source_addr(),
        dst: head.destination_addr(),
        ttl: head.ttl(),
        tos: head.dcp().value() << 2 | head.ecn().value(),
        id: head.identification(),
        dont_fragment: head.dont_fragment(),
        fragment: head
            .is_fragmenting_payload()
            .then(|| (head.fragments_offset().value() * 8, head.more_fragments())),
        options: head.options().to_vec(),
    };
    Ok((ip, head.protocol().0, head))
}

fn decode_udp(ip: &Ip, bytes: &[u8]) -> Result<Body, String> {
    let (head, payload) = UdpHeader::from_slice(bytes).map_err(|e| e.to_string())?;
    if usize::from(head.length) != bytes.len() {
        return Err(format!("UDP length {} in {} bytes", head.length, bytes.len()));
    }
    let right = head.calc_checksum_ipv4_raw(ip.src.octets(), ip.dst.octets(), payload);
    let right = right.map_err(|e| e.to_string())?;
    if head.checksum != 0 && head.checksum != right {
        return Err(format!("UDP checksum {:#06x} instead of {right:#06x}", head.checksum));
    }
    Ok(Body::Udp {
        src: head.source_port,
        dst: head.destination_port,
        checksum: head.checksum != 0,
        payload: payload.to_vec(),
    })
}

fn decode_tcp(ip: &Ip, bytes: &[u8]) -> Result<Body, String> {
    let head = TcpHeaderSlice::from_slice(bytes).map_err(|e| e.to_string())?;
    let payload = &bytes[head.slice().len()..];
    let right = head.calc_checksum_ipv4_raw(ip.src.octets(), ip.dst.octets(), payload);
    let right = right.map_err(|e| e.to_string())?;
    if head.checksum() != right {
        return Err(format!("TCP checksum {:#06x} instead of {right:#06x}", head.checksum()));
    }
    Ok(Body::Tcp(Tcp {
        src: head.source_port(),
        dst: head.destination_port(),
        seq: head.sequence_number(),
        ack: head.acknowledgment_number(),
        flags: Flags(bytes[13]),
        window: head.window_size(),
        urgent: head.urgent_pointer(),
        options: head.options().to_vec(),
        payload: payload.to_vec(),
    }))
}

fn decode_icmp(bytes: &[u8]) -> Result<Body, String> {
    let [kind, code, _, _, r0, r1, r2, r3, ..] = *bytes else {
        return Err(format!("ICMP of {} bytes", bytes.len()));
    };
    if Sum16BitWords::new().add_slice(bytes).ones_complement() != 0 {
        return Err("wrong ICMP checksum".into());
    }
    let payload = &bytes[8..];
    Ok(match kind {
        0 | 8 => Body::Echo {
            reply: kind == 0,
            id: u16::from_be_bytes([r0, r1]),
            seq: u16::from_be_bytes([r2, r3]),
            payload: payload.to_vec(),
        },
        3 | 4 | 5 | 11 | 12 => {
            Body::Error { kind, code, rest: [r0, r1, r2, r3], quote: Quote::decode(payload)? }
        }
        _ => Body::Other { protocol: ICMP, payload: bytes.to_vec() },
    })
}

/// A frame around `payload`.
pub fn frame(link: Link, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = [link.dst, link.src].concat();
    if let Some(vlan) = link.vlan {
        bytes.extend(ETHERTYPE_VLAN.to_be_bytes());
        bytes.extend(vlan.to_be_bytes());
    }
    bytes.extend(ethertype.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A frame around an IPv4 packet.
pub fn ip_frame(link: Link, packet: &Packet) -> Vec<u8> {
    frame(link, ETHERTYPE_IPV4, &packet.encode())
}

/// A frame around an ARP packet.
pub fn arp_frame(link: Link, arp: &Arp) -> Vec<u8> {
    let packet = ArpEthIpv4Packet {
        operation: if arp.request { ArpOperation::REQUEST } else { ArpOperation::REPLY },
        sender_mac: arp.sender.0,
        sender_ipv4: arp.sender.1.octets(),
        target_mac: arp.target.0,
        target_ipv4: arp.target.1.octets(),
    };
    frame(link, ETHERTYPE_ARP, &packet.to_bytes())
}

/// The link header of a frame, its EtherType and what is behind.
pub fn split_frame(bytes: &[u8]) -> Result<(Link, u16, &[u8]), String> {
    let short = || format!("frame of {} bytes", bytes.len());
    let (dst, rest) = bytes.split_first_chunk().ok_or_else(short)?;
    let (src, rest) = rest.split_first_chunk().ok_or_else(short)?;
    let (kind, mut rest) = rest.split_first_chunk().ok_or_else(short)?;
    let mut kind = u16::from_be_bytes(*kind);
    let mut vlan = None;
    if kind == ETHERTYPE_VLAN {
        let (tag, after) = rest.split_first_chunk().ok_or_else(short)?;
        let (inner, after) = after.split_first_chunk().ok_or_else(short)?;
        vlan = Some(u16::from_be_bytes(*tag) & 0xfff);
        (kind, rest) = (u16::from_be_bytes(*inner), after);
    }
    Ok((Link { dst: *dst, src: *src, vlan }, kind, rest))
}

/// Reads a frame that the gateway sent, and says what is wrong with it if something is.
pub fn decode_frame(bytes: &[u8]) -> Result<(Link, Content), String> {
    let (link, kind, rest) = split_frame(bytes)?;
    let content = match kind {
        ETHERTYPE_IPV4 => Content::Ip(Packet::decode(rest)?),
        ETHERTYPE_ARP => {
            let arp = etherparse::ArpPacketSlice::from_slice(rest).map_err(|e| e.to_string())?;
            let arp = arp.to_packet().try_eth_ipv4().map_err(|e| e.to_string())?;
            Content::Arp(Arp {
                request: arp.operation == ArpOperation::REQUEST,
                sender: (arp.sender_mac, arp.sender_ipv4.into()),
                target: (arp.target_mac, arp.target_ipv4.into()),
            })
        }
        _ => return Err(format!("EtherType {kind:#06x}")),
    };
    Ok((link, content))
}
