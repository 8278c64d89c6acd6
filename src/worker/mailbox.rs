//! Questions from management to one worker.
//!
//! A [`Command`] travels to the worker and comes back as the answer, and brings the memory that the answer needs: the
//! worker neither allocates nor frees. It works on one command at a time, a bounded piece each turn, so a listing of
//! a million sessions delays no packet by more than the look at [`SLOTS`] of them.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crossbeam::queue::ArrayQueue;
use rtrb::Producer;

use crate::base::time::Clock;
use crate::base::{Moment, WorkerIndex};
use crate::nat::{
    Capture, Destination, Engine, Event, Explanation, Occupancy, Output, PortsCursor, PortsRow, Question,
    SessionCursor, SessionFilter, SessionRow, Talker, TraceFilter, TraceRecord, Usage, UsageKind,
};
use crate::policy::Snapshot;
use crate::worker::idle::Doorbell;

/// Slots of the session table that a worker looks at in one turn.
pub const SLOTS: usize = 512;

/// Commands that may wait for a worker.
const COMMANDS: usize = 8;

/// What is asked of a worker, and later its answer.
#[derive(Debug)]
pub enum Command {
    /// The next page of a listing of sessions.
    Sessions(SessionPage),
    /// Ends the trace in progress and starts the next one, if there is one.
    Trace {
        /// Which packets are followed next, and memory for as many records as are wanted.
        next: Option<(TraceFilter, Vec<TraceRecord>)>,
        /// Answer: what the trace before has recorded.
        records: Vec<TraceRecord>,
    },
    /// Begins a capture or ends the one in progress. Answer: the one before.
    Capture(Option<Box<Capture>>),
    /// What would become of a packet.
    Explain {
        /// The packet.
        question: Question,
        /// Answer.
        explanation: Explanation,
    },
    /// The next page of a listing of external ports.
    Ports {
        /// Where the page begins, and afterwards where the next one does.
        cursor: PortsCursor,
        /// Filled as far as its capacity goes.
        rows: Vec<PortsRow>,
        /// Answer: whether that was the last page.
        is_last: bool,
    },
    /// Brings the bytes of live sessions to the usage of their gateways, EIPs and entries.
    Settle {
        /// Where to begin, and afterwards where to go on.
        cursor: SessionCursor,
        /// Turns that are left for it.
        turns: u16,
        /// Answer: whether all sessions were looked at.
        is_last: bool,
    },
    /// The next page of a listing of usage.
    Usage {
        /// Of what.
        kind: UsageKind,
        /// Where the page begins, and afterwards where the next one does.
        cursor: u32,
        /// Filled as far as its capacity goes.
        rows: Vec<Usage>,
        /// Answer: whether that was the last page.
        is_last: bool,
    },
    /// The private hosts that carry most of late.
    Talkers {
        /// Where to begin, and afterwards where to go on.
        cursor: u32,
        /// Filled as far as its capacity goes.
        rows: Vec<Talker>,
    },
    /// Ends sessions.
    Kill {
        /// Which.
        filter: SessionFilter,
        /// Whether both ends of TCP connections are reset.
        resets: bool,
        /// Where to begin, and afterwards where to go on.
        cursor: SessionCursor,
        /// Turns that are left for it.
        turns: u16,
        /// Answer: how many have ended.
        ended: u64,
        /// Answer: whether all sessions were looked at.
        is_last: bool,
    },
    /// Tells of sessions that begin and end from now on, or no more; the answer is the ring before.
    Watch(Option<Producer<Event>>),
    /// Destinations to which nearly all ports of an EIP are in use, with how many are; filled as far as the capacity goes.
    Crowded(Vec<(Destination, u32)>),
    /// How full its tables are; the answer is there afterwards.
    Occupancy(Option<Occupancy>),
}

/// A page of a listing.
#[derive(Debug)]
pub struct SessionPage {
    /// Which sessions.
    pub filter: SessionFilter,
    /// Where the page begins, and afterwards where the next one does.
    pub cursor: SessionCursor,
    /// Filled as far as its capacity goes.
    pub rows: Vec<SessionRow>,
    /// Answer: whether that was the last page.
    pub is_last: bool,
}

/// One bounded piece of the work on a command; says whether the command is answered.
pub(super) fn answer(
    engine: &mut Engine,
    command: &mut Command,
    snapshot: &Snapshot,
    now: Moment,
    out: &mut Output,
) -> bool {
    match command {
        Command::Sessions(SessionPage { filter, cursor, rows, is_last }) => {
            *is_last = engine.list_sessions(cursor, filter, SLOTS, now, rows);
            *is_last || rows.len() == rows.capacity()
        }
        Command::Trace { next, records } => {
            *records = engine.finish_trace();
            if let Some((filter, memory)) = next.take() {
                engine.start_trace(filter, memory);
            }
            true
        }
        Command::Capture(capture) => {
            *capture = engine.set_capture(capture.take());
            true
        }
        Command::Explain { question, explanation } => {
            *explanation = engine.explain(question, snapshot, now);
            true
        }
        Command::Ports { cursor, rows, is_last } => {
            *is_last = engine.list_ports(cursor, rows);
            true
        }
        Command::Settle { cursor, turns, is_last } => {
            *is_last = engine.settle_sessions(cursor, SLOTS);
            *turns = turns.saturating_sub(1);
            *is_last || *turns == 0
        }
        Command::Kill { filter, resets, cursor, turns, ended, is_last } => {
            let more;
            (more, *is_last) = engine.kill_sessions(cursor, filter, *resets, SLOTS, (snapshot, now), out);
            *ended += u64::from(more);
            *turns = turns.saturating_sub(1);
            *is_last || *turns == 0
        }
        Command::Watch(ring) => {
            *ring = engine.watch(ring.take());
            true
        }
        Command::Crowded(rows) => {
            engine.crowded(rows);
            true
        }
        Command::Usage { kind, cursor, rows, is_last } => {
            *is_last = engine.list_usage(*kind, cursor, SLOTS, rows);
            *is_last || rows.len() == rows.capacity()
        }
        Command::Talkers { cursor, rows } => engine.list_talkers(cursor, SLOTS, now.tick(), rows),
        Command::Occupancy(occupancy) => {
            *occupancy = Some(engine.occupancy());
            true
        }
    }
}

/// A worker did not answer in time: it has died, or its core is taken from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("worker {0} does not answer")]
pub struct Silent(pub WorkerIndex);

/// A command on its way.
#[derive(Debug)]
pub(super) struct Letter {
    number: u64,
    pub(super) command: Box<Command>,
}

/// Where commands and answers of one worker lie.
#[derive(Debug)]
pub(super) struct Mailbox {
    commands: ArrayQueue<Letter>,
    answers: ArrayQueue<Letter>,
    /// The number of the last command. Held during a conversation: there is one at a time.
    conversation: Mutex<u64>,
    clock: Clock,
}

impl Mailbox {
    pub(super) fn new() -> Self {
        Self {
            commands: ArrayQueue::new(COMMANDS),
            // All that can be under way when management looks: those that wait, one in work, and one that is sent.
            answers: ArrayQueue::new(COMMANDS + 2),
            conversation: Mutex::new(0),
            clock: Clock::start(),
        }
    }

    /// Asks, and waits for the answer at most for `patience`.
    pub(super) fn ask(&self, bell: &Doorbell, command: Command, patience: Duration) -> Option<Command> {
        let mut number = self.conversation.lock().unwrap_or_else(PoisonError::into_inner);
        // Answers that came after their conversation was given up.
        while self.answers.pop().is_some() {}
        *number += 1;
        self.commands.push(Letter { number: *number, command: Box::new(command) }).ok()?;
        bell.ring();
        let start = self.clock.now();
        let mut pause = Duration::from_micros(10);
        loop {
            match self.answers.pop() {
                Some(letter) if letter.number == *number => return Some(*letter.command),
                Some(_) => {}
                None if self.clock.now().since(start) >= patience => return None,
                None => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(1));
                }
            }
        }
    }

    /// Whether a command waits.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// The worker's next command.
    pub(super) fn take(&self) -> Option<Letter> {
        self.commands.pop()
    }

    /// Sends the answer back. The queue has room for all that can be under way.
    pub(super) fn reply(&self, letter: Letter) {
        let _ = self.answers.push(letter);
    }
}
