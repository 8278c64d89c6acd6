//! NAT events for an IPFIX collector: messages of RFC 7011 by UDP or TCP, with the session events of RFC 8158.
//!
//! The private host is the source and its EIP the post-NAT source, whoever began the session. Lines that are missing leave a gap
//! in the sequence number, which counts records (RFC 7011 §3.1), so a collector sees them too. By
//! TCP each connection is a transport session of its own: it begins with the templates, and its records are numbered from zero (RFC
//! 7011 §10.4).

use std::io;
use std::time::Duration;

use super::Place;
use super::line::{Line, Session, What};
use super::stream::{self, Stream};
use super::way::Way;
use crate::base::Moment;
use crate::config::Collector;
use crate::control::time;
use crate::nat::ports::blocks::PortBlock;

/// A message fits into one packet on every usual link.
const LARGEST: usize = 1400;
const HEADER: usize = 16;
const SET_HEADER: usize = 4;
/// The version of IPFIX.
const VERSION: u16 = 10;
/// The set that holds templates.
const TEMPLATES: u16 = 2;
/// The set of sessions that began, and of those that ended.
const CREATED: u16 = 256;
const ENDED: u16 = 257;
/// The set of blocks of ports that hosts got or gave back.
const BLOCKS: u16 = 258;
/// By UDP, templates are sent again and again (RFC 7011 §8.1).
const TEMPLATES_AGAIN: Duration = Duration::from_mins(1);
/// natEvent (230): NAT44 session create and delete.
const NAT44_CREATE: u8 = 4;
const NAT44_DELETE: u8 = 5;
/// natEvent: port block allocation and de-allocation.
const BLOCK_ALLOCATED: u8 = 16;
const BLOCK_RELEASED: u8 = 17;

/// Information elements and their lengths, as IANA lists them.
const FIELDS: [(u16, u16); 13] = [
    (323, 8), // observationTimeMilliseconds
    (230, 1), // natEvent
    (4, 1),   // protocolIdentifier
    (234, 4), // ingressVRFID: the VPC
    (8, 4),   // sourceIPv4Address
    (225, 4), // postNATSourceIPv4Address
    (7, 2),   // sourceTransportPort
    (227, 2), // postNAPTSourceTransportPort
    (12, 4),  // destinationIPv4Address
    (226, 4), // postNATDestinationIPv4Address
    (11, 2),  // destinationTransportPort
    (228, 2), // postNAPTDestinationTransportPort
    (283, 4), // natPoolId: the entry
];
/// What a session that ended has besides.
const END_FIELDS: [(u16, u16); 3] = [
    (152, 8), // flowStartMilliseconds
    (231, 8), // initiatorOctets
    (232, 8), // responderOctets
];

/// What is told of a block of ports (RFC 8158 §5.14).
const BLOCK_FIELDS: [(u16, u16); 8] = [
    (323, 8), // observationTimeMilliseconds
    (230, 1), // natEvent
    (234, 4), // ingressVRFID: the VPC
    (8, 4),   // sourceIPv4Address
    (225, 4), // postNATSourceIPv4Address
    (361, 2), // portRangeStart
    (362, 2), // portRangeEnd
    (283, 4), // natPoolId: the entry
];

/// An IPFIX collector.
pub(super) struct Ipfix {
    way: Way<Sequence>,
    message: Message,
    /// By UDP: when they were sent last.
    templates_sent: Option<Moment>,
    /// Records of messages that could not be sent, and why the last could not.
    lost: u64,
    failed: Option<io::Error>,
}

/// The sequence number of the next record of a connection.
#[derive(Debug, Default)]
struct Sequence(u32);

impl stream::Session for Sequence {
    fn begin(&mut self) -> Vec<u8> {
        self.0 = 0;
        let mut message = Message::default();
        message.templates();
        message.finish(time::now_nanos() / 1_000_000).unwrap_or_default()
    }

    fn stamp(&mut self, message: &mut stream::Message) {
        if let Some(place) = message.bytes.get_mut(8..12) {
            place.copy_from_slice(&self.0.to_be_bytes());
        }
        self.0 = self.0.wrapping_add(message.lines as u32);
    }
}

/// The message in the making.
#[derive(Debug, Default)]
struct Message {
    bytes: Vec<u8>,
    /// Where the present set begins, and which it is.
    set: Option<(usize, u16)>,
    /// Records before this message, lost ones too.
    sequence: u32,
    /// Records in this message.
    records: u32,
}

impl Ipfix {
    pub(super) fn open(collector: Collector) -> io::Result<Self> {
        let way = Way::open(collector, Sequence::default())?;
        Ok(Self { way, message: Message::default(), templates_sent: None, lost: 0, failed: None })
    }

    /// Sends the message, if there is anything in it. A message that cannot be sent is a gap in the sequence.
    fn send(&mut self, time: u64) {
        let records = u64::from(self.message.records);
        let Some(bytes) = self.message.finish(time) else { return };
        match &mut self.way {
            Way::Udp(socket, collector) => {
                if let Err(error) = socket.send_to(&bytes, *collector) {
                    self.lost += records;
                    self.failed = Some(error);
                }
                self.message.bytes = bytes;
                self.message.bytes.clear();
            }
            Way::Tcp(stream) => {
                if stream.push(stream::Message { bytes, lines: records }).is_err() {
                    self.lost += records;
                    self.failed = Some(Stream::<Sequence>::is_full());
                    self.gap(records);
                }
            }
        }
    }

    /// So many records are missing here.
    fn gap(&mut self, records: u64) {
        match &mut self.way {
            Way::Udp(..) => self.message.sequence = self.message.sequence.wrapping_add(records as u32),
            Way::Tcp(stream) => stream.skip(records),
        }
    }

    /// By UDP a collector may have missed them: they come with the data.
    fn repeat_templates(&mut self, now: Moment, time: u64) {
        let is_due = self.templates_sent.is_none_or(|sent| now.since(sent) >= TEMPLATES_AGAIN);
        if is_due && matches!(self.way, Way::Udp(..)) {
            if !self.message.has_room(200) {
                self.send(time);
            }
            self.templates_sent = Some(now);
            self.message.templates();
        }
    }
}

impl Message {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Makes sure that the present set is this one.
    fn enter(&mut self, id: u16) {
        if self.bytes.is_empty() {
            self.bytes.resize(HEADER, 0);
        }
        if self.set.is_some_and(|(_, present)| present == id) {
            return;
        }
        self.close_set();
        self.set = Some((self.bytes.len(), id));
        self.put(&id.to_be_bytes());
        self.put(&[0, 0]);
    }

    fn close_set(&mut self) {
        if let Some((start, _)) = self.set.take() {
            let len = (self.bytes.len() - start) as u16;
            self.bytes[start + 2..start + 4].copy_from_slice(&len.to_be_bytes());
        }
    }

    fn has_room(&self, record: usize) -> bool {
        self.bytes.len() + SET_HEADER + record <= LARGEST
    }

    fn templates(&mut self) {
        self.enter(TEMPLATES);
        for (id, fields, more) in [
            (CREATED, &FIELDS[..], &[][..]),
            (ENDED, &FIELDS[..], &END_FIELDS[..]),
            (BLOCKS, &BLOCK_FIELDS[..], &[][..]),
        ] {
            self.put(&id.to_be_bytes());
            self.put(&((fields.len() + more.len()) as u16).to_be_bytes());
            for (element, len) in fields.iter().chain(more) {
                self.put(&element.to_be_bytes());
                self.put(&len.to_be_bytes());
            }
        }
    }

    fn record(&mut self, time: u64, session: &Session, has_ended: bool) {
        self.enter(if has_ended { ENDED } else { CREATED });
        let Session { row, began, .. } = session;
        let peer = (row.peer.0.to_be_bytes(), row.peer.1.to_be_bytes());
        self.put(&time.to_be_bytes());
        self.put(&[if has_ended { NAT44_DELETE } else { NAT44_CREATE }, row.protocol]);
        self.put(&u32::from(row.vpc.0).to_be_bytes());
        self.put(&row.inside.0.to_be_bytes());
        self.put(&row.external.0.to_be_bytes());
        self.put(&row.inside.1.to_be_bytes());
        self.put(&row.external.1.to_be_bytes());
        for _before_and_after in 0..2 {
            self.put(&peer.0);
        }
        for _before_and_after in 0..2 {
            self.put(&peer.1);
        }
        self.put(&row.entry.0.to_be_bytes());
        if has_ended {
            let (initiator, responder) = if row.kind.is_snat() {
                (row.bytes_out, row.bytes_in)
            } else {
                (row.bytes_in, row.bytes_out)
            };
            self.put(&began.to_be_bytes());
            self.put(&initiator.to_be_bytes());
            self.put(&responder.to_be_bytes());
        }
        self.records += 1;
    }

    fn block(&mut self, time: u64, block: &PortBlock, is_taken: bool) {
        self.enter(BLOCKS);
        self.put(&time.to_be_bytes());
        self.put(&[if is_taken { BLOCK_ALLOCATED } else { BLOCK_RELEASED }]);
        // As in sessions: the VPC's index, which is one less than its number as a tenant.
        self.put(&u32::from(block.tenant.saturating_sub(1)).to_be_bytes());
        self.put(&block.inside.to_be_bytes());
        self.put(&block.external.to_be_bytes());
        self.put(&block.ports.first.to_be_bytes());
        self.put(&block.ports.last.to_be_bytes());
        self.put(&block.entry.0.to_be_bytes());
        self.records += 1;
    }

    /// The whole message, sent at a time; none if it is empty.
    fn finish(&mut self, time: u64) -> Option<Vec<u8>> {
        self.close_set();
        let mut bytes = std::mem::take(&mut self.bytes);
        if bytes.len() <= HEADER {
            return None;
        }
        let len = bytes.len() as u16;
        bytes[0..2].copy_from_slice(&VERSION.to_be_bytes());
        bytes[2..4].copy_from_slice(&len.to_be_bytes());
        bytes[4..8].copy_from_slice(&((time / 1000) as u32).to_be_bytes());
        bytes[8..12].copy_from_slice(&self.sequence.to_be_bytes());
        // The observation domain: one for all workers.
        bytes[12..16].copy_from_slice(&1u32.to_be_bytes());
        self.sequence = self.sequence.wrapping_add(std::mem::take(&mut self.records));
        Some(bytes)
    }
}

impl Place for Ipfix {
    fn write(&mut self, line: &Line) -> io::Result<()> {
        let (fields, more) = match &line.what {
            What::Created(_) => (&FIELDS[..], &[][..]),
            What::Ended(..) => (&FIELDS[..], &END_FIELDS[..]),
            What::Block(..) => (&BLOCK_FIELDS[..], &[][..]),
            What::Lost(count) => {
                self.send(line.time);
                self.gap(*count);
                return Ok(());
            }
            What::Started | What::Stopped => return Ok(()),
        };
        let fields = fields.iter().chain(more);
        if !self.message.has_room(fields.map(|(_, len)| usize::from(*len)).sum()) {
            self.send(line.time);
        }
        if self.templates_sent.is_none() && matches!(self.way, Way::Udp(..)) {
            self.templates_sent = Some(Moment::default());
            self.message.templates();
        }
        match &line.what {
            What::Created(session) => self.message.record(line.time, session, false),
            What::Ended(session, _) => self.message.record(line.time, session, true),
            What::Block(block, is_taken) => self.message.block(line.time, &block.row, *is_taken),
            What::Lost(_) | What::Started | What::Stopped => {}
        }
        Ok(())
    }

    fn flush(&mut self, now: Moment) -> io::Result<()> {
        let time = time::now_nanos() / 1_000_000;
        self.repeat_templates(now, time);
        self.send(time);
        self.way.advance(now)?;
        self.failed.take().map_or(Ok(()), Err)
    }

    fn is_settled(&self) -> bool {
        self.way.is_settled()
    }

    fn abandon(&mut self) {
        self.lost += self.way.abandon();
    }

    fn lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }
}
