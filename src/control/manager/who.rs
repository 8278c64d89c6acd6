//! Who had an external address and port at a time, as the session log's index tells, or the present configuration.

use std::net::Ipv4Addr;
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

    /// The sessions that had an external endpoint. Where a time is given, what the index tells of it comes before what follows from the
    /// present configuration alone.
    ///
    /// # Errors
    /// No index is kept, it cannot be read, or the time is none.
    pub fn who(&self, request: &WhoRequest) -> Result<Vec<Owner>, Fault> {
        let at = request.at.as_deref().map(|text| {
            let hint = "write the time in UTC, such as 2026-01-31T23:59:00Z";
            let refusal = || refused(Refusal::new(Code::InvalidTime, "at").value(text)).hint(hint);
            time::parse_millis(text).ok_or_else(refusal)
        });
        let at = at.transpose()?;
        let index = self.log.get().and_then(|ledger| ledger.index());
        let logged = |at| {
            let Some(index) = index else { return Ok(Vec::new()) };
            let found = index.who((request.address, request.port), request.protocol, at);
            let found = found.map(|found| found.into_iter().map(owner).collect());
            found.map_err(|reason| Fault::new(FaultCode::Failed, format!("session log: {reason}")))
        };
        let mut owners = at.map_or(Ok(Vec::new()), logged)?;
        if owners.is_empty() {
            owners = self.computed(request);
        }
        if owners.is_empty() && index.is_none() {
            return Err(Fault::new(FaultCode::BadRequest, "no index of sessions is kept").hint(
                "give [session_log] an index; for live sessions: natgate sessions --eip ADDRESS:PORT",
            ));
        }
        if owners.is_empty() && at.is_none() {
            owners = logged(time::now_nanos() / 1_000_000)?;
        }
        Ok(owners)
    }
}

impl Manager {
    /// The host that has a port by its address alone, in the present configuration.
    fn computed(&self, request: &WhoRequest) -> Vec<Owner> {
        let (snapshot, directory) = (self.running.snapshot(), self.view.directory());
        let external = u32::from(request.address);
        let found = snapshot.eip(external).and_then(|eip| {
            let entry = snapshot.block_entry(eip)?;
            let host = entry.fixed_host(external, request.port)?;
            // A port of a DNAT entry is that entry's.
            if eip.forward(request.protocol.0, request.port).is_some() {
                return None;
            }
            let vpc = snapshot.gateway(entry.gateway)?.vpc;
            let (_, ports) = entry.fixed(host)?;
            let info = directory.entry(entry.id)?;
            Some(Owner {
                inside: Ipv4Addr::from(host).to_string(),
                vpc: directory.vpc(vpc)?.to_owned(),
                peer: format!("any, by ports {}-{}", ports.first, ports.last),
                began_at: "computed".to_owned(),
                ended_at: None,
                gateway: info.gateway.to_string(),
                entry: info.name.to_string(),
            })
        });
        found.into_iter().collect()
    }
}

fn owner(owned: Owned) -> Owner {
    let Owned { began, ended, inside, peer, vpc, gateway, entry } = owned;
    let (began_at, ended_at) = (time::format_millis(began), ended.map(time::format_millis));
    Owner { inside, vpc, peer, began_at, ended_at, gateway, entry }
}
