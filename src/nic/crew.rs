//! Threads that a back end brings with it, for workers to work on: one on the core of each.

use std::io;
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, Sender, channel};

/// A piece of a worker's work, to be called again and again until it breaks off. It does not block for long, and never
/// panics.
pub type Work = Box<dyn FnMut() -> ControlFlow<()> + Send>;

/// The threads, in worker order. Each waits for its work; dropped without having been given any, they end.
#[derive(Debug)]
pub struct Crew {
    threads: Vec<Sender<Work>>,
}

impl Crew {
    /// A crew of `count` threads, and where each of them finds its work.
    pub fn new(count: usize) -> (Self, Vec<Receiver<Work>>) {
        let (threads, work) = (0..count).map(|_| channel()).unzip();
        (Self { threads }, work)
    }

    /// Gives each thread its work.
    ///
    /// # Errors
    /// If there are not as many pieces of work as threads, or a thread is no more.
    pub fn assign(self, work: Vec<Work>) -> io::Result<()> {
        if work.len() != self.threads.len() {
            let (work, threads) = (work.len(), self.threads.len());
            return Err(io::Error::other(format!(
                "there is work for {work} of the back end's {threads} threads"
            )));
        }
        for (thread, work) in self.threads.iter().zip(work) {
            thread.send(work).map_err(|_| io::Error::other("a thread of the back end's has ended"))?;
        }
        Ok(())
    }
}
