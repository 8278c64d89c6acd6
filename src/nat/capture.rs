//! Copying frames for a capture, each with what became of it.
//!
//! While a capture runs, each packet is copied before it is decided; if it matches, its record and its bytes go into two
//! bounded rings that management reads. What finds no room there is counted, and the next record says how many were lost.
//! Nothing waits and nothing allocates: the memory is the caller's, and goes back to it.

use rtrb::{Consumer, Producer, RingBuffer};

use crate::base::{InterfaceIndex, Moment, PortIndex, WorkerIndex};
use crate::nat::engine::{Context, Engine};
use crate::nat::lane::{Lane, Next};
use crate::nat::output::{Emission, Exit};
use crate::nat::session::Flow;
use crate::nat::{Output, Verdict};
use crate::policy::Prefix;
use crate::wire::ethernet::{self, Link};
use crate::wire::{Arrival, Datagram, Packet};

/// The longest frame that is kept whole.
pub const LONGEST: usize = 1 << 16;

/// Which frames are captured: those that agree with every part that is given. Addresses and ports may be those of the packet
/// as it came or as it left: both frames are captured then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaptureFilter {
    /// The port that the frame comes in on or leaves by.
    pub port: Option<PortIndex>,
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// An address at either end.
    pub address: Option<Prefix>,
    /// The transport port at that end; of either end when no address is given.
    pub transport_port: Option<u16>,
    /// An address at either end, besides.
    pub eip: Option<u32>,
    /// Only what is dropped.
    pub dropped: bool,
    /// The bytes of each frame that are kept, at most.
    pub snap: usize,
}

impl Default for CaptureFilter {
    fn default() -> Self {
        Self {
            port: None,
            protocol: None,
            address: None,
            transport_port: None,
            eip: None,
            dropped: false,
            snap: LONGEST,
        }
    }
}

impl CaptureFilter {
    /// Whether a frame has to carry IPv4 to match.
    fn asks_for_a_datagram(&self) -> bool {
        self.protocol.is_some()
            || self.address.is_some()
            || self.transport_port.is_some()
            || self.eip.is_some()
    }

    fn admits_datagram(&self, datagram: Option<&Datagram>) -> bool {
        let Some(datagram) = datagram else { return !self.asks_for_a_datagram() };
        let ends =
            [(datagram.source, datagram.source_port), (datagram.destination, datagram.destination_port)];
        let at_end = |(address, port): (u32, u16)| {
            self.address.is_none_or(|prefix| prefix.contains(address))
                && self.transport_port.is_none_or(|wanted| wanted == port)
        };
        self.protocol.is_none_or(|protocol| protocol == datagram.protocol)
            && ends.into_iter().any(at_end)
            && self.eip.is_none_or(|eip| ends.iter().any(|&(address, _)| address == eip))
    }

    fn admits_port(&self, port: PortIndex) -> bool {
        self.port.is_none_or(|wanted| wanted == port)
    }
}

/// Which way a frame went, and what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It came in, and this became of it.
    In {
        /// How it came.
        arrival: Arrival,
        /// What became of it.
        verdict: Verdict,
        /// The interface that it belongs to, if one is known.
        interface: Option<InterfaceIndex>,
    },
    /// It left, and had come in on this port.
    Out {
        /// The port that it had come in on.
        from: PortIndex,
    },
    /// The gateway itself made it.
    Own,
    /// It left after it had waited.
    Released,
}

/// One captured frame. Its bytes are in the ring of bytes, in the same order.
#[derive(Clone, Copy, Debug)]
pub struct CaptureRecord {
    /// The worker.
    pub worker: WorkerIndex,
    /// When.
    pub at: Moment,
    /// The port that it came in on or leaves by.
    pub port: PortIndex,
    /// Which way it went.
    pub way: Way,
    /// The flow of its session, if it has one.
    pub flow: Option<Flow>,
    /// Its length in bytes.
    pub length: u32,
    /// The bytes of it that were kept.
    pub kept: u32,
    /// Frames that matched and found no room since the record before.
    pub lost: u64,
}

/// The worker's end of a capture.
#[derive(Debug)]
pub struct Capture {
    filter: CaptureFilter,
    records: Producer<CaptureRecord>,
    bytes: Producer<u8>,
    /// The packet at hand, as it came.
    copy: Box<[u8]>,
    copied: usize,
    length: usize,
    lost: u64,
}

/// The reader's end.
#[derive(Debug)]
pub struct CaptureReader {
    records: Consumer<CaptureRecord>,
    bytes: Consumer<u8>,
}

impl Capture {
    /// A capture with room for so many frames and bytes of them that wait to be read.
    pub fn new(filter: CaptureFilter, frames: usize, bytes: usize) -> (Self, CaptureReader) {
        let (records, records_out) = RingBuffer::new(frames);
        let (bytes, bytes_out) = RingBuffer::new(bytes);
        let copy = vec![0; filter.snap.min(LONGEST)].into_boxed_slice();
        let capture = Self { filter, records, bytes, copy, copied: 0, length: 0, lost: 0 };
        (capture, CaptureReader { records: records_out, bytes: bytes_out })
    }

    /// Frames that were lost since the last record.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    fn keep(&mut self, frame: &[u8]) {
        self.copied = frame.len().min(self.copy.len());
        self.length = frame.len();
        if let (Some(to), Some(from)) = (self.copy.get_mut(..self.copied), frame.get(..self.copied)) {
            to.copy_from_slice(from);
        }
    }

    fn push(&mut self, record: CaptureRecord, frame: Option<&[u8]>) {
        let bytes = match frame {
            Some(frame) => frame.get(..frame.len().min(self.filter.snap)).unwrap_or_default(),
            None => self.copy.get(..self.copied).unwrap_or_default(),
        };
        if self.records.is_full() {
            self.lost += 1;
            return;
        }
        let Ok(mut room) = self.bytes.write_chunk(bytes.len()) else {
            self.lost += 1;
            return;
        };
        let (first, second) = room.as_mut_slices();
        let (start, rest) = bytes.split_at(first.len().min(bytes.len()));
        first.copy_from_slice(start);
        second.copy_from_slice(rest);
        // The bytes first: whoever sees the record finds them.
        room.commit_all();
        let lost = std::mem::take(&mut self.lost);
        let record = CaptureRecord { kept: bytes.len() as u32, lost, ..record };
        // There was room for it.
        let _ = self.records.push(record);
    }
}

impl CaptureReader {
    /// The next frame; its bytes replace those in `bytes`.
    pub fn next(&mut self, bytes: &mut Vec<u8>) -> Option<CaptureRecord> {
        let record = self.records.pop().ok()?;
        bytes.clear();
        if let Ok(chunk) = self.bytes.read_chunk(record.kept as usize) {
            let (first, second) = chunk.as_slices();
            bytes.extend_from_slice(first);
            bytes.extend_from_slice(second);
            chunk.commit_all();
        }
        Some(record)
    }
}

impl Engine {
    /// Captures from now on, or no more; gives back the capture before.
    pub fn set_capture(&mut self, capture: Option<Box<Capture>>) -> Option<Box<Capture>> {
        std::mem::replace(&mut self.capture, capture)
    }

    /// Decides one packet, and captures it if it matches.
    pub(super) fn decide_captured(
        &mut self,
        packet: &mut Packet<'_>,
        lane: &Lane,
        cx: &mut Context<'_>,
    ) -> Verdict {
        let Some(mut capture) = self.capture.take() else { return self.decide(packet, lane, cx) };
        capture.keep(packet.frame());
        let before = datagram_of(packet.frame());
        let verdict = self.decide(packet, lane, cx);
        self.capture_packet(&mut capture, before.as_ref(), packet, lane, verdict, cx.now);
        self.capture = Some(capture);
        verdict
    }

    fn capture_packet(
        &self,
        capture: &mut Capture,
        before: Option<&Datagram>,
        packet: &Packet<'_>,
        lane: &Lane,
        verdict: Verdict,
        now: Moment,
    ) {
        // Its new owner captures it.
        if matches!(verdict, Verdict::Hand { arrival: Arrival::Handed | Arrival::Fragment, .. }) {
            return;
        }
        let filter = capture.filter;
        if filter.dropped && !matches!(verdict, Verdict::Drop(_)) {
            return;
        }
        // Of what was refused while it was parsed nothing else can be relied on.
        let is_ip = lane.next.is_flow() || matches!(lane.next, Next::IcmpError | Next::LaterFragment);
        let sent = match verdict {
            Verdict::Send { port, head, len } => {
                let (head, len) = (usize::from(head), usize::from(len));
                packet.buffer.get(head..head + len).map(|frame| (port, frame))
            }
            _ => None,
        };
        let after = sent.and_then(|(_, frame)| datagram_of(frame));
        let has_left = || after.is_some() && filter.admits_datagram(after.as_ref());
        if !filter.admits_datagram(before) && !has_left() {
            return;
        }
        let record = CaptureRecord {
            worker: self.worker,
            at: now,
            port: packet.port,
            way: Way::In { arrival: lane.arrival, verdict, interface: is_ip.then_some(lane.interface) },
            flow: if is_ip { self.flow_of(&lane.key()) } else { None },
            length: capture.length as u32,
            kept: 0,
            lost: 0,
        };
        if filter.admits_port(packet.port) {
            capture.push(record, None);
        }
        if let Some((port, frame)) = sent.filter(|(port, _)| filter.admits_port(*port)) {
            let way = Way::Out { from: packet.port };
            capture.push(CaptureRecord { port, way, length: frame.len() as u32, ..record }, Some(frame));
        }
    }

    /// Captures what a batch has put out besides its packets.
    #[cold]
    pub(super) fn capture_emissions(&mut self, out: &Output, now: Moment) {
        let Some(capture) = self.capture.as_mut().filter(|capture| !capture.filter.dropped) else { return };
        for (Emission { port, exit, .. }, frame) in out.emissions() {
            let way = match exit {
                Exit::Own => Way::Own,
                Exit::Forwarded => Way::Released,
                Exit::Handed { .. } => continue,
            };
            let filter = capture.filter;
            let datagram = datagram_of(frame);
            if filter.admits_port(port) && filter.admits_datagram(datagram.as_ref()) {
                let length = frame.len() as u32;
                let (worker, flow) = (self.worker, None);
                let record = CaptureRecord { worker, at: now, port, way, flow, length, kept: 0, lost: 0 };
                capture.push(record, Some(frame));
            }
        }
    }
}

/// The IPv4 packet in a frame, if it is sound.
fn datagram_of(frame: &[u8]) -> Option<Datagram> {
    let link = Link::parse(frame).ok()?;
    (link.ether_type == ethernet::IPV4).then(|| Datagram::parse(frame, link.len).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::DropReason;

    /// From 10.0.0.1:1000 to 192.0.2.1:80 by TCP.
    fn datagram() -> Datagram {
        Datagram {
            source: 0x0a00_0001,
            source_port: 1000,
            destination: 0xc000_0201,
            destination_port: 80,
            protocol: 6,
            ..Datagram::default()
        }
    }

    fn record() -> CaptureRecord {
        let verdict = Verdict::Drop(DropReason::NoSnatEntry);
        CaptureRecord {
            worker: WorkerIndex(0),
            at: Moment::default(),
            port: PortIndex(1),
            way: Way::In { arrival: Arrival::Wire, verdict, interface: None },
            flow: None,
            length: 0,
            kept: 0,
            lost: 0,
        }
    }

    #[test]
    fn address_and_port_belong_to_one_end() {
        let all = CaptureFilter::default();
        let host = |address, port| CaptureFilter {
            address: Some(Prefix::of(address, 32)),
            transport_port: port,
            ..all
        };
        for (filter, expected) in [
            (all, true),
            (host(0x0a00_0001, None), true),
            (host(0x0a00_0001, Some(1000)), true),
            (host(0x0a00_0001, Some(80)), false),
            (host(0xc000_0201, Some(80)), true),
            (CaptureFilter { transport_port: Some(80), ..all }, true),
            (CaptureFilter { protocol: Some(17), ..all }, false),
            (CaptureFilter { eip: Some(0xc000_0201), ..host(0x0a00_0001, None) }, true),
            (CaptureFilter { eip: Some(0xc000_0202), ..host(0x0a00_0001, None) }, false),
        ] {
            assert_eq!(filter.admits_datagram(Some(&datagram())), expected, "{filter:?}");
            // A frame without IPv4 is captured only where nothing is asked of it.
            assert_eq!(filter.admits_datagram(None), filter == all, "{filter:?}");
        }
    }

    #[test]
    fn what_finds_no_room_is_counted_and_said_with_the_next_frame() {
        let (mut capture, mut reader) =
            Capture::new(CaptureFilter { snap: 60, ..CaptureFilter::default() }, 8, 150);
        let mut bytes = Vec::new();
        let mut next = |reader: &mut CaptureReader| {
            reader.next(&mut bytes).map(|record| (record.kept, record.lost, bytes.clone()))
        };
        for round in 0..20_u8 {
            for n in 0..4 {
                capture.keep(&[round * 4 + n; 70]);
                capture.push(record(), None);
            }
            let lost = if round == 0 { 0 } else { 2 };
            assert_eq!(next(&mut reader), Some((60, lost, vec![round * 4; 60])));
            assert_eq!(next(&mut reader), Some((60, 0, vec![round * 4 + 1; 60])));
            assert_eq!((next(&mut reader), capture.lost()), (None, 2));
        }
        // The ring of records can be what is full.
        for _ in 0..10 {
            capture.push(record(), Some(&[1]));
        }
        assert_eq!(capture.lost(), 2);
    }
}
