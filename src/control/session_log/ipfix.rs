//! NAT events for an IPFIX collector: messages of RFC 7011 by UDP, with the session events of RFC 8158.
//!
//! The private host is the source and its EIP the post-NAT source, whoever began the session. Lines that are missing leave a gap
//! in the sequence number, which counts records (RFC 7011 §3.1), so a collector sees them too.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use super::Place;
use super::line::{Line, Session, What};
use super::syslog::socket_towards;
use crate::base::Moment;
use crate::control::time;

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
/// By UDP, templates are sent again and again (RFC 7011 §8.1).
const TEMPLATES_AGAIN: Duration = Duration::from_mins(1);
/// natEvent (230): NAT44 session create and delete.
const NAT44_CREATE: u8 = 4;
const NAT44_DELETE: u8 = 5;

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

/// An IPFIX collector.
pub(super) struct Ipfix {
    socket: UdpSocket,
    collector: SocketAddr,
    message: Message,
    templates_sent: Option<Moment>,
    /// Records of messages that could not be sent, and why the last could not.
    lost: u64,
    failed: Option<io::Error>,
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
    pub(super) fn open(collector: SocketAddr) -> io::Result<Self> {
        let socket = socket_towards(collector)?;
        Ok(Self {
            socket,
            collector,
            message: Message::default(),
            templates_sent: None,
            lost: 0,
            failed: None,
        })
    }

    /// Sends the message, if there is anything in it. A message that cannot be sent is a gap in the sequence.
    fn send(&mut self, time: u64) {
        let records = u64::from(self.message.records);
        let Some(bytes) = self.message.finish(time) else { return };
        if let Err(error) = self.socket.send_to(&bytes, self.collector) {
            self.lost += records;
            self.failed = Some(error);
        }
        self.message.bytes = bytes;
        self.message.bytes.clear();
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
        for (id, more) in [(CREATED, &[][..]), (ENDED, &END_FIELDS[..])] {
            self.put(&id.to_be_bytes());
            self.put(&((FIELDS.len() + more.len()) as u16).to_be_bytes());
            for (element, len) in FIELDS.iter().chain(more) {
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
        let (session, has_ended) = match &line.what {
            What::Created(session) => (session, false),
            What::Ended(session, _) => (session, true),
            What::Lost(count) => {
                self.send(line.time);
                self.message.sequence = self.message.sequence.wrapping_add(*count as u32);
                return Ok(());
            }
            What::Started | What::Stopped => return Ok(()),
        };
        let fields = FIELDS.iter().chain(if has_ended { &END_FIELDS[..] } else { &[] });
        if !self.message.has_room(fields.map(|(_, len)| usize::from(*len)).sum()) {
            self.send(line.time);
        }
        if self.templates_sent.is_none() {
            self.templates_sent = Some(Moment::default());
            self.message.templates();
        }
        self.message.record(line.time, session, has_ended);
        Ok(())
    }

    fn flush(&mut self, now: Moment) -> io::Result<()> {
        let time = time::now_nanos() / 1_000_000;
        if self.templates_sent.is_none_or(|sent| now.since(sent) >= TEMPLATES_AGAIN) {
            if !self.message.has_room(200) {
                self.send(time);
            }
            self.templates_sent = Some(now);
            self.message.templates();
        }
        self.send(time);
        self.failed.take().map_or(Ok(()), Err)
    }

    fn lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }
}
