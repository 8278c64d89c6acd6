//! Who had an external address and port at a time, as the session log's index tells.

use std::sync::Arc;

use crate::config::Code;
use crate::control::inventory::Refusal;
use crate::control::manager::Manager;
use crate::control::protocol::{Fault, FaultCode, Owner, WhoRequest};
use crate::control::session_log::{Ledger, Owned};
use crate::control::time;
use crate::control::writer::refused;

impl Manager {
    /// From now on the session log is known here, too.
    pub fn attach_log(&self, ledger: Arc<Ledger>) {
        // Once, at the start.
        let _ = self.log.set(ledger);
    }

    /// The sessions that had an external endpoint.
    ///
    /// # Errors
    /// No index is kept, it cannot be read, or the time is none.
    pub fn who(&self, request: &WhoRequest) -> Result<Vec<Owner>, Fault> {
        let index = self.log.get().and_then(|ledger| ledger.index()).ok_or_else(|| {
            Fault::new(FaultCode::BadRequest, "no index of sessions is kept")
                .hint("give [session_log] an index; for live sessions: natgate sessions --eip ADDRESS:PORT")
        })?;
        let at = match &request.at {
            None => time::now_nanos() / 1_000_000,
            Some(text) => time::parse_millis(text).ok_or_else(|| {
                let hint = "write the time in UTC, such as 2026-01-31T23:59:00Z";
                refused(Refusal::new(Code::InvalidTime, "at").value(text)).hint(hint)
            })?,
        };
        let found = index.who((request.address, request.port), request.protocol, at);
        let found =
            found.map_err(|reason| Fault::new(FaultCode::Failed, format!("session log: {reason}")))?;
        Ok(found.into_iter().map(owner).collect())
    }
}

fn owner(owned: Owned) -> Owner {
    let Owned { began, ended, inside, peer, vpc, gateway, entry } = owned;
    let (began_at, ended_at) = (time::format_millis(began), ended.map(time::format_millis));
    Owner { inside, vpc, peer, began_at, ended_at, gateway, entry }
}
