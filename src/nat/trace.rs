//! Following single packets: for the next packets that match, what was known before and what came of it.

use crate::base::{InterfaceIndex, Moment, PortIndex, WorkerIndex};
use crate::nat::Verdict;
use crate::nat::engine::{Context, Engine};
use crate::nat::key::FlowKey;
use crate::nat::lane::{Lane, Next};
use crate::nat::session::Flow;
use crate::policy::Prefix;
use crate::wire::{Arrival, Datagram, Packet};

/// Which packets are followed: those that agree with every part that is given, in either direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceFilter {
    /// The port that they come in on.
    pub port: Option<PortIndex>,
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// One end.
    pub address: Option<Prefix>,
    /// The other end.
    pub other: Option<Prefix>,
    /// The port of the one end, or of either when no address is given.
    pub transport_port: Option<u16>,
}

impl TraceFilter {
    fn admits(&self, packet: &Packet<'_>, key: &FlowKey) -> bool {
        let ends = [(key.source, key.source_port), (key.destination, key.destination_port)];
        let matches = |one: (u32, u16), other: (u32, u16)| {
            self.address.is_none_or(|prefix| prefix.contains(one.0))
                && self.other.is_none_or(|prefix| prefix.contains(other.0))
                && self.transport_port.is_none_or(|port| port == one.1)
        };
        self.port.is_none_or(|port| port == packet.port)
            && self.protocol.is_none_or(|protocol| protocol == key.protocol)
            && (matches(ends[0], ends[1]) || matches(ends[1], ends[0]))
    }
}

/// What became of one packet.
#[derive(Clone, Copy, Debug)]
pub struct TraceRecord {
    /// The worker.
    pub worker: WorkerIndex,
    /// When.
    pub at: Moment,
    /// How it came.
    pub arrival: Arrival,
    /// The port that it came in on.
    pub port: PortIndex,
    /// The interface that it belongs to.
    pub interface: InterfaceIndex,
    /// As it came: addresses, ports, TTL, flags, length.
    pub before: Datagram,
    /// Its tenant number and protocol, with the ends as it came.
    pub key: FlowKey,
    /// Which way it went after parsing.
    pub next: Next,
    /// Whether it had a session before.
    pub had_session: bool,
    /// The flow of its session, before or (if it made one) afterwards.
    pub flow: Option<Flow>,
    /// What became of it.
    pub verdict: Verdict,
    /// As it was sent.
    pub after: Option<Datagram>,
}

/// The trace in progress. Its memory is the caller's.
#[derive(Debug, Default)]
pub(super) struct Trace {
    filter: TraceFilter,
    records: Vec<TraceRecord>,
    wanted: usize,
}

impl Trace {
    pub(super) fn is_armed(&self) -> bool {
        self.records.len() < self.wanted
    }
}

impl Engine {
    /// Follows the next packets that match, as many as `records` has room for.
    pub fn start_trace(&mut self, filter: TraceFilter, mut records: Vec<TraceRecord>) {
        records.clear();
        self.trace.wanted = records.capacity();
        self.trace.filter = filter;
        self.trace.records = records;
    }

    /// Ends the trace and gives what was recorded.
    pub fn finish_trace(&mut self) -> Vec<TraceRecord> {
        self.trace.wanted = 0;
        std::mem::take(&mut self.trace.records)
    }

    /// Whether the trace has all that it wanted.
    pub fn is_trace_done(&self) -> bool {
        !self.trace.is_armed()
    }

    pub(super) fn flow_of(&self, key: &FlowKey) -> Option<Flow> {
        let slot = self.sessions.find(self.sessions.hash(key), key)?;
        let (session, record) = self.sessions.get(slot)?;
        Some(session.flow(record))
    }

    /// Decides one packet, and records it if it matches.
    #[cold]
    pub(super) fn decide_traced(
        &mut self,
        packet: &mut Packet<'_>,
        lane: &Lane,
        cx: &mut Context<'_>,
    ) -> Verdict {
        if !self.trace.is_armed() || !self.trace.filter.admits(packet, &lane.key()) {
            return self.decide_captured(packet, lane, cx);
        }
        let flow_before = self.flow_of(&lane.key());
        let verdict = self.decide_captured(packet, lane, cx);
        let after = match verdict {
            Verdict::Send { .. } => Datagram::parse(packet.buffer, usize::from(lane.datagram.l3)).ok(),
            _ => None,
        };
        self.trace.records.push(TraceRecord {
            worker: self.worker,
            at: cx.now,
            arrival: packet.arrival,
            port: packet.port,
            interface: lane.interface,
            before: lane.datagram,
            key: lane.key(),
            next: lane.next,
            had_session: flow_before.is_some(),
            flow: flow_before.or_else(|| self.flow_of(&lane.key())),
            verdict,
            after,
        });
        verdict
    }
}
