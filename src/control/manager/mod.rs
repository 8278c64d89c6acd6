//! The manager: whatever is asked of a running gateway, as plain methods. It knows no transport.
//!
//! | module | what it does |
//! | --- | --- |
//! | `changes` | resources that live in a store |
//! | `reload` | applies a changed configuration file as one step |
//! | `leaving` | what becomes of the sessions of entries that a reload changes |
//! | `report` | status and counters |
//! | `sessions` | lists live sessions |
//! | `capture` | copies the next frames, with what becomes of each |
//! | `trace` | shows what becomes of the next packets |
//! | `explain` | says what would become of a packet |
//! | `usage` | what gateways, EIPs and entries have carried |
//! | `watch` | ends sessions, and shows those that begin and end |
//! | `who` | who had an address at a time |
//! | `forecast` | when external ports will be used up |
//! | `metering` | what gateways and EIPs used, hour by hour |
//! | `names` | what workers speak of, in the words of the configuration |

mod capture;
mod changes;
mod explain;
mod forecast;
mod leaving;
mod metering;
pub(super) mod names;
mod reload;
mod report;
mod sessions;
mod trace;
mod usage;
mod watch;
mod who;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use rtrb::Consumer;

use crate::base::time::Clock;
use crate::base::{Moment, PortIndex, WorkerIndex};
use crate::config::{Compiler, Directory, Model, PortFacts};
use crate::control::access::{self, Caller};
use crate::control::departures::Departures;
use crate::control::keys::Keys;
use crate::control::manager::forecast::Forecast;
use crate::control::metering::Books;
use crate::control::protocol::{Answer, ChangeRequest, Changed, End, Fault, Request};
use crate::control::service::{Gone, Interrupted, Service, Sink, Waiting};
use crate::control::session_log::Ledger;
use crate::control::writer::Desk;
use crate::nat::Event;
use crate::policy::Snapshot;
use crate::worker::{Died, Final, Incident, Running};

/// Who else is to know of a changed configuration, besides the workers.
pub trait Observer: std::fmt::Debug + Send + Sync {
    /// A configuration is about to be applied.
    fn reloading(&self);

    /// That has ended, well or not.
    fn reloaded(&self);

    /// All workers work with this configuration, which is compiled into this snapshot: whatever has to follow it does so now.
    ///
    /// # Errors
    /// What did not follow, in words.
    fn in_force(&self, model: &Model, snapshot: &Snapshot) -> Result<(), String>;
}

/// What does not change while a gateway runs.
#[derive(Debug)]
pub struct Facts {
    /// Where the configuration comes from.
    pub config: PathBuf,
    /// What the opened ports said.
    pub ports: Vec<PortFacts>,
    /// The cores of the workers, if they are pinned.
    pub cores: Option<Vec<usize>>,
    /// Sessions that each worker has room for.
    pub sessions: usize,
    /// Neighbours that each worker has room for.
    pub neighbours: usize,
    /// The clock of the workers.
    pub clock: Clock,
}

/// What a manager is made with.
#[derive(Debug)]
pub struct Parts {
    /// The gateway at work.
    pub running: Running,
    /// The configuration that it works with.
    pub model: Model,
    /// The names in that.
    pub directory: Arc<Directory>,
    /// The compiler that made its snapshot, if the file is the truth.
    pub compiler: Compiler,
    /// What does not change.
    pub facts: Facts,
    /// Who else is to know of a changed configuration.
    pub observer: Box<dyn Observer>,
}

/// What the running configuration is called. Replaced whole, so that readers wait for nobody.
#[derive(Debug)]
struct View {
    model: Arc<Model>,
    directory: Arc<Directory>,
}

/// The view of a manager, for whoever outlives it.
#[derive(Clone, Debug)]
pub struct Names(Arc<RwLock<Arc<View>>>);

impl Names {
    fn view(&self) -> Arc<View> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace(&self, next: Arc<View>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = next;
    }

    /// What everything is called at the moment.
    pub fn directory(&self) -> Arc<Directory> {
        Arc::clone(&self.view().directory)
    }
}

/// What a configuration file is applied with, if it is the truth.
#[derive(Debug)]
struct Filed {
    compiler: Compiler,
    departures: Departures,
}

/// The one that everything is asked of.
#[derive(Debug)]
pub struct Manager {
    running: Running,
    facts: Facts,
    view: Names,
    /// Held while a configuration file is applied: one after the other.
    file: Mutex<Filed>,
    observer: Box<dyn Observer>,
    /// Where resources are changed, if they live in a store.
    desk: OnceLock<Desk>,
    /// Who may ask from afar, likewise.
    keys: OnceLock<Keys>,
    /// What is logged of sessions, if it is.
    log: OnceLock<Arc<Ledger>>,
    /// What gateways and EIPs used, if that is kept.
    books: OnceLock<Arc<Books>>,
    /// When the bytes of live sessions were brought to their totals last.
    settled: Mutex<Option<Moment>>,
    /// How external ports are used up.
    forecast: Mutex<Forecast>,
    started: Moment,
    stopping: AtomicBool,
}

impl Manager {
    /// Manages a gateway that was just started.
    pub fn new(parts: Parts) -> Self {
        let Parts { running, model, directory, compiler, facts, observer } = parts;
        Self {
            running,
            view: Names(Arc::new(RwLock::new(Arc::new(View { model: Arc::new(model), directory })))),
            file: Mutex::new(Filed { compiler, departures: Departures::new() }),
            observer,
            desk: OnceLock::new(),
            keys: OnceLock::new(),
            log: OnceLock::new(),
            books: OnceLock::new(),
            settled: Mutex::new(None),
            forecast: Mutex::default(),
            started: facts.clock.now(),
            facts,
            stopping: AtomicBool::new(false),
        }
    }

    /// Whether all workers live.
    ///
    /// # Errors
    /// The first dead worker and its last words.
    pub fn check(&self) -> Result<(), Died> {
        self.running.check()
    }

    /// Workers that died and work again, since this was asked last.
    pub fn incidents(&self) -> Vec<Incident> {
        self.running.incidents()
    }

    /// Notes that a worker stands still.
    pub fn note_stall(&self, worker: usize) {
        self.running.note_stall(WorkerIndex(worker as u16));
    }

    /// The speed of each port's link in Mbit/s, zero while it is down, with the port's name; none where the device does not say.
    pub fn links(&self) -> Vec<(String, Option<u32>)> {
        let names = self.view().model.ports().iter().map(|port| port.name.to_string()).collect::<Vec<_>>();
        let link = |(index, name)| (name, self.running.link(PortIndex(index as u16)));
        names.into_iter().enumerate().map(link).collect()
    }

    /// Makes a port's device distribute frames over the workers as it is to, if it does not any more; says what was found then.
    pub fn restore(&self, port: usize) -> Option<String> {
        self.running.restore(PortIndex(port as u16))
    }

    /// Turns that each worker's loop has made: a worker whose number stays the same stands still.
    pub fn turns(&self) -> Vec<u64> {
        let turns = |activity: &crate::worker::Activity| activity.busy_turns + activity.idle_turns;
        self.running.totals().iter().map(|totals| turns(&totals.activity)).collect()
    }

    /// Whether all that is replayed has come to its end. A gateway on a network never finishes.
    pub fn is_finished(&self) -> bool {
        self.running.is_finished()
    }

    /// Ends what waits for something to happen, because the gateway is about to stop.
    pub fn hurry(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// The clock of the workers.
    pub fn clock(&self) -> Clock {
        self.facts.clock
    }

    /// The readers' ends of what workers tell of sessions.
    pub fn take_events(&self) -> Vec<Consumer<Event>> {
        self.running.take_events()
    }

    /// Stops the gateway and gives the ports back.
    pub fn stop(self) -> Final {
        self.running.stop()
    }

    fn view(&self) -> Arc<View> {
        self.view.view()
    }

    /// What everything is called, for whoever outlives the manager.
    pub fn names(&self) -> Names {
        self.view.clone()
    }

    fn uptime_seconds(&self) -> f64 {
        self.facts.clock.now().since(self.started).as_secs_f64()
    }
}

/// Goes on while somebody reads.
fn keep(sent: Result<(), Gone>, gone: &mut Option<Gone>) -> ControlFlow<()> {
    match sent {
        Ok(()) => ControlFlow::Continue(()),
        Err(reason) => {
            *gone = Some(reason);
            ControlFlow::Break(())
        }
    }
}

impl Service for Manager {
    fn owner_of(&self, secret: &str) -> Option<Caller> {
        self.keys.get()?.owner(secret)
    }

    fn change(&self, caller: &Caller, request: ChangeRequest, answer: Waiting<Changed>) -> Result<(), Fault> {
        caller.has(access::CHANGE)?;
        self.begin_change(&caller.name, request, answer)
    }

    fn answer(&self, caller: &Caller, request: Request, sink: &mut dyn Sink) -> Result<End, Interrupted> {
        caller.may(&request)?;
        let answer = match request {
            Request::Reload(request) => Answer::Reload(self.reload(&request)?),
            Request::Status => Answer::Status(Box::new(self.status())),
            Request::Stats => Answer::Stats(Box::new(self.stats())),
            Request::Explain(packet) => Answer::Explanation(Box::new(self.explain(&packet)?)),
            Request::Usage(request) => {
                let rows = self.usage(&request)?;
                let count = rows.len() as u64;
                rows.into_iter().try_for_each(|row| sink.send(&Answer::Usage(Box::new(row))))?;
                return Ok(End { count, ..End::default() });
            }
            Request::Metering(request) => {
                let (rows, end) = self.metering(&request)?;
                rows.into_iter().try_for_each(|row| sink.send(&Answer::Metered(Box::new(row))))?;
                return Ok(end);
            }
            Request::Kill(request) => Answer::Killed(self.kill(caller, &request)?),
            Request::Watch(request) => {
                let mut gone = None;
                let end = self.watch(&request, &mut |event| {
                    let sent = match event {
                        Some(event) => sink.send(&Answer::Event(event)),
                        None => sink.flush(),
                    };
                    keep(sent, &mut gone)
                })?;
                return gone.map_or(Ok(end), |gone: Gone| Err(gone.into()));
            }
            Request::Sessions(request) => {
                let mut gone = None;
                let end = self.sessions(&request, &mut |session| {
                    keep(sink.send(&Answer::Session(Box::new(session))), &mut gone)
                })?;
                return gone.map_or(Ok(end), |gone: Gone| Err(gone.into()));
            }
            Request::Who(request) => {
                let owners = self.who(&request)?;
                let count = owners.len() as u64;
                owners.into_iter().try_for_each(|owner| sink.send(&Answer::Owner(Box::new(owner))))?;
                return Ok(End { count, ..End::default() });
            }
            Request::Resources(request) => {
                let mut gone = None;
                let end = self.resources(&request, &mut |resource| {
                    keep(sink.send(&Answer::Resource(resource)), &mut gone)
                })?;
                return gone.map_or(Ok(end), |gone: Gone| Err(gone.into()));
            }
            Request::Change(request) => Answer::Changed(Box::new(self.change(&caller.name, *request)?)),
            Request::Export => {
                let mut gone = None;
                let end =
                    self.export(&mut |spec| keep(sink.send(&Answer::Exported(Box::new(spec))), &mut gone))?;
                return gone.map_or(Ok(end), |gone: Gone| Err(gone.into()));
            }
            Request::Apply(request) => Answer::Applied(Box::new(self.apply_all(&caller.name, *request)?)),
            Request::Confirm => Answer::Applied(Box::new(self.confirm(&caller.name)?)),
            Request::RollBack => Answer::Applied(Box::new(self.roll_back(&caller.name)?)),
            Request::Audit(request) => {
                let records = self.audit(&request)?;
                let count = records.len() as u64;
                for record in records {
                    sink.send(&Answer::Audit(record))?;
                }
                return Ok(End { count, ..End::default() });
            }
            Request::Keys => {
                let keys = self.keys()?.list();
                let count = keys.len() as u64;
                keys.into_iter().try_for_each(|key| sink.send(&Answer::Key(key)))?;
                return Ok(End { count, ..End::default() });
            }
            Request::CreateKey(request) => Answer::KeyCreated(self.keys()?.create(&caller.name, &request)?),
            Request::UpdateKey { id, values } => {
                Answer::Key(self.keys()?.update(&caller.name, &id, &values)?)
            }
            Request::DeleteKey(id) => Answer::Key(self.keys()?.delete(&caller.name, &id)?),
            Request::Capture(request) => {
                let mut gone = None;
                let end = self.capture(&request, &mut |captured| {
                    let sent = match captured {
                        Some(captured) => sink.send(&Answer::Captured(Box::new(captured))),
                        None => sink.flush(),
                    };
                    keep(sent, &mut gone)
                })?;
                return gone.map_or(Ok(end), |gone: Gone| Err(gone.into()));
            }
            Request::Trace(request) => {
                let mut gone = None;
                let end = self.trace(&request, &mut |trace| {
                    let sent = match trace {
                        Some(trace) => sink.send(&Answer::Trace(Box::new(trace))),
                        None => sink.flush(),
                    };
                    keep(sent, &mut gone)
                })?;
                return gone.map_or(Ok(end), |gone: Gone| Err(gone.into()));
            }
        };
        sink.send(&answer)?;
        Ok(End { count: 1, ..End::default() })
    }
}

#[cfg(test)]
mod tests;
