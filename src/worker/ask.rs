//! What management can ask a running gateway.

use std::ops::ControlFlow;
use std::sync::PoisonError;
use std::time::Duration;

use rtrb::{Consumer, RingBuffer};

use crate::base::WorkerIndex;
use crate::nat::{
    Capture, CaptureFilter, CaptureReader, CaptureRecord, Destination, Event, Explanation, Occupancy,
    PortsCursor, PortsRow, Question, SessionCursor, SessionFilter, SessionRow, TALKERS, Talker, TraceFilter,
    TraceRecord, Usage, UsageKind,
};
use crate::worker::launch::Running;
use crate::worker::mailbox::{Command, SessionPage, Silent};
use crate::worker::process::Process;

/// How long management waits for one answer.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Rows that a listing asks for at a time.
const PAGE: usize = 1024;
/// Events of a worker that wait for somebody who watches, at most.
const WATCHED: usize = 16_384;
/// Crowded destinations that one answer has room for.
const CROWDED: usize = 64;
/// Turns of a worker that one question may take.
const TURNS: u16 = 256;
/// Rows of a page of EIPs with their ports.
const PORTS_PAGE: usize = 256;
/// Records that a trace keeps between two looks, by worker, at most.
const TRACE: usize = 1024;

/// Frames that wait to be read of a capture, by worker, at most.
const CAPTURED: usize = 8192;
/// And their bytes.
const CAPTURED_BYTES: usize = 4 << 20;

/// Why a trace or a capture was not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    /// Somebody else traces.
    #[error("another one is in progress")]
    Busy,
    /// A worker does not answer.
    #[error(transparent)]
    Silent(#[from] Silent),
}

impl<E: Process> Running<E> {
    /// The workers' numbers.
    pub fn workers(&self) -> impl Iterator<Item = WorkerIndex> + use<E> {
        (0..self.desks.len()).map(|index| WorkerIndex(index as u16))
    }

    fn ask(&self, worker: WorkerIndex, command: Command) -> Result<Command, Silent> {
        let desk = self.desks.get(worker.index()).ok_or(Silent(worker))?;
        if desk.last_words().is_some() {
            return Err(Silent(worker));
        }
        desk.mailbox.ask(&desk.doorbell, command, PATIENCE).ok_or(Silent(worker))
    }

    /// Lists the sessions that match, worker by worker, page by page, until `page` breaks off. Sessions that begin or end
    /// meanwhile may be missed or shown; none is shown twice.
    ///
    /// # Errors
    /// A worker that does not answer.
    pub fn sessions(
        &self,
        filter: &SessionFilter,
        mut page: impl FnMut(&[SessionRow]) -> ControlFlow<()>,
    ) -> Result<(), Silent> {
        let mut rows = Vec::with_capacity(PAGE);
        for worker in self.workers() {
            let mut cursor = SessionCursor::default();
            let mut is_last = false;
            while !is_last {
                let command = Command::Sessions(SessionPage { filter: *filter, cursor, rows, is_last });
                let Command::Sessions(answer) = self.ask(worker, command)? else {
                    return Err(Silent(worker));
                };
                (rows, cursor, is_last) = (answer.rows, answer.cursor, answer.is_last);
                if !rows.is_empty() && page(&rows).is_break() {
                    return Ok(());
                }
                rows.clear();
            }
        }
        Ok(())
    }

    /// What would become of a packet that arrived at one worker. If its fate is to be handed over, the other worker knows
    /// the rest.
    ///
    /// # Errors
    /// The worker does not answer.
    pub fn explain(&self, worker: WorkerIndex, question: &Question) -> Result<Explanation, Silent> {
        let command = Command::Explain { question: *question, explanation: Explanation::default() };
        match self.ask(worker, command)? {
            Command::Explain { explanation, .. } => Ok(explanation),
            _ => Err(Silent(worker)),
        }
    }

    /// How full a worker's tables are.
    ///
    /// # Errors
    /// The worker does not answer.
    pub fn occupancy(&self, worker: WorkerIndex) -> Result<Occupancy, Silent> {
        match self.ask(worker, Command::Occupancy(None))? {
            Command::Occupancy(Some(occupancy)) => Ok(occupancy),
            _ => Err(Silent(worker)),
        }
    }

    /// The external ports that a worker has taken, by EIP and protocol.
    ///
    /// # Errors
    /// The worker does not answer.
    pub fn ports_in_use(&self, worker: WorkerIndex) -> Result<Vec<PortsRow>, Silent> {
        let (mut all, mut cursor, mut rows) =
            (Vec::new(), PortsCursor::default(), Vec::with_capacity(PORTS_PAGE));
        loop {
            let asked = self.ask(worker, Command::Ports { cursor, rows, is_last: false })?;
            let Command::Ports { cursor: next, rows: mut page, is_last } = asked else {
                return Err(Silent(worker));
            };
            all.append(&mut page);
            (cursor, rows) = (next, page);
            if is_last {
                return Ok(all);
            }
        }
    }

    /// Brings the bytes of a worker's live sessions to the usage of their gateways, EIPs and entries.
    ///
    /// # Errors
    /// The worker does not answer.
    pub fn settle(&self, worker: WorkerIndex) -> Result<(), Silent> {
        let mut cursor = SessionCursor::default();
        loop {
            let asked = self.ask(worker, Command::Settle { cursor, turns: TURNS, is_last: false })?;
            let Command::Settle { cursor: next, is_last, .. } = asked else { return Err(Silent(worker)) };
            cursor = next;
            if is_last {
                return Ok(());
            }
        }
    }

    /// What gateways, EIPs or entries have carried, as far as a worker has counted.
    ///
    /// # Errors
    /// The worker does not answer.
    pub fn usage(&self, worker: WorkerIndex, kind: UsageKind) -> Result<Vec<Usage>, Silent> {
        let (mut all, mut cursor, mut rows) = (Vec::new(), 0, Vec::with_capacity(PAGE));
        loop {
            let asked = self.ask(worker, Command::Usage { kind, cursor, rows, is_last: false })?;
            let Command::Usage { cursor: next, rows: mut page, is_last, .. } = asked else {
                return Err(Silent(worker));
            };
            all.append(&mut page);
            (cursor, rows) = (next, page);
            if is_last {
                return Ok(all);
            }
        }
    }

    /// The private hosts that carry most of late, as far as a worker has counted.
    ///
    /// # Errors
    /// The worker does not answer.
    pub fn talkers(&self, worker: WorkerIndex) -> Result<Vec<Talker>, Silent> {
        match self.ask(worker, Command::Talkers { cursor: 0, rows: Vec::with_capacity(TALKERS) })? {
            Command::Talkers { rows, .. } => Ok(rows),
            _ => Err(Silent(worker)),
        }
    }

    /// Destinations to which nearly all ports of an EIP are in use by endpoint-dependent sessions of a worker, with how many are.
    ///
    /// # Errors
    /// The worker does not answer.
    pub fn crowded(&self, worker: WorkerIndex) -> Result<Vec<(Destination, u32)>, Silent> {
        match self.ask(worker, Command::Crowded(Vec::with_capacity(CROWDED)))? {
            Command::Crowded(rows) => Ok(rows),
            _ => Err(Silent(worker)),
        }
    }

    /// Ends the sessions that match, worker by worker; says how many there were. `resets` says whether both ends of TCP connections
    /// are told.
    ///
    /// # Errors
    /// A worker that does not answer.
    pub fn kill(&self, filter: &SessionFilter, resets: bool) -> Result<u64, Silent> {
        let mut total = 0;
        for worker in self.workers() {
            let (mut cursor, mut is_last) = (SessionCursor::default(), false);
            while !is_last {
                let (filter, turns, ended) = (*filter, TURNS, 0);
                let asked = Command::Kill { filter, resets, cursor, turns, ended, is_last };
                let Command::Kill { cursor: next, ended, is_last: last, .. } = self.ask(worker, asked)?
                else {
                    return Err(Silent(worker));
                };
                total += ended;
                (cursor, is_last) = (next, last);
            }
        }
        Ok(total)
    }

    /// Tells of sessions that begin and end from now on, until the watch is dropped. There can be one.
    ///
    /// # Errors
    /// Somebody else watches, or a worker does not answer.
    pub fn watch(&self) -> Result<Watch<'_, E>, WatchError> {
        let mut is_watched = self.is_watched.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *is_watched, true) {
            return Err(WatchError::Busy);
        }
        drop(is_watched);
        let mut watch = Watch { running: self, rings: Vec::new() };
        for worker in self.workers() {
            let (ring, reader) = RingBuffer::new(WATCHED);
            watch.rings.push(reader);
            self.ask(worker, Command::Watch(Some(ring)))?;
        }
        Ok(watch)
    }

    /// Follows packets that match, on all workers, until the trace is dropped. One trace can be in progress.
    ///
    /// # Errors
    /// Another trace is in progress, or a worker does not answer.
    pub fn trace(&self, filter: TraceFilter) -> Result<Trace<'_, E>, TraceError> {
        let mut is_tracing = self.is_tracing.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *is_tracing, true) {
            return Err(TraceError::Busy);
        }
        drop(is_tracing);
        let spare = self.workers().map(|_| Vec::with_capacity(TRACE)).collect();
        let mut trace = Trace { running: self, filter, spare };
        trace.look()?;
        Ok(trace)
    }

    /// Captures frames that match, on all workers, until the capture is dropped. One can be in progress.
    ///
    /// # Errors
    /// Another capture is in progress, or a worker does not answer.
    pub fn capture(&self, filter: CaptureFilter) -> Result<Capturing<'_, E>, TraceError> {
        let mut is_capturing = self.is_capturing.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *is_capturing, true) {
            return Err(TraceError::Busy);
        }
        drop(is_capturing);
        let mut capturing = Capturing { running: self, readers: Vec::new() };
        for worker in self.workers() {
            let (capture, reader) = Capture::new(filter, CAPTURED, CAPTURED_BYTES);
            capturing.readers.push(reader);
            self.swap_capture(worker, Some(Box::new(capture)))?;
        }
        Ok(capturing)
    }

    fn swap_capture(
        &self,
        worker: WorkerIndex,
        next: Option<Box<Capture>>,
    ) -> Result<Option<Box<Capture>>, Silent> {
        match self.ask(worker, Command::Capture(next))? {
            Command::Capture(before) => Ok(before),
            _ => Err(Silent(worker)),
        }
    }

    fn swap_trace(
        &self,
        worker: WorkerIndex,
        next: Option<(TraceFilter, Vec<TraceRecord>)>,
    ) -> Result<Vec<TraceRecord>, Silent> {
        match self.ask(worker, Command::Trace { next, records: Vec::new() })? {
            Command::Trace { records, .. } => Ok(records),
            _ => Err(Silent(worker)),
        }
    }
}

/// Why nothing is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// Somebody else watches.
    #[error("somebody else watches sessions")]
    Busy,
    /// A worker does not answer.
    #[error(transparent)]
    Silent(#[from] Silent),
}

/// Somebody watches sessions; it ends when this is dropped.
#[derive(Debug)]
pub struct Watch<'a, E: Process> {
    running: &'a Running<E>,
    /// A reader for each worker.
    pub rings: Vec<Consumer<Event>>,
}

impl<E: Process> Drop for Watch<'_, E> {
    fn drop(&mut self) {
        for worker in self.running.workers() {
            // A worker that does not answer tells no more either. What it gives back is freed here.
            let _ = self.running.ask(worker, Command::Watch(None));
        }
        *self.running.is_watched.lock().unwrap_or_else(PoisonError::into_inner) = false;
    }
}

/// A trace in progress; it ends when this is dropped.
#[derive(Debug)]
pub struct Trace<'a, E: Process> {
    running: &'a Running<E>,
    filter: TraceFilter,
    /// Memory for the next records of each worker.
    spare: Vec<Vec<TraceRecord>>,
}

impl<E: Process> Trace<'_, E> {
    /// What was recorded since the last look, in order of time. Each worker keeps a thousand records between two looks:
    /// under traffic, look often.
    ///
    /// # Errors
    /// A worker that does not answer.
    pub fn look(&mut self) -> Result<Vec<TraceRecord>, Silent> {
        let mut all = Vec::new();
        for (worker, spare) in self.running.workers().zip(&mut self.spare) {
            let memory = std::mem::take(spare);
            let mut records = self.running.swap_trace(worker, Some((self.filter, memory)))?;
            all.append(&mut records);
            // The first answer brings none, and no memory either.
            records.reserve_exact(TRACE);
            *spare = records;
        }
        all.sort_by_key(|record| record.at);
        Ok(all)
    }
}

impl<E: Process> Drop for Trace<'_, E> {
    fn drop(&mut self) {
        for worker in self.running.workers() {
            // A worker that does not answer records no more either.
            let _ = self.running.swap_trace(worker, None);
        }
        *self.running.is_tracing.lock().unwrap_or_else(PoisonError::into_inner) = false;
    }
}

/// A capture in progress; it ends when this is dropped.
#[derive(Debug)]
pub struct Capturing<'a, E: Process> {
    running: &'a Running<E>,
    readers: Vec<CaptureReader>,
}

impl<E: Process> Capturing<'_, E> {
    /// Gives the frames that have been captured to `each`, worker by worker, until it breaks off; no more of one worker than
    /// its rings hold.
    pub fn read(
        &mut self,
        bytes: &mut Vec<u8>,
        mut each: impl FnMut(&CaptureRecord, &[u8]) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        for reader in &mut self.readers {
            for _ in 0..CAPTURED {
                let Some(record) = reader.next(bytes) else { break };
                each(&record, bytes)?;
            }
        }
        ControlFlow::Continue(())
    }

    /// Ends it; what was captured up to now can still be read. Says how many frames were lost after the last record.
    pub fn end(&mut self) -> u64 {
        let mut lost = 0;
        for worker in self.running.workers() {
            // A worker that does not answer captures no more either.
            let before = self.running.swap_capture(worker, None).ok().flatten();
            lost += before.map_or(0, |capture| capture.lost());
        }
        lost
    }
}

impl<E: Process> Drop for Capturing<'_, E> {
    fn drop(&mut self) {
        self.end();
        *self.running.is_capturing.lock().unwrap_or_else(PoisonError::into_inner) = false;
    }
}
