//! The writing end of an index: a thread that commits what comes, so that the disk holds up no other place of the log.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Place;
use super::index::{BLOCKS, Failure, HOUR, Index, SESSIONS, STARTS, block_key, key, value};
use super::line::{Line, What};
use crate::base::Moment;

/// Commits are at least so far apart.
const PAUSE: Duration = Duration::from_millis(100);
/// Rows that may wait for the file.
const WAITING: usize = 1 << 18;

/// The writing end of an index.
pub(super) struct Indexer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What goes from the log's thread to the one that commits.
#[derive(Default)]
struct Shared {
    pending: Mutex<Pending>,
    is_stopping: AtomicBool,
}

/// What is not committed yet.
#[derive(Default)]
pub(super) struct Pending {
    rows: Vec<([u8; 27], Vec<u8>)>,
    blocks: Vec<([u8; 20], Vec<u8>)>,
    starts: Vec<u64>,
    /// The time of the last line, in milliseconds since 1970.
    time: u64,
    /// Why the last commit failed.
    failed: Option<String>,
}

impl Shared {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        // Each change of it is one step.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Indexer {
    pub(super) fn start(index: Arc<Index>) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("session-index".into());
        let thread = thread.spawn(move || run(&index, &of_thread))?;
        Ok(Self { shared, thread: Some(thread) })
    }
}

impl Drop for Indexer {
    fn drop(&mut self) {
        self.shared.is_stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

/// Commits what comes, until nothing more does.
fn run(index: &Index, shared: &Shared) {
    loop {
        // Before the last look, not after it.
        let is_last = shared.is_stopping.load(Ordering::Relaxed);
        let taken = std::mem::take(&mut *shared.pending());
        if !taken.rows.is_empty() || !taken.blocks.is_empty() || !taken.starts.is_empty() {
            match index.commit(&taken) {
                Ok(()) => {}
                Err(reason) if is_last => {
                    log::error!(
                        "session log: index: {reason}; the last {} rows are missing",
                        taken.rows.len() + taken.blocks.len()
                    );
                }
                Err(reason) => shared.pending().put_back(taken, reason),
            }
        }
        if is_last {
            return;
        }
        std::thread::park_timeout(PAUSE);
    }
}

impl Index {
    pub(super) fn commit(&self, pending: &Pending) -> Result<(), String> {
        let Pending { rows, blocks, starts, time, .. } = pending;
        let segment = self.segment(time / HOUR)?;
        // In the order of the tree: neighbours go into one page. Of two rows of a key the later one counts.
        let mut ordered: Vec<_> = rows.iter().collect();
        ordered.sort_by_key(|(key, _)| *key);
        let commit = || -> Result<(), Failure> {
            let transaction = segment.database.begin_write()?;
            {
                let mut sessions = transaction.open_table(SESSIONS)?;
                for (key, value) in ordered {
                    sessions.insert(&key[..], &value[..])?;
                }
                let mut table = transaction.open_table(BLOCKS)?;
                for (key, value) in blocks {
                    table.insert(&key[..], &value[..])?;
                }
                let mut table = transaction.open_table(STARTS)?;
                for start in starts {
                    table.insert(start, ())?;
                }
            }
            transaction.commit()?;
            Ok(())
        };
        commit().map_err(|error| error.to_string())
    }
}

impl Pending {
    /// Takes back what could not be committed, before what has come meanwhile: the disk may be full for a while only.
    fn put_back(&mut self, taken: Self, reason: String) {
        let come = std::mem::replace(self, taken);
        self.rows.extend(come.rows);
        self.blocks.extend(come.blocks);
        self.starts.extend(come.starts);
        self.time = self.time.max(come.time);
        self.failed = Some(reason);
    }

    /// Takes a line.
    pub(super) fn add(&mut self, line: &Line) {
        self.time = self.time.max(line.time);
        let (session, ended) = match &line.what {
            What::Created(session) => (session, 0),
            What::Ended(session, _) => (session, line.time),
            What::Block(block, is_taken) => {
                let ended = if *is_taken { 0 } else { line.time };
                let value = value(ended, &block.origin);
                return self.blocks.push((block_key(&block.row, block.began), value));
            }
            What::Started => return self.starts.push(line.time),
            What::Stopped | What::Lost(_) => return,
        };
        let row = &session.row;
        let key = key(row.external, row.protocol, session.began, row.inside, row.peer);
        self.rows.push((key, value(ended, &session.origin)));
    }
}

impl Place for Indexer {
    fn write(&mut self, line: &Line) -> io::Result<()> {
        let mut pending = self.shared.pending();
        if pending.rows.len() + pending.blocks.len() >= WAITING {
            return Err(io::Error::other("its file does not keep up"));
        }
        pending.add(line);
        Ok(())
    }

    fn flush(&mut self, _: Moment) -> io::Result<()> {
        self.shared.pending().failed.take().map_or(Ok(()), |reason| Err(io::Error::other(reason)))
    }
}
