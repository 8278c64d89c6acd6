//! Signals as events of the management thread.

use std::io;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals as Incoming};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// Apply the changed configuration.
    Reload,
    /// End; with the signal's name.
    Stop(&'static str),
}

/// The signals that are caught from now on.
#[derive(Debug)]
pub(super) struct Signals {
    events: Receiver<Signal>,
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Signals {
    /// Catches SIGHUP, SIGTERM and SIGINT.
    pub(super) fn catch() -> io::Result<Self> {
        let mut incoming = Incoming::new([SIGHUP, SIGTERM, SIGINT])?;
        let handle = incoming.handle();
        let (sender, events) = channel();
        let forward = move || {
            for signal in incoming.forever() {
                let event = match signal {
                    SIGHUP => Signal::Reload,
                    SIGINT => Signal::Stop("SIGINT"),
                    _ => Signal::Stop("SIGTERM"),
                };
                if sender.send(event).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("signals".into()).spawn(forward)?;
        Ok(Self { events, handle, thread: Some(thread) })
    }

    /// The next signal, if one comes in this time.
    pub(super) fn wait(&self, time: Duration) -> Option<Signal> {
        self.events.recv_timeout(time).ok()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
