//! A running gateway: one named, pinned thread a worker, or that of a back end's crew, and what management may do with it.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use core_affinity::CoreId;
use rtrb::Consumer;

use crate::base::time::Clock;
use crate::base::{Generation, Moment, PortIndex, WorkerIndex};
use crate::nat::{Engine, EngineConfig, Event};
use crate::nic::crew::Work;
use crate::nic::{Crew, Pool, PortInfo};
use crate::policy::Snapshot;
use crate::worker::desk::{Desk, Health, Incident};
use crate::worker::finish::{Died, Final, Retired, finish};
use crate::worker::idle::{Idle, SPIN};
use crate::worker::process::Process;
use crate::worker::publish::{Lagging, Publisher};
use crate::worker::revive::{Lost, Patience};
use crate::worker::setup::{Guards, LaunchError, Monitors, Seat, Setup};
use crate::worker::stats::WorkerTotals;
use crate::worker::turn::Worker;

/// Turns that a worker takes at a time on a thread that is not its own.
const TURNS: usize = 32;

/// How the workers' threads run.
#[derive(Clone, Debug)]
pub struct Threads {
    /// The core of each worker; without it the operating system places them. A crew has its places already.
    pub cores: Option<Vec<usize>>,
    /// What they do without work.
    pub idle: Idle,
    /// The clock that they read.
    pub clock: Clock,
    /// What becomes of one that dies.
    pub on_death: OnDeath,
}

/// What becomes of a worker that dies of a panic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDeath {
    /// It works on with an engine without sessions. One that dies too often is [`Died`] all the same.
    #[default]
    Restart,
    /// It is [`Died`].
    Mourn,
}

/// Starts gateways.
#[derive(Clone, Copy, Debug)]
pub struct Gateway;

/// A gateway at work. Dropped without [`stop`](Self::stop), it stops all the same.
#[derive(Debug)]
pub struct Running<E: Process = Engine> {
    /// Of the workers with threads of their own.
    threads: Vec<JoinHandle<Option<Retired<E>>>>,
    /// Where those on a crew's threads come to when they have ended.
    retired: Option<Mutex<Receiver<Retired<E>>>>,
    pub(super) desks: Vec<Arc<Desk>>,
    publisher: Mutex<Publisher>,
    pool: Arc<Pool>,
    ports: Vec<PortInfo>,
    monitors: Monitors,
    clock: Clock,
    /// Whether a trace is in progress.
    pub(super) is_tracing: Mutex<bool>,
    /// Whether somebody watches sessions.
    pub(super) is_watched: Mutex<bool>,
    /// Whether a capture is.
    pub(super) is_capturing: Mutex<bool>,
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
        Self::launch_on(setup, threads, None)
    }

    /// The same on the threads of a back end that brings its own, if there is such a crew.
    ///
    /// # Errors
    /// As [`launch`](Self::launch); and if the crew is not one thread a worker.
    pub fn launch_on<E: Process>(
        setup: Setup,
        threads: Threads,
        crew: Option<Crew>,
    ) -> Result<Running<E>, LaunchError> {
        let Threads { cores, idle, clock, on_death } = threads;
        let workers = setup.workers;
        if let Some(cores) = cores.as_ref().filter(|cores| cores.len() != usize::from(workers)) {
            return Err(LaunchError::Cores { cores: cores.len(), workers });
        }
        let (seats, office) = setup.assemble()?;
        let mut running = Running {
            threads: Vec::new(),
            retired: None,
            desks: office.desks,
            publisher: Mutex::new(office.publisher),
            pool: office.pool,
            ports: office.ports,
            monitors: office.monitors,
            clock,
            is_tracing: Mutex::new(false),
            is_watched: Mutex::new(false),
            is_capturing: Mutex::new(false),
            events: Mutex::new(office.events),
            _guards: Mutex::new(office.guards),
        };
        let (ready, started) = channel();
        let starts = seats.into_iter().map(|seat| {
            let core = cores.as_ref().and_then(|cores| cores.get(seat.index().index()).copied());
            Start { seat, core, idle, clock, on_death, ready: ready.clone() }
        });
        match crew {
            None => {
                for start in starts {
                    let name = format!("natgate-w{}", start.seat.index());
                    let thread = std::thread::Builder::new().name(name).spawn(move || alone(start))?;
                    running.threads.push(thread);
                }
            }
            Some(crew) => {
                let (retire, retired) = channel();
                running.retired = Some(Mutex::new(retired));
                crew.assign(starts.map(|start| shift(start, retire.clone())).collect())?;
            }
        }
        drop(ready);
        // Ends when every worker has spoken. An error drops `running`, and that stops the others.
        let ready: Vec<()> = started.iter().collect::<Result<_, _>>()?;
        if ready.len() != usize::from(workers) {
            return Err(std::io::Error::other("it died at once").into());
        }
        Ok(running)
    }
}

/// What a worker starts from on its thread.
struct Start {
    seat: Seat,
    core: Option<usize>,
    idle: Idle,
    clock: Clock,
    on_death: OnDeath,
    ready: Sender<Result<(), LaunchError>>,
}

/// The life of a worker on a thread of its own.
fn alone<E: Process>(start: Start) -> Option<Retired<E>> {
    let mut life = Life::begin(start)?;
    loop {
        if let Some(retired) = life.work(usize::MAX) {
            return Some(retired);
        }
    }
}

/// The same in pieces, for a thread of a back end's crew. There it begins with the first of them.
fn shift<E: Process>(start: Start, retire: Sender<Retired<E>>) -> Work {
    // The crew has put its threads on their cores.
    let mut start = Some(Start { core: None, ..start });
    let mut life = None;
    Box::new(move || {
        if let Some(start) = start.take() {
            life = Life::begin(start);
        }
        let Some(work) = life.as_mut().map(|life: &mut Life<E>| life.work(TURNS)) else {
            return ControlFlow::Break(());
        };
        let Some(retired) = work else { return ControlFlow::Continue(()) };
        // Nobody waits for it any more only when the gateway is given up.
        let _ = retire.send(retired);
        ControlFlow::Break(())
    })
}

/// A worker at work.
struct Life<E> {
    /// Until it retires.
    worker: Option<Worker<E>>,
    config: EngineConfig,
    idle: Idle,
    clock: Clock,
    on_death: OnDeath,
    patience: Patience,
    /// When it had something to do last.
    busy_at: Moment,
}

impl<E: Process> Life<E> {
    /// Makes the worker on this thread, and says whether that went well.
    fn begin(start: Start) -> Option<Self> {
        let Start { seat, core, idle, clock, on_death, ready } = start;
        let config = seat.config();
        let (outcome, worker) = match prepare(seat, core) {
            Ok(worker) => (Ok(()), Some(worker)),
            Err(error) => (Err(error), None),
        };
        // Nobody listens any more only when the launch has failed already.
        let _ = ready.send(outcome);
        drop(ready);
        let (patience, busy_at) = (Patience::default(), clock.now());
        worker.map(|worker| Self { worker: Some(worker), config, idle, clock, on_death, patience, busy_at })
    }

    /// Works for so many turns at most; gives the worker up if that was its end.
    fn work(&mut self, turns: usize) -> Option<Retired<E>> {
        let worker = self.worker.as_mut()?;
        let (idle, clock, busy_at) = (self.idle, self.clock, &mut self.busy_at);
        let outcome = catch_unwind(AssertUnwindSafe(|| run(worker, idle, clock, busy_at, turns)));
        let died = match outcome {
            Ok(ControlFlow::Continue(())) => return None,
            Ok(ControlFlow::Break(())) => None,
            Err(payload) => Some(self.rise(last_words(&*payload)).err()?),
        };
        self.worker.take().map(|worker| Retired { worker, died })
    }

    /// Makes a worker that died of a panic work on, or says of what it died.
    fn rise(&mut self, mut message: String) -> Result<(), Died> {
        let Some(worker) = &mut self.worker else { return Ok(()) };
        let (index, died_at) = (self.config.worker, self.clock.now());
        if self.on_death == OnDeath::Restart && self.patience.bears(died_at) {
            match worker.revive(&self.config) {
                Ok(Lost { sessions, frames }) => {
                    let took = self.clock.now().since(died_at);
                    worker.desk.note(Incident { worker: index, message, sessions, frames, took });
                    self.busy_at = self.clock.now();
                    return Ok(());
                }
                Err(reason) => message = format!("{message}; it cannot be started anew: {reason}"),
            }
        }
        worker.desk.mourn(&message);
        Err(Died { worker: index, message })
    }
}

/// What a panic said.
fn last_words(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default()
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

/// Turn after turn, at most so many; breaks off when the worker is to stop.
fn run<E: Process>(
    worker: &mut Worker<E>,
    idle: Idle,
    clock: Clock,
    busy_at: &mut Moment,
    turns: usize,
) -> ControlFlow<()> {
    for _ in 0..turns {
        if worker.desk.stopping() {
            return ControlFlow::Break(());
        }
        let now = clock.now();
        if worker.turn(now, true) {
            *busy_at = now;
        } else if idle == Idle::Sleep && now.since(*busy_at) >= SPIN {
            worker.sleep();
        } else {
            std::hint::spin_loop();
        }
    }
    ControlFlow::Continue(())
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

    /// The speed of a port's link in Mbit/s, zero while it is down; `None` if its device does not say.
    pub fn link(&self, port: PortIndex) -> Option<u32> {
        self.monitors.of(port)?.link()
    }

    /// The counters of a port's device that are not zero, by its own names.
    pub fn device_counters(&self, port: PortIndex) -> Vec<(String, u64)> {
        let Some(device) = self.monitors.of(port) else { return Vec::new() };
        device.statistics()
    }

    /// Makes a port's device distribute frames over the workers as it is to, if it does not any more; says what was found then.
    pub fn restore(&self, port: PortIndex) -> Option<String> {
        self.monitors.of(port)?.restore()
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

    /// Workers that died and work again, since this was asked last.
    pub fn incidents(&self) -> Vec<Incident> {
        self.desks.iter().flat_map(|desk| desk.incidents()).collect()
    }

    /// Notes that a worker stands still.
    pub fn note_stall(&self, worker: WorkerIndex) {
        if let Some(desk) = self.desks.get(worker.index()) {
            desk.stalled();
        }
    }

    /// How each worker fares.
    pub fn health(&self) -> Vec<Health> {
        self.desks.iter().map(|desk| desk.health()).collect()
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
        let own = self.threads.drain(..).filter_map(|thread| thread.join().ok().flatten());
        let mut retired: Vec<_> = own.collect();
        if let Some(of_crew) = self.retired.take() {
            // Ends when the last of them has: each holds a sender as long as it works.
            retired.extend(of_crew.into_inner().unwrap_or_else(PoisonError::into_inner));
            retired.sort_by_key(|retired| retired.worker.index.index());
        }
        finish(retired, &self.pool, self.clock.now())
    }
}

impl<E: Process> Drop for Running<E> {
    fn drop(&mut self) {
        if !self.threads.is_empty() || self.retired.is_some() {
            self.halt();
        }
    }
}
