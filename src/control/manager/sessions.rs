//! Listing live sessions, while they come and go, without holding them all.
//!
//! Workers are asked one after the other, a page at a time, and what they tell is passed on at once. Only sessions of DNAT
//! are held back where there are several workers: such a flow has no owner, so each of its directions may be known to
//! another worker. Rows of equal flows are joined, up to [`HELD`] of them; what comes after is passed on as it is and
//! counted.

use std::ops::ControlFlow;

use hashbrown::{HashMap, HashSet};

use crate::base::{EntryId, Tick, VpcIndex};
use crate::control::address::{AddressFilter, Protocol};
use crate::control::inventory::Kind;
use crate::control::manager::{Manager, View, names};
use crate::control::protocol::{End, Fault, FaultCode, KindFilter, Session, SessionsRequest};
use crate::nat::tcp::TcpState;
use crate::nat::{SessionFilter, SessionRow, SessionState};

/// Sessions of DNAT that a listing holds back to join their rows.
const HELD: usize = 65_536;

/// What makes two rows the same session.
type Key = (VpcIndex, u8, (u32, u16), (u32, u16), (u32, u16));

fn key(row: &SessionRow) -> Key {
    (row.vpc, row.protocol, row.inside, row.external, row.peer)
}

/// A row, and the workers that told it.
#[derive(Debug)]
struct Joined {
    row: SessionRow,
    workers: Vec<u16>,
}

impl Joined {
    fn new(row: SessionRow) -> Self {
        Self { row, workers: vec![row.worker.0] }
    }

    /// Joins the row of another worker: each counts what it saw, and knows the directions that it saw.
    fn join(&mut self, other: &SessionRow) {
        let row = &mut self.row;
        row.bytes_out += other.bytes_out;
        row.bytes_in += other.bytes_in;
        row.age = row.age.max(other.age);
        row.idle = row.idle.min(other.idle);
        row.expires = row.expires.max(other.expires);
        row.state = joined_state(row.state, other.state);
        self.workers.push(other.worker.0);
    }
}

/// Two workers that each saw one side open have seen both; so it is with closing.
fn joined_state(one: SessionState, other: SessionState) -> SessionState {
    use SessionState::Tcp;
    match (one, other) {
        (Tcp(TcpState::Opening), Tcp(TcpState::Opening)) => Tcp(TcpState::Established),
        (Tcp(TcpState::HalfClosed), Tcp(TcpState::HalfClosed)) => Tcp(TcpState::Closed),
        _ => one.max(other),
    }
}

/// A listing in progress.
struct Listing<'a> {
    view: &'a View,
    each: &'a mut dyn FnMut(Session) -> ControlFlow<()>,
    /// Entries of one name, where there are several.
    entries: Option<HashSet<EntryId>>,
    holds: bool,
    held: HashMap<Key, Joined>,
    room: usize,
    count_only: bool,
    limit: u64,
    end: End,
}

impl Listing<'_> {
    fn found(&self) -> u64 {
        self.end.count + self.held.len() as u64
    }

    fn page(&mut self, rows: &[SessionRow]) -> ControlFlow<()> {
        for row in rows {
            if self.entries.as_ref().is_some_and(|entries| !entries.contains(&row.entry)) {
                continue;
            }
            self.row(row)?;
        }
        ControlFlow::Continue(())
    }

    fn row(&mut self, row: &SessionRow) -> ControlFlow<()> {
        let can_join = self.holds && !row.kind.is_snat();
        if can_join && let Some(joined) = self.held.get_mut(&key(row)) {
            joined.join(row);
            return ControlFlow::Continue(());
        }
        if self.found() >= self.limit {
            self.end.truncated = true;
            // The other halves of those that are held may still come.
            return if self.held.is_empty() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        }
        if can_join && self.held.len() < self.room {
            self.held.insert(key(row), Joined::new(*row));
            return ControlFlow::Continue(());
        }
        self.end.unmerged += u64::from(can_join);
        self.pass_on(&Joined::new(*row))
    }

    fn pass_on(&mut self, joined: &Joined) -> ControlFlow<()> {
        self.end.count += 1;
        if self.count_only { ControlFlow::Continue(()) } else { (self.each)(session(self.view, joined)) }
    }

    fn release(&mut self) -> ControlFlow<()> {
        let held = std::mem::take(&mut self.held);
        held.values().try_for_each(|joined| self.pass_on(joined))
    }
}

impl Manager {
    /// Lists sessions: gives each to `each` as it comes, until that breaks off.
    ///
    /// # Errors
    /// A name that is not configured, or a worker that does not answer.
    pub fn sessions(
        &self,
        request: &SessionsRequest,
        each: &mut dyn FnMut(Session) -> ControlFlow<()>,
    ) -> Result<End, Fault> {
        let view = self.view();
        let (filter, entries) = self.session_filter(&view, request)?;
        let mut listing = Listing {
            view: &view,
            each,
            entries,
            holds: self.running.workers().count() > 1,
            held: HashMap::new(),
            room: HELD,
            count_only: request.count,
            limit: request.limit.unwrap_or(u64::MAX),
            end: End::default(),
        };
        let mut broken = false;
        let listed = self.running.sessions(&filter, |rows| {
            let flow = listing.page(rows);
            // Breaking off because the limit is reached is no hang-up.
            broken = flow.is_break() && !listing.end.truncated;
            flow
        });
        listed.map_err(|silent| Fault::new(FaultCode::Unavailable, silent.to_string()))?;
        if !broken {
            let _ = listing.release();
        }
        Ok(listing.end)
    }
}

impl Manager {
    /// The filter that workers apply, and the entries of a name where there are several.
    pub(super) fn session_filter(
        &self,
        view: &View,
        request: &SessionsRequest,
    ) -> Result<(SessionFilter, Option<HashSet<EntryId>>), Fault> {
        let called = |kind, parameter, text: &Option<String>| {
            text.as_deref().map(|text| self.called(kind, parameter, text)).transpose()
        };
        let request = SessionsRequest {
            gateway: called(Kind::Gateway, "gateway", &request.gateway)?,
            vpc: called(Kind::Vpc, "vpc", &request.vpc)?,
            ..request.clone()
        };
        filter(view, &request)
    }
}

/// The filter that workers apply, and the entries of a name where there are several.
fn filter(
    view: &View,
    request: &SessionsRequest,
) -> Result<(SessionFilter, Option<HashSet<EntryId>>), Fault> {
    let part = |filter: Option<AddressFilter>| {
        (filter.and_then(|filter| filter.prefix), filter.and_then(|filter| filter.port))
    };
    let ((inside, inside_port), (external, external_port), (peer, peer_port)) =
        (part(request.inside), part(request.eip), part(request.peer));
    let gateway = match &request.gateway {
        Some(name) => Some(view.directory.gateway_named(name).ok_or_else(|| view.unknown_gateway(name))?),
        None => None,
    };
    let entries = request.entry.as_deref().map(|name| view.entries_named(name)).transpose()?;
    let filter = SessionFilter {
        vpc: request.vpc.as_deref().map(|name| view.vpc_named(name)).transpose()?,
        protocol: request.protocol.map(|Protocol(number)| number),
        inside,
        inside_port,
        external,
        external_port,
        peer,
        peer_port,
        entry: entries.as_deref().and_then(|entries| if let [only] = entries { Some(*only) } else { None }),
        gateway,
        is_snat: request.kind.map(|kind| kind == KindFilter::Snat),
    };
    let several = entries.filter(|entries| entries.len() > 1);
    Ok((filter, several.map(|entries| entries.into_iter().collect())))
}

fn session(view: &View, joined: &Joined) -> Session {
    let Joined { row, workers } = joined;
    let directory = &view.directory;
    let seconds = |ticks: u32| f64::from(ticks) * (Tick::NANOS as f64 / 1e9);
    Session {
        kind: names::kind(row.kind).to_owned(),
        protocol: Protocol(row.protocol).to_string(),
        inside: names::endpoint(row.protocol, row.inside),
        external: names::endpoint(row.protocol, row.external),
        peer: names::endpoint(row.protocol, row.peer),
        state: names::state(row.state).to_owned(),
        entry: directory.entry(row.entry).map_or_else(|| "(gone)".to_owned(), |info| info.name.to_string()),
        gateway: directory.gateway(row.gateway).unwrap_or("(gone)").to_owned(),
        vpc: directory.vpc(row.vpc).unwrap_or("(gone)").to_owned(),
        bytes_out: row.bytes_out,
        bytes_in: row.bytes_in,
        age_seconds: seconds(row.age),
        idle_seconds: seconds(row.idle),
        expires_seconds: seconds(row.expires),
        workers: workers.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{GatewayIndex, WorkerIndex};
    use crate::config;
    use crate::nat::session::SessionKind;

    fn view() -> View {
        let text = "[[port]]\nname = \"wan\"\ndevice = \"eth0\"\n";
        let model = config::parse(text, "test.toml").unwrap();
        View { model: model.into(), directory: std::sync::Arc::default() }
    }

    fn row(worker: u16, kind: SessionKind, port: u16) -> SessionRow {
        SessionRow {
            worker: WorkerIndex(worker),
            kind,
            vpc: VpcIndex(0),
            protocol: 6,
            inside: (1, 80),
            external: (2, 80),
            peer: (3, port),
            state: SessionState::Tcp(TcpState::Opening),
            entry: EntryId(u32::from(port) % 2),
            gateway: GatewayIndex(0),
            bytes_out: u64::from(worker) * 100,
            bytes_in: 1,
            age: 10 + u32::from(worker),
            idle: 5 - u32::from(worker),
            expires: 100,
        }
    }

    struct Shown {
        sessions: Vec<Session>,
        end: End,
    }

    fn list(pages: &[Vec<SessionRow>], change: impl FnOnce(&mut Listing<'_>)) -> Shown {
        let view = view();
        let mut sessions = Vec::new();
        let mut each = |session| {
            sessions.push(session);
            ControlFlow::Continue(())
        };
        let mut listing = Listing {
            view: &view,
            each: &mut each,
            entries: None,
            holds: true,
            held: HashMap::new(),
            room: HELD,
            count_only: false,
            limit: u64::MAX,
            end: End::default(),
        };
        change(&mut listing);
        let _ = pages.iter().try_for_each(|page| listing.page(page));
        let _ = listing.release();
        let end = listing.end;
        Shown { sessions, end }
    }

    use SessionKind::{DnatPort, Snat};

    #[test]
    fn the_two_directions_of_a_dnat_session_are_one() {
        let pages = [vec![row(0, DnatPort, 1), row(0, Snat, 9)], vec![row(1, DnatPort, 1)]];
        let Shown { sessions, end } = list(&pages, |_| {});
        assert_eq!(end, End { count: 2, ..End::default() });
        // SNAT is passed on at once, DNAT when its other half can come no more.
        assert_eq!(sessions[0].kind, "snat");
        let joined = &sessions[1];
        assert_eq!((joined.bytes_out, joined.bytes_in, joined.workers.as_slice()), (100, 2, &[0, 1][..]));
        assert_eq!((joined.age_seconds, joined.idle_seconds), (1.1, 0.4));
        assert_eq!(joined.state, "established");
    }

    #[test]
    fn a_session_that_one_worker_opened_alone_is_opening() {
        let Shown { sessions, .. } = list(&[vec![row(0, DnatPort, 1)]], |_| {});
        assert_eq!(sessions[0].state, "opening");
    }

    #[test]
    fn without_room_rows_are_passed_on_and_counted() {
        let pages = [
            (0..5).map(|port| row(0, DnatPort, port)).collect(),
            vec![row(1, DnatPort, 0), row(1, DnatPort, 4)],
        ];
        let Shown { sessions, end } = list(&pages, |listing| listing.room = 2);
        assert_eq!(sessions.len(), 6);
        assert_eq!(end, End { count: 6, truncated: false, unmerged: 4, ..End::default() });
    }

    #[test]
    fn a_limit_cuts_but_still_joins() {
        let pages = [vec![row(0, DnatPort, 1), row(0, DnatPort, 2)], vec![row(1, DnatPort, 1)]];
        let Shown { sessions, end } = list(&pages, |listing| listing.limit = 1);
        assert_eq!((sessions.len(), end.count, end.truncated), (1, 1, true));
        assert_eq!(sessions[0].workers, [0, 1]);
        // Exactly as many as there are is not cut.
        let Shown { end, .. } = list(&[vec![row(0, Snat, 1)]], |listing| listing.limit = 1);
        assert_eq!((end.count, end.truncated), (1, false));
    }

    #[test]
    fn counting_shows_nothing() {
        let pages = [vec![row(0, Snat, 1), row(0, DnatPort, 2)], vec![row(1, DnatPort, 2)]];
        let Shown { sessions, end } = list(&pages, |listing| listing.count_only = true);
        assert_eq!((sessions.len(), end.count), (0, 2));
    }

    #[test]
    fn entries_of_one_name_are_shown_together() {
        let pages = [vec![row(0, Snat, 1), row(0, Snat, 2), row(0, Snat, 3)]];
        let Shown { end, .. } =
            list(&pages, |listing| listing.entries = Some([EntryId(1), EntryId(7)].into_iter().collect()));
        assert_eq!(end.count, 2);
    }

    #[test]
    fn unknown_names_are_refused_with_those_that_there_are() {
        let request = SessionsRequest { vpc: Some("prod".into()), ..SessionsRequest::default() };
        let fault = filter(&view(), &request).unwrap_err();
        assert_eq!(fault.code, FaultCode::BadRequest);
        assert_eq!(fault.message, "VPC \"prod\" is not configured");
        assert_eq!(fault.hint.as_deref(), Some("none is configured"));
    }
}
