//! From an engine's event to a line with names and the time of day.

use std::net::Ipv4Addr;
use std::sync::Arc;

use hashbrown::HashMap;
use serde::Serialize;

use crate::base::time::Clock;
use crate::base::{EntryId, Moment, Tick};
use crate::control::address::Protocol;
use crate::control::manager::{Names, names};
use crate::control::time;
use crate::nat::ports::blocks::PortBlock;
use crate::nat::{Ending, Event, SessionRow};
use crate::policy::Realm;

/// Names that are remembered of entries that are gone.
const REMEMBERED: usize = 1 << 17;
/// The wall clock may differ so much from what it was expected to show, before it counts as set anew: it is in nanoseconds.
const STEP: i128 = 500_000_000;

/// One line of the log.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// Milliseconds since 1970.
    pub(super) time: u64,
    /// The worker that told it; none of what concerns the log itself.
    pub(super) worker: Option<u16>,
    pub(super) what: What,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    /// The log begins: no session that is older lives.
    Started,
    /// The log ends, and with it all sessions.
    Stopped,
    /// So many lines are missing here.
    Lost(u64),
    Created(Session),
    Ended(Session, Ending),
    /// A private host got a block of ports, or has it no more.
    Block(Block, bool),
}

/// A block of ports in a line.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub(super) row: PortBlock,
    /// When the host got it, in milliseconds since 1970, to a tenth of a second.
    pub(super) began: u64,
    pub(super) origin: Arc<Origin>,
}

/// A session in a line.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) row: SessionRow,
    /// When it began, in milliseconds since 1970, to a tenth of a second.
    pub(super) began: u64,
    pub(super) origin: Arc<Origin>,
}

/// What made a session, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) vpc: String,
    pub(super) gateway: String,
    pub(super) entry: String,
}

/// A line as JSON.
#[derive(Serialize)]
struct Json<'a> {
    time: String,
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    #[serde(flatten)]
    session: Option<JsonSession<'a>>,
    #[serde(flatten)]
    end: Option<JsonEnd>,
    #[serde(flatten)]
    block: Option<JsonBlock<'a>>,
}

#[derive(Serialize)]
struct JsonBlock<'a> {
    inside: String,
    external: String,
    first_port: u16,
    last_port: u16,
    vpc: &'a str,
    gateway: &'a str,
    entry: &'a str,
    began: String,
}

#[derive(Serialize)]
struct JsonSession<'a> {
    kind: &'static str,
    protocol: String,
    inside: String,
    external: String,
    peer: String,
    vpc: &'a str,
    gateway: &'a str,
    entry: &'a str,
}

#[derive(Serialize)]
struct JsonEnd {
    began: String,
    ending: &'static str,
    state: &'static str,
    bytes_out: u64,
    bytes_in: u64,
}

impl Line {
    /// What happened, in a word.
    pub(super) const fn event(&self) -> &'static str {
        match self.what {
            What::Started => "started",
            What::Stopped => "stopped",
            What::Lost(_) => "lost",
            What::Created(_) => "created",
            What::Ended(..) => "ended",
            What::Block(_, true) => "block-allocated",
            What::Block(_, false) => "block-released",
        }
    }

    /// The line as one JSON object.
    pub(super) fn json(&self) -> String {
        // Names, numbers and fixed words: all of them can be written.
        serde_json::to_string(&self.object()).unwrap_or_default()
    }

    fn object(&self) -> Json<'_> {
        let session = match &self.what {
            What::Created(session) | What::Ended(session, _) => Some(session),
            What::Started | What::Stopped | What::Lost(_) | What::Block(..) => None,
        };
        Json {
            time: time::format_millis(self.time),
            event: self.event(),
            worker: self.worker,
            count: if let What::Lost(count) = self.what { Some(count) } else { None },
            session: session.map(|Session { row, origin, .. }| JsonSession {
                kind: names::kind(row.kind),
                protocol: Protocol(row.protocol).to_string(),
                inside: names::endpoint(row.protocol, row.inside),
                external: names::endpoint(row.protocol, row.external),
                peer: names::endpoint(row.protocol, row.peer),
                vpc: &origin.vpc,
                gateway: &origin.gateway,
                entry: &origin.entry,
            }),
            end: if let What::Ended(Session { row, began, .. }, ending) = &self.what {
                Some(JsonEnd {
                    began: time::format_millis(*began),
                    ending: match ending {
                        Ending::Expired => "expired",
                        Ending::Reconfigured => "reconfigured",
                        Ending::Superseded => "superseded",
                        Ending::Killed => "killed",
                        Ending::Lost => "lost",
                        Ending::Evicted => "evicted",
                    },
                    state: names::state(row.state),
                    bytes_out: row.bytes_out,
                    bytes_in: row.bytes_in,
                })
            } else {
                None
            },
            block: if let What::Block(Block { row: block, began, origin }, _) = &self.what {
                Some(JsonBlock {
                    inside: Ipv4Addr::from(block.inside).to_string(),
                    external: Ipv4Addr::from(block.external).to_string(),
                    first_port: block.ports.first,
                    last_port: block.ports.last,
                    vpc: &origin.vpc,
                    gateway: &origin.gateway,
                    entry: &origin.entry,
                    began: time::format_millis(*began),
                })
            } else {
                None
            },
        }
    }
}

/// Tells events in the words of the log, as JSON.
pub struct Teller(Scribe);

impl Teller {
    /// With these names, by the workers' clock.
    pub fn new(clock: Clock, names: Names) -> Self {
        Self(Scribe::new(clock, names))
    }

    /// An event as it stands in the log.
    pub fn tell(&mut self, event: &Event) -> serde_json::Value {
        serde_json::to_value(self.0.line(event).object()).unwrap_or_default()
    }
}

/// Makes lines.
pub(super) struct Scribe {
    clock: Clock,
    names: Names,
    /// What entries were called when they made a session.
    origins: HashMap<EntryId, Arc<Origin>>,
    /// Nanoseconds from a moment to the time of day.
    offset: i128,
}

impl Scribe {
    pub(super) fn new(clock: Clock, names: Names) -> Self {
        let mut scribe = Self { clock, names, origins: HashMap::new(), offset: 0 };
        scribe.offset = scribe.measured();
        scribe
    }

    fn measured(&self) -> i128 {
        i128::from(time::now_nanos()) - i128::from(self.clock.now().0)
    }

    /// Follows a wall clock that was set, and lets go of what it need not remember.
    pub(super) fn look_around(&mut self) {
        let measured = self.measured();
        if (measured - self.offset).abs() > STEP {
            self.offset = measured;
        }
        if self.origins.len() > REMEMBERED {
            self.origins.clear();
        }
    }

    /// Milliseconds since 1970.
    fn time(&self, moment: Moment) -> u64 {
        u64::try_from((i128::from(moment.0) + self.offset) / 1_000_000).unwrap_or(0)
    }

    /// A line about the log itself.
    pub(super) fn of_the_log(&self, what: What) -> Line {
        Line { time: self.time(self.clock.now()), worker: None, what }
    }

    pub(super) fn line(&mut self, event: &Event) -> Line {
        match event {
            Event::Lost { at, count } => {
                Line { time: self.time(*at), worker: None, what: What::Lost(*count) }
            }
            Event::Created { at, session } => {
                let what = What::Created(self.session(*at, session));
                Line { time: self.time(*at), worker: Some(session.worker.0), what }
            }
            Event::Block { at, worker, block, is_taken } => {
                let began = self.time(Moment(u64::from(block.since.0) * Tick::NANOS));
                let origin = self.origin_of(block.entry, block.tenant);
                let what = What::Block(Block { row: *block, began, origin }, *is_taken);
                Line { time: self.time(*at), worker: Some(worker.0), what }
            }
            Event::Ended { at, session, ending } => {
                let what = What::Ended(self.session(*at, session), *ending);
                Line { time: self.time(*at), worker: Some(session.worker.0), what }
            }
        }
    }

    fn session(&mut self, at: Moment, row: &SessionRow) -> Session {
        let began = at.tick().0.saturating_sub(row.age);
        let began = self.time(Moment(u64::from(began) * Tick::NANOS));
        Session { row: *row, began, origin: self.origin(row) }
    }

    fn origin(&mut self, row: &SessionRow) -> Arc<Origin> {
        if let Some(origin) = self.origins.get(&row.entry) {
            return Arc::clone(origin);
        }
        let directory = self.names.directory();
        let gone = || "(gone)".to_owned();
        let entry = directory.entry(row.entry);
        let origin = Arc::new(Origin {
            vpc: directory.vpc(row.vpc).map_or_else(gone, str::to_owned),
            gateway: directory.gateway(row.gateway).map_or_else(gone, str::to_owned),
            entry: entry.map_or_else(gone, |info| info.name.to_string()),
        });
        if entry.is_some() {
            self.origins.insert(row.entry, Arc::clone(&origin));
        }
        origin
    }

    /// The same for what only the entry and the tenant are known of.
    fn origin_of(&mut self, id: EntryId, tenant: u16) -> Arc<Origin> {
        if let Some(origin) = self.origins.get(&id) {
            return Arc::clone(origin);
        }
        let directory = self.names.directory();
        let gone = || "(gone)".to_owned();
        let entry = directory.entry(id);
        let vpc = match Realm::of_tenant(tenant) {
            Realm::Vpc(vpc) => directory.vpc(vpc).map_or_else(gone, str::to_owned),
            Realm::Outside => gone(),
        };
        let origin = Arc::new(Origin {
            vpc,
            gateway: entry.map_or_else(gone, |info| info.gateway.to_string()),
            entry: entry.map_or_else(gone, |info| info.name.to_string()),
        });
        if entry.is_some() {
            self.origins.insert(id, Arc::clone(&origin));
        }
        origin
    }
}
