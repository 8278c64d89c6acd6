//! A running gateway: one named, pinned thread a worker, and what management may do with it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use core_affinity::CoreId;
use rtrb::Consumer;

use crate::base::time::Clock;
use crate::base::{Generation, WorkerIndex};
use crate::nat::{Engine, Event};
use crate::nic::{Pool, PortInfo};
use crate::policy::Snapshot;
use crate::worker::desk::Desk;
use crate::worker::finish::{Died, Final, Retired, finish};
use crate::worker::idle::{Idle, SPIN};
use crate::worker::process::Process;
use crate::worker::publish::{Lagging, Publisher};
use crate::worker::setup::{Guards, LaunchError, Seat, Setup};
use crate::worker::stats::WorkerTotals;
use crate::worker::turn::Worker;

/// How the workers' threads run.
#[derive(Clone, Debug)]
pub struct Threads {
    /// The core of each worker; without it the operating system places them.
    pub cores: Option<Vec<usize>>,
    /// What they do without work.
    pub idle: Idle,
    /// The clock that they read.
    pub clock: Clock,
}

/// Starts gateways.
#[derive(Clone, Copy, Debug)]
pub struct Gateway;

/// A gateway at work. Dropped without [`stop`](Self::stop), it stops all the same.
#[derive(Debug)]
pub struct Running<E: Process = Engine> {
    threads: Vec<JoinHandle<Option<Retired<E>>>>,
    pub(super) desks: Vec<Arc<Desk>>,
    publisher: Mutex<Publisher>,
    pool: Arc<Pool>,
    ports: Vec<PortInfo>,
    clock: Clock,
    /// Whether a trace is in progress.
    pub(super) is_tracing: Mutex<bool>,
    /// The readers' ends of the events of sessions.
    events: Mutex<Vec<Consumer<Event>>>,
    /// Dropped last, when all queues are closed.
    _guards: Mutex<Guards>,
}

impl Gateway {
    /// Starts the workers and returns when all of them work.
    ///
    /// # Errors
    /// When the parts do not fit together, a core cannot be had or memory is missing. Then nothing goes on running and
    /// the ports are closed.
    pub fn launch(setup: Setup, threads: Threads) -> Result<Running, LaunchError> {
        Self::launch_with(setup, threads)
    }

    /// The same with any engine.
    ///
    /// # Errors
    /// As [`launch`](Self::launch).
    pub fn launch_with<E: Process>(setup: Setup, threads: Threads) -> Result<Running<E>, LaunchError> {
        let Threads { cores, idle, clock } = threads;
        let workers = setup.workers;
        if let Some(cores) = cores.as_ref().filter(|cores| cores.len() != usize::from(workers)) {
            return Err(LaunchError::Cores { cores: cores.len(), workers });
        }
        let (seats, office) = setup.assemble()?;
        let mut running = Running {
            threads: Vec::new(),
            desks: office.desks,
            publisher: Mutex::new(office.publisher),
            pool: office.pool,
            ports: office.ports,
            clock,
            is_tracing: Mutex::new(false),
            events: Mutex::new(office.events),
            _guards: Mutex::new(office.guards),
        };
        let (ready, started) = channel();
        for seat in seats {
            let core = cores.as_ref().and_then(|cores| cores.get(seat.index().index()).copied());
            let ready = ready.clone();
            let name = format!("natgate-w{}", seat.index());
            let work = move || work(seat, core, idle, clock, ready);
            running.threads.push(std::thread::Builder::new().name(name).spawn(work)?);
        }
        drop(ready);
        // Ends when every thread has spoken. An error drops `running`, and that stops the others.
        let ready: Vec<()> = started.iter().collect::<Result<_, _>>()?;
        if ready.len() != running.threads.len() {
            return Err(std::io::Error::other("it died at once").into());
        }
        Ok(running)
    }
}

/// The life of a worker's thread.
fn work<E: Process>(
    seat: Seat,
    core: Option<usize>,
    idle: Idle,
    clock: Clock,
    ready: Sender<Result<(), LaunchError>>,
) -> Option<Retired<E>> {
    let index = seat.index();
    let prepared = prepare(seat, core);
    let (outcome, worker) = match prepared {
        Ok(worker) => (Ok(()), Some(worker)),
        Err(error) => (Err(error), None),
    };
    // Nobody listens any more only when the launch has failed already.
    let _ = ready.send(outcome);
    drop(ready);
    let mut worker = worker?;
    let outcome = catch_unwind(AssertUnwindSafe(|| run(&mut worker, idle, clock)));
    let died = outcome.err().map(|payload| {
        let message = payload
            .downcast_ref::<&str>()
            .map(ToString::to_string)
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        worker.desk.mourn(&message);
        Died { worker: index, message }
    });
    Some(Retired { worker, died })
}

/// On its own core, the worker with its tables.
fn prepare<E: Process>(seat: Seat, core: Option<usize>) -> Result<Worker<E>, LaunchError> {
    if let Some(core) = core.filter(|&id| !core_affinity::set_for_current(CoreId { id })) {
        let worker = seat.index();
        seat.leave();
        return Err(LaunchError::Pin { worker, core });
    }
    seat.sit()
}

/// Turn after turn until the worker is to stop.
fn run<E: Process>(worker: &mut Worker<E>, idle: Idle, clock: Clock) {
    let mut busy_at = clock.now();
    while !worker.desk.stopping() {
        let now = clock.now();
        if worker.turn(now, true) {
            busy_at = now;
        } else if idle == Idle::Sleep && now.since(busy_at) >= SPIN {
            worker.sleep();
        } else {
            std::hint::spin_loop();
        }
    }
}

impl<E: Process> Running<E> {
    /// Publishes a configuration and waits until all workers work with it, at most for `patience`.
    ///
    /// # Errors
    /// The workers that did not take it in time; they take it as soon as they can.
    pub fn publish(&self, snapshot: Arc<Snapshot>, patience: Duration) -> Result<(), Lagging> {
        self.publisher().publish(snapshot, patience)
    }

    /// The configuration published last.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.publisher().current()
    }

    fn publisher(&self) -> MutexGuard<'_, Publisher> {
        self.publisher.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The configuration that each worker works with.
    pub fn acknowledged(&self) -> impl Iterator<Item = Generation> {
        self.desks.iter().map(|desk| desk.acknowledged())
    }

    /// What each worker has counted, at most [`PERIOD`](crate::worker::stats::PERIOD) ago.
    pub fn totals(&self) -> Vec<WorkerTotals> {
        self.desks.iter().map(|desk| desk.board.read()).collect()
    }

    /// The readers' ends of the events of sessions, one a worker; whoever asks first gets them.
    pub fn take_events(&self) -> Vec<Consumer<Event>> {
        std::mem::take(&mut *self.events.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The ports, in the order of their index.
    pub fn ports(&self) -> &[PortInfo] {
        &self.ports
    }

    /// The pool of all buffers.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Whether all workers live. A gateway with a dead worker serves only some of its sessions: it should be stopped.
    ///
    /// # Errors
    /// The first dead worker and its last words.
    pub fn check(&self) -> Result<(), Died> {
        for (index, desk) in self.desks.iter().enumerate() {
            if let Some(message) = desk.last_words() {
                return Err(Died { worker: WorkerIndex(index as u16), message: message.to_owned() });
            }
        }
        Ok(())
    }

    /// Whether all ports have come to the end of what they replay, and all of it has been dealt with. A gateway on a
    /// network never finishes.
    pub fn is_finished(&self) -> bool {
        self.desks.iter().all(|desk| desk.is_finished())
    }

    /// Stops: no more frames are received, what is on its way is sent, the ports are closed and left as they were
    /// found, the threads end.
    pub fn stop(mut self) -> Final {
        self.halt()
    }

    fn halt(&mut self) -> Final {
        for desk in &self.desks {
            desk.stop();
        }
        let retired = self.threads.drain(..).filter_map(|thread| thread.join().ok().flatten()).collect();
        finish(retired, &self.pool, self.clock.now())
    }
}

impl<E: Process> Drop for Running<E> {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.halt();
        }
    }
}
