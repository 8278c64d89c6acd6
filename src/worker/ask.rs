//! What management can ask a running gateway.

use std::ops::ControlFlow;
use std::sync::PoisonError;
use std::time::Duration;

use crate::base::WorkerIndex;
use crate::nat::{
    Explanation, Occupancy, PortsRow, Question, SessionCursor, SessionFilter, SessionRow, TraceFilter,
    TraceRecord,
};
use crate::worker::launch::Running;
use crate::worker::mailbox::{Command, SessionPage, Silent};
use crate::worker::process::Process;

/// How long management waits for one answer.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Rows that a listing asks for at a time.
const PAGE: usize = 1024;
/// Rows of a page of EIPs with their ports.
const PORTS_PAGE: usize = 256;
/// Records that a trace keeps between two looks, by worker, at most.
const TRACE: usize = 1024;

/// Why a trace was not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    /// Somebody else traces.
    #[error("another trace is in progress")]
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
        let (mut all, mut cursor, mut rows) = (Vec::new(), 0, Vec::with_capacity(PORTS_PAGE));
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
