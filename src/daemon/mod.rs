//! The gateway as a process: started from a configuration file, ended by a signal.
//!
//! What is taken at the start is given back in reverse: the management socket, the workers, the ports.

mod capsule;
mod dpdk;
mod links;
mod logging;
mod notify;
mod ports;
mod signals;
mod watchdog;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::api;
use crate::base::time::Clock;
use crate::config::{self, Compiler, Model, PortFacts, Workers};
use crate::control::manager::{Facts, Manager, Observer, Parts};
use crate::control::metering::{self, Books, Metering};
use crate::control::protocol::ReloadRequest;
use crate::control::session_log;
use crate::control::socket::{BindError, Limits, Listener, Server};
use crate::control::store::Store;
use crate::control::writer::{Ledger, LoadError, Writer};
use crate::policy::Snapshot;
use crate::worker::{self, Died, Final, Gateway, Idle, LaunchError, OnDeath, Running, Setup, Threads};
use links::Links;
use notify::Notifier;
use ports::{OpenError, Opened};
use signals::{Signal, Signals};
use watchdog::Watchdog;

/// How often the management thread looks after the workers.
const WATCH: Duration = Duration::from_millis(100);
/// Time that management connections have to let go of the manager when the gateway stops.
const RELEASE: Duration = Duration::from_secs(6);

/// Why a gateway did not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration file has errors.
    #[error("{0}")]
    Configuration(#[from] config::Errors),
    /// The store cannot be used.
    #[error("{0}")]
    Store(#[from] LoadError),
    /// The management socket cannot be had.
    #[error("system.control {0}")]
    Socket(#[from] BindError),
    /// The API cannot be served.
    #[error("{0}")]
    Api(#[from] api::StartError),
    /// The session log cannot be kept.
    #[error("{0}")]
    SessionLog(#[from] session_log::StartError),
    /// The API keys cannot be read.
    #[error("{0}")]
    Keys(String),
    /// A port cannot be opened.
    #[error("{0}")]
    Port(#[from] OpenError),
    /// What gateways and EIPs used cannot be kept.
    #[error("{0}")]
    Metering(#[from] metering::OpenError),
    /// The workers cannot be started.
    #[error("{0}")]
    Launch(#[from] LaunchError),
    /// A worker ended by itself: a defect.
    #[error("{0}; the gateway was stopped. This is a defect of natgate: please report it")]
    Died(#[from] Died),
    /// The accounts do not add up at the end: a defect.
    #[error("at the end {0}. This is a defect of natgate: please report it")]
    Accounts(String),
    /// The operating system refused something else.
    #[error("{action} failed: {error}")]
    System {
        /// What was tried.
        action: &'static str,
        /// The reason.
        error: std::io::Error,
    },
}

impl Error {
    /// Whether the input was wrong, not the machine.
    pub fn is_input(&self) -> bool {
        matches!(self, Self::Configuration(_))
    }
}

/// Runs a gateway until SIGTERM or SIGINT comes, or until its ports have nothing more to give.
///
/// # Errors
/// Why it could not be started, or what went wrong while it ran. The ports are given back in any case.
pub fn run(config: &Path) -> Result<(), Error> {
    let system = |action| move |error| Error::System { action, error };
    // Before any thread is there: all of them are to leave the signals to one.
    let signals = Signals::catch().map_err(system("catching signals"))?;
    let config = std::path::absolute(config).map_err(system("finding the configuration file"))?;
    let model = config::load(&config)?;
    logging::start(model.system().log);
    let notifier = Arc::new(Notifier::from_environment());
    // First of all that is taken: a gateway that runs already is not disturbed at its ports.
    let listener = Listener::bind(&model.system().control)?;
    let socket = listener.path().to_owned();
    let log = model.session_log().map(session_log::Places::open).transpose()?;
    let books = model.metering().map(Books::open).transpose()?.map(Arc::new);
    let (api_socket, listens) = (model.api().socket.clone(), model.api().listen);
    let api = api::Listeners::open(model.api())?;

    let events = log.as_ref().map_or(0, session_log::Places::events);
    let (manager, ledger) = start(config, model, Arc::clone(&notifier), events)?;
    let manager = Arc::new(manager);
    let log = log.map(|places| places.start(manager.take_events(), manager.clock(), manager.names()));
    let log = log.transpose().map_err(system("starting the session log"))?;
    if let Some(log) = &log {
        manager.attach_log(log.ledger());
    }
    if let Some(books) = &books {
        manager.attach_books(Arc::clone(books));
    }
    let metering = Metering::start(Arc::clone(&manager) as _, books);
    let metering = metering.map_err(system("starting the metering thread"))?;
    let writer = ledger.map(|ledger| Writer::start(ledger, Arc::clone(&manager) as _));
    let writer = writer.transpose().map_err(system("starting the writer"))?;
    if let Some(desk) = writer.as_ref().and_then(Writer::desk) {
        manager.attach(desk).map_err(Error::Keys)?;
    }
    let api = api::Server::start(api, Arc::clone(&manager) as _)?;
    let server = Server::start(listener, Arc::clone(&manager) as _, Limits::default())
        .map_err(system("starting the management thread"))?;
    let listens = listens.map_or_else(String::new, |address| format!(" and {address}"));
    log::info!("ready; management at {}, API at {}{listens}", socket.display(), api_socket.display());
    notifier.ready("forwarding");

    let watched = watch(&manager, &signals, &notifier);

    notifier.stopping();
    manager.hurry();
    server.stop();
    drop(api);
    drop(writer);
    drop(metering);
    let ended = release(manager).map(Manager::stop);
    // The workers have told their last.
    drop(log);
    watched?;
    conclude(ended)
}

/// Opens the ports, compiles the configuration and starts the workers.
fn start(
    config: PathBuf,
    model: Model,
    notifier: Arc<Notifier>,
    events: usize,
) -> Result<(Manager, Option<Ledger>), Error> {
    let store = model.store().map(Store::open).transpose().map_err(LoadError::from)?;
    let system = model.system();
    let cores = cores(&system.workers, capsule::is_needed(&model))?;
    let workers = cores.as_ref().map_or_else(|| system.workers.count(1), Vec::len);
    let Opened { ports, pool, claims, crew } = ports::open(&model, workers, cores.as_deref())?;
    let facts: Vec<_> =
        ports.iter().map(|port| PortFacts { mac: port.info.mac, mtu: port.info.mtu }).collect();
    let mut compiler = Compiler::new();
    let (ledger, snapshot, directory, model) = match store {
        Some(store) => {
            let (ledger, start) = Ledger::load(store, model, facts.clone())?;
            claims.follow(&start.model, || addresses(&start.snapshot))?;
            (Some(ledger), start.snapshot, Arc::new(start.directory), start.model)
        }
        None => {
            let snapshot = compiler.compile(&model, &facts, &Snapshot::default())?;
            (None, snapshot, compiler.directory(), model)
        }
    };
    let system = model.system();
    let sessions = system.sessions.div_ceil(workers);
    let neighbours = system.neighbours;
    let clock = Clock::start();
    let idle = match system.idle {
        Some(config::Idle::Poll) => Idle::Poll,
        Some(config::Idle::Sleep) => Idle::Sleep,
        // A worker is never woken by a port of DPDK.
        None if model.ports().iter().any(|port| port.backend.dpdk_device().is_some()) => Idle::Poll,
        None => Idle::Sleep,
    };
    let setup = Setup {
        ports,
        pool,
        workers: workers as u16,
        sessions,
        neighbours,
        snat_eips: system.snat_eips,
        ring: worker::setup::RING,
        events,
        seed: None,
        snapshot,
    };
    let on_death = match system.worker_failure {
        config::WorkerFailure::Restart => OnDeath::Restart,
        config::WorkerFailure::Exit => OnDeath::Mourn,
    };
    let running = Gateway::launch_on(setup, Threads { cores: cores.clone(), idle, clock, on_death }, crew)?;
    introduce(&model, &running, workers, cores.as_deref());
    let observer = Box::new(Follower { notifier, claims });
    let manager = Manager::new(Parts {
        running,
        model,
        directory,
        compiler,
        facts: Facts { config, ports: facts, cores, sessions, neighbours, clock },
        observer,
    });
    Ok((manager, ledger))
}

/// The core of each worker; none when the operating system is to place them, unless each must have one.
fn cores(workers: &Workers, must: bool) -> Result<Option<Vec<usize>>, OpenError> {
    if let Workers::Cores(cores) = workers {
        return Ok(Some(cores.clone()));
    }
    let all: Option<Vec<_>> =
        core_affinity::get_core_ids().map(|all| all.iter().map(|core| core.id).collect());
    let Some(all) = all.filter(|all| !all.is_empty()) else { return Ok(None) };
    let count = workers.count(all.len());
    let is_placed = must || matches!(workers, Workers::PerCore) && all.len() > 1;
    if !is_placed {
        return Ok(None);
    }
    if count > all.len() {
        return Err(OpenError::Cores { workers: count, cores: all.len() });
    }
    // The first core is left to the system where there is another.
    let others = all.len() - count;
    Ok(Some(all.into_iter().skip(others.min(1)).take(count).collect()))
}

fn introduce(model: &Model, running: &Running, workers: usize, cores: Option<&[usize]>) {
    log::info!("natgate {}, configuration {}", env!("CARGO_PKG_VERSION"), model.file());
    for (port, info) in model.ports().iter().zip(running.ports()) {
        log::info!("port {} on {}: {}", port.name, info.device, info.mode);
    }
    let place = cores.map_or_else(|| "not pinned".to_owned(), |cores| format!("on cores {cores:?}"));
    log::info!("workers: {workers}, {place}");
    let pool = running.pool();
    let (slots, size, pages) = (pool.slots(), pool.slot_size(), pool.pages());
    log::info!("{slots} packet buffers of {size} bytes, pages: {pages:?}");
    if workers > 1 {
        log::info!("packets that arrive at another worker than their session's are handed over by rings");
    }
}

/// Carries signals out until one of them, a dead worker or the end of all input ends the gateway.
fn watch(manager: &Manager, signals: &Signals, notifier: &Notifier) -> Result<(), Error> {
    let clock = Clock::start();
    let mut watchdog = Watchdog::from_environment(clock.now());
    let mut links = Links::default();
    loop {
        links.look(clock.now(), || manager.links(), |port| manager.restore(port));
        watchdog.look(clock.now(), || manager.turns(), |worker| manager.note_stall(worker), notifier);
        manager.look_at_departures();
        for incident in manager.incidents() {
            log::error!("{incident}");
        }
        match signals.wait(WATCH) {
            Some(Signal::Stop(name)) => {
                log::info!("{name}: stopping");
                return Ok(());
            }
            Some(Signal::Reload) => {
                if let Err(fault) = manager.reload(&ReloadRequest::default()) {
                    for finding in &fault.findings {
                        log::error!("{finding}");
                    }
                    log::error!("reload: {fault}");
                }
            }
            None => {}
        }
        if let Err(died) = manager.check() {
            log::error!("{died}");
            return Err(died.into());
        }
        if manager.is_finished() {
            log::info!("all captures are replayed: stopping");
            return Ok(());
        }
    }
}

/// The manager, when the last management thread has let go of it.
fn release(mut manager: Arc<Manager>) -> Option<Manager> {
    let clock = Clock::start();
    let start = clock.now();
    loop {
        manager = match Arc::try_unwrap(manager) {
            Ok(manager) => return Some(manager),
            Err(manager) => manager,
        };
        if clock.now().since(start) > RELEASE {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn conclude(ended: Option<Final>) -> Result<(), Error> {
    let Some(ended) = ended else {
        return Err(Error::Accounts("a management request did not end".into()));
    };
    for (worker, port, error) in &ended.unclosed {
        log::warn!("port {port}, queue {worker}: it could not be left as it was found: {error}");
    }
    if let Some(died) = ended.died.first() {
        return Err(died.clone().into());
    }
    ended.verify().map_err(Error::Accounts)?;
    log::info!("stopped; every packet is accounted for");
    Ok(())
}

/// All EIPs.
fn addresses(snapshot: &Snapshot) -> impl Iterator<Item = Ipv4Addr> {
    snapshot.eips().map(|eip| eip.address.into())
}

/// What follows a configuration besides the workers: the service manager, and what ports leave to the kernel.
#[derive(Debug)]
struct Follower {
    notifier: Arc<Notifier>,
    claims: ports::SharedPorts,
}

impl Observer for Follower {
    fn reloading(&self) {
        self.notifier.reloading();
    }

    fn reloaded(&self) {
        self.notifier.ready("forwarding");
    }

    fn in_force(&self, model: &Model, snapshot: &Snapshot) -> Result<(), String> {
        self.claims.follow(model, || addresses(snapshot)).map_err(|error| error.to_string())
    }
}
