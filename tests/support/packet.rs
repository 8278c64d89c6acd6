//! Packets as plain values. Lengths and checksums are not in them: the codec writes and verifies those.

use std::fmt;
use std::net::Ipv4Addr;

/// An address from its text.
pub fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap_or_else(|_| panic!("{text} is no address"))
}

/// What of an IPv4 header a test may choose.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Ip {
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub ttl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    pub id: u16,
    pub dont_fragment: bool,
    /// Of a fragment: its offset in bytes, and whether more follow. Its body is then [`Body::Other`].
    pub fragment: Option<(u16, bool)>,
    pub options: Vec<u8>,
}

/// What an IPv4 packet carries.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Body {
    Udp { src: u16, dst: u16, checksum: bool, payload: Vec<u8> },
    Tcp(Tcp),
    Echo { reply: bool, id: u16, seq: u16, payload: Vec<u8> },
    Error { kind: u8, code: u8, rest: [u8; 4], quote: Quote },
    Other { protocol: u8, payload: Vec<u8> },
}

#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Tcp {
    pub src: u16,
    pub dst: u16,
    pub seq: u32,
    pub ack: u32,
    pub flags: Flags,
    pub window: u16,
    pub urgent: u16,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

/// The packet inside an ICMP error: a whole IP header and as much behind it as there is.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Quote {
    pub ip: Ip,
    pub protocol: u8,
    /// The total length that the quoted header states.
    pub total_len: u16,
    /// The bytes behind the IP header.
    pub transport: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Packet {
    pub ip: Ip,
    pub body: Body,
}

/// TCP control bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Flags(pub u8);

impl Flags {
    pub const FIN: Self = Self(0x01);
    pub const SYN: Self = Self(0x02);
    pub const RST: Self = Self(0x04);
    pub const PSH: Self = Self(0x08);
    pub const ACK: Self = Self(0x10);
    pub const SYN_ACK: Self = Self(0x12);
    pub const FIN_ACK: Self = Self(0x11);
    pub const RST_ACK: Self = Self(0x14);

    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const GRE: u8 = 47;

pub const UNREACHABLE: u8 = 3;
pub const REDIRECT: u8 = 5;
pub const TIME_EXCEEDED: u8 = 11;
pub const PARAMETER_PROBLEM: u8 = 12;

impl Packet {
    /// A packet with the usual header.
    pub fn new(src: Ipv4Addr, dst: Ipv4Addr, body: Body) -> Self {
        let (ttl, tos, id) = (64, 0, 0x1234);
        let ip = Ip { src, dst, ttl, tos, id, dont_fragment: false, fragment: None, options: vec![] };
        Self { ip, body }
    }

    pub fn udp(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), payload: &[u8]) -> Self {
        let body = Body::Udp { src: src.1, dst: dst.1, checksum: true, payload: payload.to_vec() };
        Self::new(src.0, dst.0, body)
    }

    pub fn tcp(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), flags: Flags, seq: u32, ack: u32) -> Self {
        let body = Body::Tcp(Tcp {
            src: src.1,
            dst: dst.1,
            seq,
            ack,
            flags,
            window: 0x7210,
            urgent: 0,
            options: vec![],
            payload: vec![],
        });
        Self::new(src.0, dst.0, body)
    }

    pub fn syn(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16)) -> Self {
        Self::tcp(src, dst, Flags::SYN, 1000, 0)
    }

    pub fn ping(src: Ipv4Addr, dst: Ipv4Addr, id: u16, seq: u16) -> Self {
        Self::new(src, dst, Body::Echo { reply: false, id, seq, payload: b"abcdefgh".to_vec() })
    }

    pub fn pong(src: Ipv4Addr, dst: Ipv4Addr, id: u16, seq: u16) -> Self {
        Self::new(src, dst, Body::Echo { reply: true, id, seq, payload: b"abcdefgh".to_vec() })
    }

    pub fn other(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, payload: &[u8]) -> Self {
        Self::new(src, dst, Body::Other { protocol, payload: payload.to_vec() })
    }

    /// An ICMP error that quotes `about`, whole or its first `bytes` bytes behind the IP header.
    pub fn error(from: Ipv4Addr, kind: u8, code: u8, about: &Packet, bytes: Option<usize>) -> Self {
        let quote = Quote::of(about, bytes);
        Self::new(from, about.ip.src, Body::Error { kind, code, rest: [0; 4], quote })
    }

    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ip.ttl = ttl;
        self
    }

    pub fn payload(mut self, bytes: &[u8]) -> Self {
        match &mut self.body {
            Body::Udp { payload, .. } | Body::Echo { payload, .. } | Body::Other { payload, .. } => {
                *payload = bytes.to_vec();
            }
            Body::Tcp(tcp) => tcp.payload = bytes.to_vec(),
            Body::Error { .. } => panic!("an ICMP error quotes, it has no payload"),
        }
        self
    }

    pub fn protocol(&self) -> u8 {
        match &self.body {
            Body::Udp { .. } => UDP,
            Body::Tcp(_) => TCP,
            Body::Echo { .. } | Body::Error { .. } => ICMP,
            Body::Other { protocol, .. } => *protocol,
        }
    }

    /// Source address and port. An echo request has its identifier here, a reply and what has no ports has zero.
    pub fn source(&self) -> (Ipv4Addr, u16) {
        let port = match &self.body {
            Body::Udp { src, .. } => *src,
            Body::Tcp(tcp) => tcp.src,
            Body::Echo { reply: false, id, .. } => *id,
            Body::Echo { .. } | Body::Error { .. } | Body::Other { .. } => 0,
        };
        (self.ip.src, port)
    }

    /// Destination address and port. An echo reply has its identifier here, a request and what has no ports has zero.
    pub fn destination(&self) -> (Ipv4Addr, u16) {
        let port = match &self.body {
            Body::Udp { dst, .. } => *dst,
            Body::Tcp(tcp) => tcp.dst,
            Body::Echo { reply: true, id, .. } => *id,
            Body::Echo { .. } | Body::Error { .. } | Body::Other { .. } => 0,
        };
        (self.ip.dst, port)
    }

    /// The same with another source.
    pub fn from(mut self, (address, port): (Ipv4Addr, u16)) -> Self {
        self.ip.src = address;
        match &mut self.body {
            Body::Udp { src, .. } => *src = port,
            Body::Tcp(tcp) => tcp.src = port,
            Body::Echo { reply: false, id, .. } => *id = port,
            Body::Echo { .. } | Body::Error { .. } | Body::Other { .. } => {}
        }
        self
    }

    /// The same with another destination.
    pub fn to(mut self, (address, port): (Ipv4Addr, u16)) -> Self {
        self.ip.dst = address;
        match &mut self.body {
            Body::Udp { dst, .. } => *dst = port,
            Body::Tcp(tcp) => tcp.dst = port,
            Body::Echo { reply: true, id, .. } => *id = port,
            Body::Echo { .. } | Body::Error { .. } | Body::Other { .. } => {}
        }
        self
    }

    /// The answer that a usual host gives.
    pub fn answer(&self) -> Self {
        let mut answer = match &self.body {
            Body::Udp { payload, .. } => Self::udp(self.destination(), self.source(), payload),
            Body::Tcp(tcp) => {
                let counted = tcp.payload.len() as u32
                    + u32::from(tcp.flags.has(Flags::SYN))
                    + u32::from(tcp.flags.has(Flags::FIN));
                let flags = match tcp.flags {
                    Flags::SYN => Flags::SYN_ACK,
                    flags if flags.has(Flags::FIN) => Flags::FIN_ACK,
                    _ => Flags::ACK,
                };
                let seq = if tcp.flags == Flags::SYN { 7000 } else { tcp.ack };
                Self::tcp(self.destination(), self.source(), flags, seq, tcp.seq.wrapping_add(counted))
            }
            Body::Echo { id, seq, payload, .. } => {
                Self::pong(self.ip.dst, self.ip.src, *id, *seq).payload(payload)
            }
            Body::Other { protocol, payload } => Self::other(self.ip.dst, self.ip.src, *protocol, payload),
            Body::Error { .. } => panic!("an ICMP error is not answered"),
        };
        answer.ip.id = self.ip.id ^ 0x5555;
        answer
    }
}

impl Packet {
    /// The packet in fragments of at most `bytes` bytes of payload (a multiple of eight), in order.
    pub fn fragments(&self, bytes: usize) -> Vec<Self> {
        let whole = self.encode();
        let payload = &whole[20 + self.ip.options.len()..];
        let count = payload.len().div_ceil(bytes);
        let fragment = |(at, part): (usize, &[u8])| {
            let mut ip = self.ip.clone();
            ip.fragment = Some(((at * bytes) as u16, at + 1 < count));
            Self { ip, body: Body::Other { protocol: self.protocol(), payload: part.to_vec() } }
        };
        payload.chunks(bytes).enumerate().map(fragment).collect()
    }

    /// The packet of which these are all fragments, in any order.
    pub fn reassemble(fragments: &[Self]) -> Result<Self, String> {
        let mut parts = fragments.to_vec();
        parts.sort_by_key(|part| part.ip.fragment);
        let first = parts.first().ok_or("no fragments")?;
        let mut payload = vec![];
        for part in &parts {
            let Body::Other { payload: bytes, .. } = &part.body else { return Err("no fragment".into()) };
            if part.ip.fragment.map(|(offset, _)| usize::from(offset)) != Some(payload.len()) {
                return Err(format!("a gap or an overlap: {fragments:?}"));
            }
            payload.extend_from_slice(bytes);
        }
        if parts.last().and_then(|last| last.ip.fragment).is_none_or(|(_, more)| more) {
            return Err("the last fragment is missing".into());
        }
        let ip = Ip { fragment: None, ..first.ip.clone() };
        let whole = Self { ip, body: Body::Other { protocol: first.protocol(), payload } };
        Self::decode(&whole.encode())
    }
}

impl Quote {
    /// A quote of `about` with its first `bytes` bytes behind the IP header, or all of it.
    pub fn of(about: &Packet, bytes: Option<usize>) -> Self {
        let whole = about.encode();
        let header = 20 + about.ip.options.len();
        let end = bytes.map_or(whole.len(), |bytes| whole.len().min(header + bytes));
        Self {
            ip: about.ip.clone(),
            protocol: about.protocol(),
            total_len: whole.len() as u16,
            transport: whole[header..end].to_vec(),
        }
    }

    fn word(&self, at: usize) -> Option<u16> {
        Some(u16::from_be_bytes([*self.transport.get(at)?, *self.transport.get(at + 1)?]))
    }

    /// Where in `transport` the port of the source is, or the identifier of an echo request.
    pub fn source_port_at(&self) -> Option<usize> {
        match (self.protocol, self.transport.first()?) {
            (TCP | UDP, _) => Some(0),
            (ICMP, 8) => Some(4),
            _ => None,
        }
    }

    /// Where in `transport` the port of the destination is, or the identifier of an echo reply.
    pub fn destination_port_at(&self) -> Option<usize> {
        match (self.protocol, self.transport.first()?) {
            (TCP | UDP, _) => Some(2),
            (ICMP, 0) => Some(4),
            _ => None,
        }
    }

    /// Source address and port of the quoted packet, as of a packet.
    pub fn source(&self) -> (Ipv4Addr, u16) {
        (self.ip.src, self.source_port_at().and_then(|at| self.word(at)).unwrap_or(0))
    }

    /// Destination address and port of the quoted packet, as of a packet.
    pub fn destination(&self) -> (Ipv4Addr, u16) {
        (self.ip.dst, self.destination_port_at().and_then(|at| self.word(at)).unwrap_or(0))
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
        let set: Vec<_> =
            names.iter().enumerate().filter(|(i, _)| self.0 >> i & 1 == 1).map(|(_, n)| *n).collect();
        f.write_str(if set.is_empty() { "none".into() } else { set.join("|") }.as_str())
    }
}

struct Bytes<'a>(&'a [u8]);

impl fmt::Debug for Bytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.len() <= 24 {
            write!(f, "\"{}\"", self.0.escape_ascii())
        } else {
            write!(f, "\"{}…\" ({} bytes)", self.0[..20].escape_ascii(), self.0.len())
        }
    }
}

impl fmt::Debug for Ip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ttl {} id {:#06x}", self.ttl, self.id)?;
        if self.tos != 0 {
            write!(f, " tos {:#04x}", self.tos)?;
        }
        if self.dont_fragment {
            f.write_str(" DF")?;
        }
        if let Some((offset, more)) = self.fragment {
            write!(f, " fragment at {offset}{}", if more { "+" } else { "" })?;
        }
        if !self.options.is_empty() {
            write!(f, " options {:02x?}", self.options)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ip { src, dst, .. } = self.ip;
        match &self.body {
            Body::Udp { src: s, dst: d, checksum, payload } => {
                write!(f, "UDP {src}:{s} > {dst}:{d} {:?}", Bytes(payload))?;
                if !checksum {
                    f.write_str(" without checksum")?;
                }
            }
            Body::Tcp(t) => {
                write!(f, "TCP {src}:{} > {dst}:{} {:?} seq {} ack {}", t.src, t.dst, t.flags, t.seq, t.ack)?;
                write!(f, " window {} urgent {}", t.window, t.urgent)?;
                if !t.options.is_empty() {
                    write!(f, " options {:02x?}", t.options)?;
                }
                write!(f, " {:?}", Bytes(&t.payload))?;
            }
            Body::Echo { reply, id, seq, payload } => {
                let what = if *reply { "reply" } else { "request" };
                write!(f, "ICMP echo {what} {src} > {dst} id {id} seq {seq} {:?}", Bytes(payload))?;
            }
            Body::Error { kind, code, rest, quote } => {
                write!(f, "ICMP error {kind}/{code} {src} > {dst} rest {rest:02x?} about {quote:?}")?;
            }
            Body::Other { protocol, payload } => {
                write!(f, "protocol {protocol} {src} > {dst} {:?}", Bytes(payload))?;
            }
        }
        write!(f, " ({:?})", self.ip)
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Packet::new(Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED, self.clone()).fmt(f)
    }
}

impl fmt::Debug for Quote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((src, s), (dst, d)) = (self.source(), self.destination());
        write!(f, "[protocol {} {src}:{s} > {dst}:{d}", self.protocol)?;
        write!(f, " length {} ({:?}) {:02x?}]", self.total_len, self.ip, self.transport)
    }
}
