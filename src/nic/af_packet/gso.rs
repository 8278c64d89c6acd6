//! Splits what a kernel left to its device to split: a TCP or UDP super-frame (GSO, or merged by GRO) becomes frames
//! as they would have come over a cable, with lengths, identifications, sequence numbers, flags and checksums of
//! their own.

use super::checksum;
use crate::nic::Frame;
use crate::nic::pool::HEADROOM;

const IPV4: u16 = 0x0800;
const VLANS: [u16; 2] = [0x8100, 0x88a8];

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// What a super-frame is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// TCP segments.
    Tcp,
    /// UDP datagrams of one size, the last one perhaps shorter.
    Udp,
}

impl Kind {
    const fn protocol(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// Where the transport header has its checksum.
    const fn checksum(self) -> usize {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
        }
    }
}

/// Where the headers of an IPv4 frame end; any VLAN tags are skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Where the IPv4 header starts.
    pub(super) ip: usize,
    /// Where the transport header starts.
    pub(super) transport: usize,
    /// The IPv4 protocol.
    pub(super) protocol: u8,
}

impl Layout {
    /// Finds the transport header. `None` if the frame is too short for its headers, not IPv4, or a fragment.
    pub(super) fn of(frame: &[u8]) -> Option<Self> {
        let mut ip = 14;
        let mut ether_type = word(frame, 12)?;
        for _ in 0..2 {
            if VLANS.contains(&ether_type) {
                ether_type = word(frame, ip + 2)?;
                ip += 4;
            }
        }
        let header = frame.get(ip..ip + 20)?;
        let len = usize::from(header[0] & 0x0f) * 4;
        let fragment = word(header, 6)? & 0x3fff != 0;
        let right = ether_type == IPV4 && header[0] >> 4 == 4 && len >= 20 && !fragment;
        let transport = ip + len;
        (right && transport <= frame.len()).then_some(Self { ip, transport, protocol: header[9] })
    }
}

/// A super-frame being split. The frame's bytes are passed to each call, and must be the same each time.
#[derive(Debug)]
pub(super) struct Split {
    kind: Kind,
    ip: usize,
    transport: usize,
    payload: usize,
    end: usize,
    /// Bytes of payload in a segment.
    size: usize,
    /// Segments made so far.
    made: usize,
}

impl Split {
    /// Begins to split `frame`, whose segments carry `size` bytes. `None` if it is not an IPv4 frame of that kind.
    pub(super) fn new(frame: &[u8], kind: Kind, size: usize) -> Option<Self> {
        let Layout { ip, transport, protocol } = Layout::of(frame)?;
        let header = match kind {
            Kind::Tcp => usize::from(*frame.get(transport + 12)? >> 4) * 4,
            Kind::Udp => 8,
        };
        let least = match kind {
            Kind::Tcp => 20,
            Kind::Udp => 8,
        };
        let payload = transport + header;
        // The length field is zero where it could not hold the length.
        let end = match usize::from(word(frame, ip + 2)?) {
            0 => frame.len(),
            total => ip + total,
        };
        let right = protocol == kind.protocol()
            && header >= least
            && payload <= end
            && end <= frame.len()
            && size > 0;
        right.then_some(Self { kind, ip, transport, payload, end, size, made: 0 })
    }

    /// Whether all segments are made.
    pub(super) fn is_done(&self) -> bool {
        self.made > 0 && self.payload + self.made * self.size >= self.end
    }

    /// Makes the next segment in `out`; `false` if it does not fit there, and is skipped.
    pub(super) fn next(&mut self, frame: &[u8], out: &mut Frame) -> bool {
        let index = self.made;
        self.made += 1;
        let start = (self.payload + index * self.size).min(self.end);
        let stop = (start + self.size).min(self.end);
        let len = self.payload + stop - start;
        if HEADROOM + len > out.slot_bytes().len() {
            return false;
        }
        let (Some(headers), Some(payload)) = (frame.get(..self.payload), frame.get(start..stop)) else {
            return false;
        };
        out.set_bounds(HEADROOM, len);
        let (out_headers, out_payload) = out.bytes_mut().split_at_mut(self.payload);
        out_headers.copy_from_slice(headers);
        out_payload.copy_from_slice(payload);
        self.adjust(out.bytes_mut(), index, start, stop == self.end);
        true
    }

    /// Turns the super-frame's headers, in front of a segment's payload, into the segment's own.
    fn adjust(&self, segment: &mut [u8], index: usize, start: usize, last: bool) {
        let packet = &mut segment[self.ip..];
        let total = packet.len() as u16;
        put(packet, 2, total);
        let identification = u16::from_be_bytes([packet[4], packet[5]]);
        put(packet, 4, identification.wrapping_add(index as u16));
        let (header, transport) = packet.split_at_mut(self.transport - self.ip);
        put(header, 10, 0);
        let sum = checksum::of(header, 0);
        put(header, 10, sum);

        match self.kind {
            Kind::Tcp => {
                let sequence = u32::from_be_bytes([transport[4], transport[5], transport[6], transport[7]]);
                let sequence = sequence.wrapping_add((start - self.payload) as u32);
                transport[4..8].copy_from_slice(&sequence.to_be_bytes());
                if !last {
                    transport[13] &= !(FIN | PSH);
                }
                if index > 0 {
                    transport[13] &= !CWR;
                }
            }
            Kind::Udp => put(transport, 4, transport.len() as u16),
        }
        put(transport, self.kind.checksum(), 0);
        let addresses = checksum::sum(&header[12..20], 0);
        let pseudo = addresses
            + checksum::number(u16::from(self.kind.protocol()))
            + checksum::number(transport.len() as u16);
        let sum = match (self.kind, checksum::of(transport, pseudo)) {
            // Zero would say that there is none (RFC 768).
            (Kind::Udp, 0) => 0xffff,
            (_, sum) => sum,
        };
        put(transport, self.kind.checksum(), sum);
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use etherparse::{
        EtherType, Ethernet2Header, IpNumber, Ipv4Header, PacketBuilder, SingleVlanHeader, SlicedPacket,
        TcpHeader, TransportSlice, UdpHeader, VlanId,
    };
    use proptest::prelude::*;

    use super::*;
    use crate::nic::Pool;

    fn payload(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 7 + i / 256) as u8).collect()
    }

    fn link(vlan: bool) -> Vec<u8> {
        let ether_type = if vlan { EtherType::VLAN_TAGGED_FRAME } else { EtherType::IPV4 };
        let mut bytes = Vec::new();
        Ethernet2Header { source: [2; 6], destination: [4; 6], ether_type }.write(&mut bytes).unwrap();
        if vlan {
            let tag = SingleVlanHeader {
                vlan_id: VlanId::try_new(7).unwrap(),
                ether_type: EtherType::IPV4,
                ..SingleVlanHeader::default()
            };
            tag.write(&mut bytes).unwrap();
        }
        bytes
    }

    /// A frame with a transport header of `transport` bytes and wrong checksums, as a kernel leaves them.
    fn super_frame(vlan: bool, ip_options: usize, protocol: u8, transport: &[u8], data: &[u8]) -> Vec<u8> {
        let mut header = Ipv4Header::new(
            (transport.len() + data.len()) as u16,
            64,
            IpNumber(protocol),
            [10, 0, 0, 1],
            [192, 0, 2, 1],
        )
        .unwrap();
        header.identification = 0xfffe;
        header.options = vec![1; ip_options].as_slice().try_into().unwrap();
        header.total_len = (header.header_len() + transport.len() + data.len()) as u16;
        let mut bytes = link(vlan);
        header.write_raw(&mut bytes).unwrap();
        bytes.extend_from_slice(transport);
        bytes.extend_from_slice(data);
        bytes
    }

    fn split(frame: &[u8], kind: Kind, size: usize) -> Vec<Vec<u8>> {
        let pool = Pool::new(64, 2048).unwrap();
        let mut cache = pool.cache();
        let mut out = cache.take().unwrap();
        let mut split = Split::new(frame, kind, size).unwrap();
        let mut segments = Vec::new();
        while !split.is_done() {
            assert!(split.next(frame, &mut out));
            segments.push(out.bytes().to_vec());
        }
        cache.give(out);
        segments
    }

    /// The independent judge: parses a segment strictly and compares the checksums with its own.
    fn judge(segment: &[u8]) -> (Ipv4Header, TransportHeader, Vec<u8>) {
        let parsed = SlicedPacket::from_ethernet(segment).unwrap();
        let Some(etherparse::NetSlice::Ipv4(ip)) = parsed.net else { panic!("not IPv4") };
        let header = ip.header().to_header();
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        let link = 14 + parsed.link_exts.len() * 4;
        assert_eq!(usize::from(header.total_len), segment.len() - link);
        match parsed.transport {
            Some(TransportSlice::Tcp(tcp)) => {
                let data = tcp.payload().to_vec();
                let tcp = tcp.to_header();
                assert_eq!(tcp.checksum, tcp.calc_checksum_ipv4(&header, &data).unwrap());
                (header, TransportHeader::Tcp(Box::new(tcp)), data)
            }
            Some(TransportSlice::Udp(udp)) => {
                let data = udp.payload().to_vec();
                let udp = udp.to_header();
                assert_eq!(usize::from(udp.length), 8 + data.len());
                assert_eq!(udp.checksum, udp.calc_checksum_ipv4(&header, &data).unwrap());
                (header, TransportHeader::Udp(udp), data)
            }
            other => panic!("{other:?}"),
        }
    }

    enum TransportHeader {
        Tcp(Box<TcpHeader>),
        Udp(UdpHeader),
    }

    proptest! {
        #[test]
        fn tcp_segments_are_what_a_cable_would_carry(
            vlan: bool, ip_options in 0usize..=10, tcp_options in 0usize..=10,
            len in 0usize..20_000, size in 1usize..=1460, sequence: u32,
        ) {
            prop_assume!(len / size < 600);
            let mut tcp = TcpHeader::new(1000, 443, sequence, 500);
            (tcp.ack, tcp.psh, tcp.fin, tcp.cwr, tcp.checksum) = (true, true, true, true, 0x1234);
            tcp.set_options_raw(&vec![1; tcp_options * 4]).unwrap();
            let data = payload(len);
            let frame = super_frame(vlan, ip_options * 4, 6, &tcp.to_bytes(), &data);
            let segments = split(&frame, Kind::Tcp, size);
            prop_assert_eq!(segments.len(), len.div_ceil(size).max(1));
            let mut joined = Vec::new();
            for (i, segment) in segments.iter().enumerate() {
                let (ip, TransportHeader::Tcp(header), data) = judge(segment) else { panic!("not TCP") };
                let last = i + 1 == segments.len();
                prop_assert_eq!(ip.identification, 0xfffe_u16.wrapping_add(i as u16));
                prop_assert!(last || data.len() == size);
                let mut expected = tcp.clone();
                expected.sequence_number = sequence.wrapping_add(joined.len() as u32);
                (expected.psh, expected.fin, expected.cwr) = (last, last, i == 0);
                expected.checksum = header.checksum;
                prop_assert_eq!(*header, expected);
                joined.extend(data);
            }
            prop_assert_eq!(joined, data);
        }

        #[test]
        fn udp_datagrams_are_what_a_cable_would_carry(vlan: bool, len in 1usize..20_000, size in 1usize..=1472) {
            prop_assume!(len / size < 600);
            let data = payload(len);
            let udp = UdpHeader { source_port: 5, destination_port: 6, length: 8 + len as u16, checksum: 9 };
            let frame = super_frame(vlan, 0, 17, &udp.to_bytes(), &data);
            let segments = split(&frame, Kind::Udp, size);
            prop_assert_eq!(segments.len(), len.div_ceil(size));
            let mut joined = Vec::new();
            for segment in &segments {
                let (_, TransportHeader::Udp(header), data) = judge(segment) else { panic!("not UDP") };
                prop_assert_eq!((header.source_port, header.destination_port), (5, 6));
                joined.extend(data);
            }
            prop_assert_eq!(joined, data);
        }

        #[test]
        fn no_bytes_break_it(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..100, size in 0usize..300) {
            let tcp = TcpHeader::new(1, 2, 3, 4);
            let mut frame = super_frame(false, 0, 6, &tcp.to_bytes(), &payload(80));
            for (at, byte) in bytes.iter().enumerate().filter(|(at, _)| at % 7 == 0) {
                if let Some(place) = frame.get_mut(at / 2) { *place ^= byte; }
            }
            frame.truncate(frame.len() - cut);
            let pool = Pool::new(64, 2048).unwrap();
            let mut cache = pool.cache();
            for candidate in [&frame, &bytes] {
                for kind in [Kind::Tcp, Kind::Udp] {
                    let mut out = cache.take().unwrap();
                    if let Some(mut split) = Split::new(candidate, kind, size) {
                        let mut steps = 0;
                        while !split.is_done() {
                            split.next(candidate, &mut out);
                            steps += 1;
                            prop_assert!(steps <= 300);
                        }
                    }
                    cache.give(out);
                }
            }
        }
    }

    #[test]
    fn a_checksum_of_zero_is_sent_as_ones() {
        // A datagram whose checksum comes out as zero: the payload makes up for the rest.
        let build = |fill: [u8; 2]| {
            let builder =
                PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9).udp(1, 2);
            let mut bytes = Vec::new();
            builder.write(&mut bytes, &fill).unwrap();
            bytes
        };
        let checksum = |bytes: &[u8]| u16::from_be_bytes([bytes[40], bytes[41]]);
        let fill = checksum(&build([0, 0])).to_be_bytes();
        let frame = build(fill);
        assert_eq!(checksum(&frame), 0xffff, "the judge agrees");
        assert_eq!(split(&frame, Kind::Udp, 100), [frame]);
    }

    #[test]
    fn what_is_too_large_for_a_slot_is_skipped() {
        let frame = super_frame(false, 0, 6, &TcpHeader::new(1, 2, 3, 4).to_bytes(), &payload(2000));
        let pool = Pool::new(64, 2048).unwrap();
        let mut cache = pool.cache();
        let mut out = cache.take().unwrap();
        let mut split = Split::new(&frame, Kind::Tcp, 1900).unwrap();
        assert!(!split.next(&frame, &mut out));
        assert!(split.next(&frame, &mut out));
        assert!(split.is_done());
        assert_eq!(judge(out.bytes()).2, payload(2000)[1900..]);
        cache.give(out);
    }

    #[test]
    fn other_frames_are_not_split() {
        let tcp = TcpHeader::new(1, 2, 3, 4).to_bytes();
        let frame = super_frame(false, 0, 6, &tcp, &payload(3000));
        assert!(Split::new(&frame, Kind::Udp, 1000).is_none());
        assert!(Split::new(&frame, Kind::Tcp, 0).is_none());
        assert!(Split::new(&frame[..1000], Kind::Tcp, 1000).is_none());
        let mut fragment = frame.clone();
        fragment[20] |= 0x20;
        assert!(Split::new(&fragment, Kind::Tcp, 1000).is_none());
        let mut ipv6 = frame;
        ipv6[12..14].copy_from_slice(&[0x86, 0xdd]);
        assert!(Split::new(&ipv6, Kind::Tcp, 1000).is_none());
    }
}
