//! Ending sessions, and showing those that begin and end.

use std::ops::ControlFlow;
use std::time::Duration;

use serde_json::Value;

use crate::control::access::Caller;
use crate::control::manager::Manager;
use crate::control::protocol::{End, Fault, FaultCode, KillRequest, Killed, SessionsRequest, WatchRequest};
use crate::control::session_log::Teller;
use crate::nat::{Event, SessionFilter};
use crate::worker::WatchError;

/// How long it is waited when nothing has happened.
const PAUSE: Duration = Duration::from_millis(20);
/// Events that are taken of one worker before the next has its turn.
const TURN: usize = 1024;
/// Turns after the time is up: what had happened by then is told, and what of it is missing, even if rings were full.
const LAST_TURNS: u32 = 20;

/// Whom nothing more is asked of than which sessions.
fn only_conditions(request: &SessionsRequest) -> Result<(), Fault> {
    if request.limit.is_none() && !request.count {
        return Ok(());
    }
    Err(Fault::new(FaultCode::BadRequest, "limit and count go with a listing only"))
}

impl Manager {
    /// Ends sessions; returns when all of them have ended.
    ///
    /// # Errors
    /// No condition and not all, a name that is not configured, or a worker that does not answer.
    pub fn kill(&self, caller: &Caller, request: &KillRequest) -> Result<Killed, Fault> {
        let KillRequest { sessions, reset, all } = request;
        only_conditions(sessions)?;
        if sessions.is_of_all() != *all {
            let (message, hint) = if *all {
                ("all sessions are asked for, and conditions besides", "leave one of them out")
            } else {
                ("no condition is given", "say which sessions; or that all of them are meant: --all")
            };
            return Err(Fault::new(FaultCode::BadRequest, message).hint(hint));
        }
        let view = self.view();
        let (filter, entries) = self.session_filter(&view, sessions)?;
        let filters: Vec<_> = match entries {
            None => vec![filter],
            Some(entries) => {
                entries.into_iter().map(|entry| SessionFilter { entry: Some(entry), ..filter }).collect()
            }
        };
        let mut ended = 0;
        for filter in &filters {
            let killed = self.running.kill(filter, *reset);
            ended += killed.map_err(|silent| Fault::new(FaultCode::Unavailable, silent.to_string()))?;
        }
        let resets = if *reset { " with resets" } else { "" };
        log::info!("{} ended {ended} sessions{resets}", caller.name);
        Ok(Killed { ended })
    }

    /// Shows sessions that begin and end: gives each event to `each`, and nothing from time to time, until that breaks off.
    ///
    /// # Errors
    /// A name that is not configured, somebody else watches, or a worker does not answer.
    pub fn watch(
        &self,
        request: &WatchRequest,
        each: &mut dyn FnMut(Option<Value>) -> ControlFlow<()>,
    ) -> Result<End, Fault> {
        let WatchRequest { sessions, events, timeout_seconds } = request;
        only_conditions(sessions)?;
        let view = self.view();
        let (filter, entries) = self.session_filter(&view, sessions)?;
        let timeout = timeout_seconds.map(Duration::try_from_secs_f64).transpose().map_err(|_| {
            Fault::new(FaultCode::BadRequest, "timeout_seconds is no time").hint("give a positive number")
        })?;
        let is_wanted = |event: &Event| match event {
            // A gap; the rings of those who watch get no blocks.
            Event::Lost { .. } | Event::Block { .. } => true,
            Event::Created { session, .. } | Event::Ended { session, .. } => {
                filter.admits(session)
                    && entries.as_ref().is_none_or(|entries| entries.contains(&session.entry))
            }
        };
        let mut watch = self.running.watch().map_err(|error| {
            let code = if error == WatchError::Busy { FaultCode::Busy } else { FaultCode::Unavailable };
            Fault::new(code, error.to_string())
        })?;
        let mut teller = Teller::new(self.facts.clock, self.names());
        let began = self.facts.clock.now();
        let mut end = End::default();
        let mut last_turns = 0;
        while !self.is_stopping() {
            if timeout.is_some_and(|timeout| self.facts.clock.now().since(began) >= timeout) {
                last_turns += 1;
            }
            let mut taken = 0;
            for ring in &mut watch.rings {
                for _ in 0..TURN {
                    let Ok(event) = ring.pop() else { break };
                    taken += 1;
                    if !is_wanted(&event) {
                        continue;
                    }
                    if events.is_some_and(|events| end.count >= events) {
                        return Ok(end);
                    }
                    end.count += 1;
                    if each(Some(teller.tell(&event))).is_break() {
                        return Ok(end);
                    }
                }
            }
            if each(None).is_break() || events.is_some_and(|events| end.count >= events) {
                return Ok(end);
            }
            // A worker that had no room tells what is missing when it has: after the turn that made some.
            if last_turns == LAST_TURNS || last_turns > 1 && taken == 0 {
                end.truncated = events.is_some();
                return Ok(end);
            }
            if taken == 0 {
                std::thread::sleep(PAUSE);
            }
        }
        Ok(end)
    }
}
