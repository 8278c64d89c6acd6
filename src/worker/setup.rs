//! From opened ports to workers that only lack their thread.

use std::io;
use std::sync::Arc;

use rtrb::{Consumer, Producer, RingBuffer};

use crate::base::{PortIndex, Rng, WorkerIndex};
use crate::nat::{Distributions, EngineConfig, Event};
use crate::nic::{Cache, Monitor, Pool, Port, PortInfo};
use crate::policy::Snapshot;
use crate::worker::desk::Desk;
use crate::worker::handoff::Links;
use crate::worker::idle::MAX_PORTS;
use crate::worker::port::{Core, WorkerPort};
use crate::worker::process::Process;
use crate::worker::publish::{Publisher, Reader};
use crate::worker::stats::Activity;
use crate::worker::turn::{Path, Worker};

/// Frames that may wait between two workers, unless set otherwise: four batches.
pub const RING: usize = 1024;
/// Entries of a queue's receive ring, and of its transmit ring.
const QUEUE: usize = 2048;
/// Buffers that a worker keeps at hand, and those of the frames that it works on.
const WORKER: usize = 2048;

/// Buffers for full rings everywhere.
pub fn buffers(ports: usize, workers: usize) -> usize {
    workers * (ports * 2 * QUEUE + (workers - 1) * RING + WORKER)
}

/// What a gateway is made of.
#[derive(Debug)]
pub struct Setup {
    /// The ports in the order of their index, each with one queue a worker.
    pub ports: Vec<Port>,
    /// The pool that the ports' buffers come from.
    pub pool: Arc<Pool>,
    /// Number of workers.
    pub workers: u16,
    /// Sessions that each worker has room for.
    pub sessions: usize,
    /// Neighbours that each worker has room for.
    pub neighbours: usize,
    /// EIPs in SNAT pools that each worker has room for.
    pub snat_eips: usize,
    /// Frames that may wait between two workers; usually [`RING`].
    pub ring: usize,
    /// Events of sessions that may wait for a reader, for each worker; zero if there is none.
    pub events: usize,
    /// Makes random numbers repeat, for tests; the operating system seeds them otherwise.
    pub seed: Option<u64>,
    /// The first configuration.
    pub snapshot: Arc<Snapshot>,
}

/// Why a gateway could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// No worker at all.
    #[error("at least one worker is needed")]
    NoWorkers,
    /// More ports than a worker can wait for.
    #[error("{0} ports, and {MAX_PORTS} are the most")]
    TooManyPorts(usize),
    /// The ports are not in the order of their index.
    #[error("port {device} has index {index} at position {position}")]
    PortOrder {
        /// The port's device.
        device: String,
        /// Its index.
        index: PortIndex,
        /// Its place in the list.
        position: usize,
    },
    /// A port was opened with another number of queues.
    #[error("port {device} has {queues} queues for {workers} workers")]
    Queues {
        /// The port's device.
        device: String,
        /// Its queues.
        queues: usize,
        /// The workers.
        workers: u16,
    },
    /// The list of cores does not name one core a worker.
    #[error("{cores} cores are named for {workers} workers")]
    Cores {
        /// Named cores.
        cores: usize,
        /// The workers.
        workers: u16,
    },
    /// The operating system did not pin a worker to its core.
    #[error(
        "worker {worker} cannot run on core {core}: the core does not exist or is not allowed for this process"
    )]
    Pin {
        /// The worker.
        worker: WorkerIndex,
        /// The core.
        core: usize,
    },
    /// No memory for a worker's tables.
    #[error("no memory for the tables of worker {worker}: {source}")]
    Memory {
        /// The worker.
        worker: WorkerIndex,
        /// What the kernel said.
        source: io::Error,
    },
    /// The operating system gave no thread, event descriptor or random seed.
    #[error("a worker could not be started: {0}")]
    System(#[from] io::Error),
}

/// What management holds of a gateway, apart from its workers.
#[derive(Debug)]
pub(super) struct Office {
    pub(super) desks: Vec<Arc<Desk>>,
    pub(super) publisher: Publisher,
    pub(super) pool: Arc<Pool>,
    pub(super) ports: Vec<PortInfo>,
    pub(super) monitors: Monitors,
    pub(super) guards: Guards,
    pub(super) events: Vec<Consumer<Event>>,
}

/// The devices that say something of themselves, by the port's index.
pub(super) struct Monitors(Vec<Option<Box<dyn Monitor>>>);

impl Monitors {
    pub(super) fn of(&self, port: PortIndex) -> Option<&dyn Monitor> {
        self.0.get(port.index())?.as_deref()
    }
}

impl std::fmt::Debug for Monitors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Monitors")
    }
}

/// What undoes the changes to the devices when it is dropped.
pub(super) struct Guards(#[expect(dead_code, reason = "held only to be dropped")] Vec<Box<dyn Send>>);

impl std::fmt::Debug for Guards {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Guards")
    }
}

/// A worker without its engine: the engine is made on the worker's own core, so that its memory lies near.
#[derive(Debug)]
pub(super) struct Seat {
    config: EngineConfig,
    desk: Arc<Desk>,
    reader: Reader,
    links: Links,
    ports: Vec<WorkerPort>,
    cache: Cache,
    events: Option<Producer<Event>>,
}

impl Setup {
    /// Checks the parts and puts them together.
    pub(super) fn assemble(self) -> Result<(Vec<Seat>, Office), LaunchError> {
        self.check()?;
        let count = usize::from(self.workers);
        let desks = (0..count).map(|_| Ok(Arc::new(Desk::new(self.ports.len())?)));
        let desks: Vec<_> = desks.collect::<io::Result<_>>()?;
        let publisher = Publisher::new(self.snapshot, &desks);
        let mut queues: Vec<Vec<WorkerPort>> = desks.iter().map(|_| Vec::new()).collect();
        let (mut ports, mut guards) = (Vec::new(), Vec::new());
        let (mut distributions, mut monitors) = (Vec::new(), Vec::new());
        for port in self.ports {
            for (of_worker, queue) in queues.iter_mut().zip(port.queues) {
                of_worker.push(WorkerPort::new(port.index, queue));
            }
            distributions.push(port.rss.filter(|_| count > 1));
            monitors.push(port.monitor);
            ports.push(port.info);
            guards.extend(port.guard);
        }
        if distributions.iter().all(Option::is_none) {
            distributions.clear();
        }
        let distributions: Distributions = distributions.into();
        let mut seats = Vec::new();
        let mut events = Vec::new();
        let links = Links::mesh(&desks, self.ring.max(1));
        for (index, ((desk, links), ports)) in desks.iter().zip(links).zip(queues).enumerate() {
            let config = EngineConfig {
                worker: WorkerIndex(index as u16),
                workers: self.workers,
                sessions: self.sessions,
                neighbours: self.neighbours,
                snat_eips: self.snat_eips,
                distributions: Arc::clone(&distributions),
                rng: match self.seed {
                    Some(seed) => Rng::from_seed(seed.wrapping_add(index as u64)),
                    None => Rng::from_system()?,
                },
            };
            let (desk, reader, cache) = (Arc::clone(desk), publisher.reader(), self.pool.cache());
            let told = (self.events > 0).then(|| {
                let (tell, read) = RingBuffer::new(self.events);
                events.push(read);
                tell
            });
            seats.push(Seat { config, desk, reader, links, ports, cache, events: told });
        }
        let (monitors, guards) = (Monitors(monitors), Guards(guards));
        Ok((seats, Office { desks, publisher, pool: self.pool, ports, monitors, guards, events }))
    }

    fn check(&self) -> Result<(), LaunchError> {
        if self.workers == 0 {
            return Err(LaunchError::NoWorkers);
        }
        if self.ports.len() > MAX_PORTS {
            return Err(LaunchError::TooManyPorts(self.ports.len()));
        }
        for (position, port) in self.ports.iter().enumerate() {
            let device = || port.info.device.clone();
            if port.index.index() != position {
                return Err(LaunchError::PortOrder { device: device(), index: port.index, position });
            }
            let (queues, workers) = (port.queues.len(), self.workers);
            if queues != usize::from(workers) {
                return Err(LaunchError::Queues { device: device(), queues, workers });
            }
        }
        Ok(())
    }
}

impl Seat {
    /// What its engine is made with.
    pub(super) fn config(&self) -> EngineConfig {
        self.config.clone()
    }

    pub(super) fn index(&self) -> WorkerIndex {
        self.config.worker
    }

    /// Makes the engine. If there is no memory for it, the queues are closed.
    pub(super) fn sit<E: Process>(self) -> Result<Worker<E>, LaunchError> {
        let index = self.config.worker;
        match E::make(self.config.clone()) {
            Ok(mut engine) => {
                if let Some(ring) = self.events {
                    engine.tell(ring);
                }
                let core = Core { engine, cache: self.cache, activity: Activity::default() };
                // A thread's first look takes memory: it is taken here and not on the packet path.
                drop(self.reader.arc_swap().load_full());
                let path = Path::new(core, self.ports, self.links);
                Ok(Worker::new(index, self.desk, self.reader, path))
            }
            Err(source) => {
                self.leave();
                Err(LaunchError::Memory { worker: index, source })
            }
        }
    }

    /// Closes the queues of a worker that never worked.
    pub(super) fn leave(mut self) {
        for port in &mut self.ports {
            // The gateway does not start: the reason for that is what people are told.
            let _ = port.queue.close(&mut self.cache);
        }
    }
}
