//! Metering: what gateways and EIPs used, hour by hour, kept in files.
//!
//! ```text
//! workers --every second--> thread "metering": peaks and bytes of the running hour --every minute--> running.csv
//!                                                                                  --every hour----> hours-YYYY-MM.csv
//! ```
//!
//! A restart loses the running minute at the most. `running.csv` is replaced whole; an hour that is over is appended to the file of
//! its month, which other programs may read, too.

mod books;
mod row;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::base::Moment;
use crate::base::time::Clock;
use crate::control::time;
use crate::nat;
pub use books::{Books, OpenError};
pub use row::{Hour, Metered, Subject};

/// How often workers are asked: a peak is over this time.
const PERIOD: Duration = Duration::from_secs(1);
/// How long the thread sleeps between two looks at the clock.
const PAUSE: Duration = Duration::from_millis(50);

/// What the workers have counted.
pub trait Source: Send + Sync {
    /// The workers' clock.
    fn clock(&self) -> Clock;

    /// What is watched besides: called once a second.
    fn look_around(&self);

    /// Brings the bytes of live sessions to their totals.
    ///
    /// # Errors
    /// A worker does not answer.
    fn settle(&self) -> Result<(), String>;

    /// Totals of all gateways and EIPs that ever had a session.
    ///
    /// # Errors
    /// A worker does not answer.
    fn totals(&self) -> Result<Vec<(Subject, nat::Usage)>, String>;
}

/// The thread that asks the workers. Dropped, it brings the books up to date and ends.
#[derive(Debug)]
pub struct Metering {
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Metering {
    /// Starts to watch, and to keep books if there are any.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub fn start(source: Arc<dyn Source>, books: Option<Arc<Books>>) -> io::Result<Self> {
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopping);
        let mut meter = Meter { source, books, last: BTreeMap::new(), asked: None, is_failing: false };
        let thread = std::thread::Builder::new().name("metering".into()).spawn(move || meter.run(&stop))?;
        Ok(Self { stopping, thread: Some(thread) })
    }
}

impl Drop for Metering {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

struct Meter {
    source: Arc<dyn Source>,
    books: Option<Arc<Books>>,
    /// The totals of the last second.
    last: BTreeMap<Subject, nat::Usage>,
    asked: Option<Moment>,
    is_failing: bool,
}

impl Meter {
    fn run(&mut self, stopping: &AtomicBool) {
        let clock = self.source.clock();
        let mut next = clock.now() + PERIOD;
        while !stopping.load(Ordering::Relaxed) {
            std::thread::park_timeout(PAUSE);
            let now = clock.now();
            if now >= next {
                next = now + PERIOD;
                self.source.look_around();
                self.second(now, false);
            }
        }
        self.second(clock.now(), true);
    }

    fn second(&mut self, now: Moment, is_last: bool) {
        let Some(books) = self.books.clone() else { return };
        let wall = time::now();
        let is_due = is_last || books.is_due(wall);
        let asked = if is_due { self.source.settle() } else { Ok(()) };
        let written = asked.and_then(|()| self.source.totals()).and_then(|totals| {
            let seconds = self.asked.map_or(1.0, |asked| now.since(asked).as_secs_f64());
            self.asked = Some(now);
            let used = totals.into_iter().map(|(subject, total)| {
                let used = used(&total, self.last.get(&subject), seconds);
                self.last.insert(subject.clone(), total);
                (subject, used)
            });
            books.note(wall, used);
            if is_due { books.write(wall).map_err(|error| error.to_string()) } else { Ok(()) }
        });
        match written {
            Ok(()) if self.is_failing && is_due => {
                self.is_failing = false;
                log::info!("metering: the books are up to date again");
            }
            Err(reason) if !self.is_failing => {
                self.is_failing = true;
                log::error!("metering: {reason}; it is tried again every minute");
            }
            _ => {}
        }
    }
}

/// What was used in the last second, or since the start. Totals that went down are another one's, and begin anew.
fn used(total: &nat::Usage, last: Option<&nat::Usage>, seconds: f64) -> Hour {
    let last = last.copied().unwrap_or_default();
    let more = |total: u64, last: u64| if total >= last { total - last } else { total };
    let created = more(total.created, last.created);
    Hour {
        peak_new_sessions: if seconds > 0.0 { (created as f64 / seconds).ceil() as u64 } else { created },
        // One that came and went between two looks was there.
        peak_sessions: u64::from(total.sessions).max(created.min(1)),
        bytes_out: more(total.bytes_out, last.bytes_out),
        bytes_in: more(total.bytes_in, last.bytes_in),
    }
}
