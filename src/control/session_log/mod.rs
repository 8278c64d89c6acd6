//! The session log: who had which address and port, and when; sessions of DNAT entries too.
//!
//! ```text
//! engine --ring--> thread "session-log": line with names and times --> file    JSON lines
//! engine --ring-->                                                 --> syslog  RFC 5424, UDP or TCP
//!   ...                                                            --> ipfix   RFC 7011, UDP or TCP
//!                                                                  --> index   what `natgate who` looks in
//! ```
//!
//! No place holds up another, nor a worker. What a ring or a place has no room for is counted and stands in the log as a gap.

mod file;
mod index;
mod indexer;
mod ipfix;
mod line;
mod stream;
mod syslog;
mod way;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rtrb::Consumer;

use crate::base::Moment;
use crate::base::time::Clock;
use crate::config;
use crate::control::manager::Names;
use crate::control::protocol::SessionLogTotals;
use crate::nat::Event;

pub use index::{Index, Owned};
pub use line::Teller;
use line::{Line, Scribe, What};

/// Events that are taken of one ring before the next has its turn.
const TURN: usize = 4096;
/// How long the thread sleeps when there is nothing to write.
const PAUSE: Duration = Duration::from_millis(20);
/// Written lines are handed to the operating system at least so often.
const FLUSH: Duration = Duration::from_millis(200);
/// How long the end of the log waits for places that are slow.
const LAST: Duration = Duration::from_secs(2);

/// A session log cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("session_log.{key} {place}: {reason}")]
pub struct StartError {
    /// The key of the configuration.
    pub key: &'static str,
    /// The file or address.
    pub place: String,
    /// Why.
    pub reason: String,
}

/// Somewhere that lines go.
trait Place: Send {
    /// Takes a line, or says why not; then nothing of it was taken.
    fn write(&mut self, line: &Line) -> io::Result<()>;
    /// Hands on what was taken. What could not be handed on is kept and tried again, as far as there is room.
    fn flush(&mut self, now: Moment) -> io::Result<()>;
    /// Whether nothing of what was taken waits any more.
    fn is_settled(&self) -> bool {
        true
    }
    /// The end: what still waits is lost.
    fn abandon(&mut self) {}
    /// Lines that were taken and could not be handed on after all, since this was asked last.
    fn lost(&mut self) -> u64 {
        0
    }
}

/// A place with what it could not take.
struct Outlet {
    name: &'static str,
    place: Box<dyn Place>,
    /// Lines since the last that was taken.
    lost: u64,
    is_failing: bool,
    tally: Arc<PlaceTally>,
}

/// What one place has taken and lost.
#[derive(Debug, Default)]
struct PlaceTally {
    written: AtomicU64,
    lost: AtomicU64,
}

impl Outlet {
    fn write(&mut self, line: &Line) {
        if self.lost > 0 {
            let gap = Line { time: line.time, worker: line.worker, what: What::Lost(self.lost) };
            if self.place.write(&gap).is_err() {
                return self.lose(line);
            }
            self.lost = 0;
        }
        match self.place.write(line) {
            Ok(()) => {
                self.tally.written.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                self.lose(line);
                self.complain(&error);
            }
        }
    }

    fn lose(&mut self, line: &Line) {
        match line.what {
            // Counted where they were missed; here they make the gap wider.
            What::Lost(count) => self.lost += count,
            _ => {
                self.lost += 1;
                self.tally.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn flush(&mut self, now: Moment) {
        match self.place.flush(now) {
            // Not before it has taken the line that tells of the gap.
            Ok(()) if self.is_failing && self.lost == 0 => {
                self.is_failing = false;
                log::info!("session log: {} takes lines again", self.name);
            }
            Ok(()) => {}
            Err(error) => self.complain(&error),
        }
        self.tally.lost.fetch_add(self.place.lost(), Ordering::Relaxed);
    }

    /// Says a failure once, until it is over.
    fn complain(&mut self, error: &io::Error) {
        if !self.is_failing {
            self.is_failing = true;
            log::error!("session log: {}: {error}; what it cannot take is counted", self.name);
        }
    }
}

/// Places that are opened before the gateway touches its ports.
pub struct Places {
    outlets: Vec<Outlet>,
    index: Option<Arc<Index>>,
    events: usize,
}

impl Places {
    /// Opens all places of a configuration.
    ///
    /// # Errors
    /// The first that cannot be had.
    pub fn open(settings: &config::SessionLog) -> Result<Self, StartError> {
        let config::SessionLog { file, syslog, ipfix, index, keep, events } = settings;
        let mut outlets = Vec::new();
        let mut add = |name, place| {
            let (lost, is_failing, tally) = (0, false, Arc::default());
            outlets.push(Outlet { name, place, lost, is_failing, tally });
        };
        let of_path = |key, path: &PathBuf| {
            let place = path.display().to_string();
            move |reason: String| StartError { key, place, reason }
        };
        if let Some(path) = file {
            let file = file::JsonLines::open(path.clone());
            add("file", Box::new(file.map_err(|error| of_path("file", path)(error.to_string()))?) as _);
        }
        let of_address = |key, collector: &config::Collector| {
            let place = collector.address.to_string();
            move |error: io::Error| StartError { key, place, reason: error.to_string() }
        };
        if let Some(collector) = syslog {
            let syslog = syslog::Syslog::open(*collector).map_err(of_address("syslog", collector))?;
            add("syslog", Box::new(syslog) as _);
        }
        if let Some(collector) = ipfix {
            let ipfix = ipfix::Ipfix::open(*collector).map_err(of_address("ipfix", collector))?;
            add("ipfix", Box::new(ipfix) as _);
        }
        let mut shared = None;
        if let Some(path) = index {
            let opened = Arc::new(Index::open(path.clone(), *keep).map_err(of_path("index", path))?);
            let indexer = indexer::Indexer::start(Arc::clone(&opened));
            add("index", Box::new(indexer.map_err(|error| of_path("index", path)(error.to_string()))?) as _);
            shared = Some(opened);
        }
        Ok(Self { outlets, index: shared, events: *events })
    }

    /// Events of a worker that may wait.
    pub fn events(&self) -> usize {
        self.events
    }

    /// Begins to write what comes out of the workers' rings.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub fn start(self, rings: Vec<Consumer<Event>>, clock: Clock, names: Names) -> io::Result<SessionLog> {
        let Self { outlets, index, .. } = self;
        let tallies = outlets.iter().map(|outlet| (outlet.name, Arc::clone(&outlet.tally))).collect();
        let stopping = Arc::new(AtomicBool::new(false));
        let missed = Arc::new(AtomicU64::new(0));
        let writer = Writer {
            rings,
            outlets,
            scribe: Scribe::new(clock, names),
            clock,
            flushed: Moment::default(),
            missed: Arc::clone(&missed),
        };
        let stop = Arc::clone(&stopping);
        let thread =
            std::thread::Builder::new().name("session-log".into()).spawn(move || writer.run(&stop))?;
        let ledger = Ledger { tallies, missed, index };
        Ok(SessionLog { ledger: Arc::new(ledger), stopping, thread: Some(thread) })
    }
}

/// What others may know of a session log.
#[derive(Debug)]
pub struct Ledger {
    tallies: Vec<(&'static str, Arc<PlaceTally>)>,
    /// Events that found no room in a ring.
    missed: Arc<AtomicU64>,
    index: Option<Arc<Index>>,
}

impl Ledger {
    /// What each place has taken and lost.
    pub fn totals(&self) -> Vec<SessionLogTotals> {
        let missed = self.missed.load(Ordering::Relaxed);
        let totals = self.tallies.iter().map(|(place, tally)| SessionLogTotals {
            place: (*place).to_owned(),
            written: tally.written.load(Ordering::Relaxed),
            lost: tally.lost.load(Ordering::Relaxed) + missed,
        });
        totals.collect()
    }

    /// The index, if one is kept.
    pub fn index(&self) -> Option<&Arc<Index>> {
        self.index.as_ref()
    }
}

/// A session log that is being written. Dropped, it ends when all that was told is written.
#[derive(Debug)]
pub struct SessionLog {
    ledger: Arc<Ledger>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl SessionLog {
    /// What others may know of it.
    pub fn ledger(&self) -> Arc<Ledger> {
        Arc::clone(&self.ledger)
    }
}

impl Drop for SessionLog {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

/// The thread that writes.
struct Writer {
    rings: Vec<Consumer<Event>>,
    outlets: Vec<Outlet>,
    scribe: Scribe,
    clock: Clock,
    flushed: Moment,
    missed: Arc<AtomicU64>,
}

impl Writer {
    fn run(mut self, stopping: &AtomicBool) {
        let line = self.scribe.of_the_log(What::Started);
        self.write(&line);
        loop {
            // Before the last look into the rings, not after it.
            let is_last = stopping.load(Ordering::Relaxed);
            let taken = self.take();
            let now = self.clock.now();
            if taken == 0 || now.since(self.flushed) >= FLUSH {
                self.flushed = now;
                self.outlets.iter_mut().for_each(|outlet| outlet.flush(now));
            }
            if taken == 0 {
                if is_last {
                    break;
                }
                std::thread::park_timeout(PAUSE);
            }
        }
        let line = self.scribe.of_the_log(What::Stopped);
        self.write(&line);
        self.end();
    }

    /// Hands on what still waits, as far as the places take it in a short while.
    fn end(&mut self) {
        let start = self.clock.now();
        loop {
            let now = self.clock.now();
            self.outlets.iter_mut().for_each(|outlet| outlet.flush(now));
            let is_settled = self.outlets.iter().all(|outlet| outlet.place.is_settled());
            if is_settled || now.since(start) >= LAST {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        for outlet in &mut self.outlets {
            outlet.place.abandon();
            let lost = outlet.place.lost();
            outlet.tally.lost.fetch_add(lost, Ordering::Relaxed);
            if lost > 0 {
                log::error!("session log: {lost} lines did not reach {} at the end", outlet.name);
            }
        }
    }

    /// Writes what waits in the rings, a bounded piece of each; says how much that was.
    fn take(&mut self) -> usize {
        self.scribe.look_around();
        let mut taken = 0;
        for ring in &mut self.rings {
            for _ in 0..TURN {
                let Ok(event) = ring.pop() else { break };
                taken += 1;
                if let Event::Lost { count, .. } = event {
                    self.missed.fetch_add(count, Ordering::Relaxed);
                }
                let line = self.scribe.line(&event);
                self.outlets.iter_mut().for_each(|outlet| outlet.write(&line));
            }
        }
        taken
    }

    fn write(&mut self, line: &Line) {
        self.outlets.iter_mut().for_each(|outlet| outlet.write(line));
    }
}
