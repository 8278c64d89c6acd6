//! What gateways, EIPs, entries and private hosts have carried, over all workers.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::PoisonError;
use std::time::Duration;

use hashbrown::HashMap;

use crate::base::{EipIndex, EntryId, GatewayIndex};
use crate::control::manager::{Manager, View};
use crate::control::protocol::{Fault, FaultCode, Refused, Usage, UsageBy, UsageRequest};
use crate::nat::{self, SessionFilter, UsageKind};
use crate::worker::Silent;

/// Bytes of live sessions are brought to their totals at most so often, however often somebody asks.
const SETTLED: Duration = Duration::from_millis(900);

/// Private hosts that are told of at most where a request says nothing.
const HOSTS: u64 = 10;

fn unavailable(silent: Silent) -> Fault {
    Fault::new(FaultCode::Unavailable, silent.to_string())
}

impl Manager {
    /// What gateways, EIPs, entries or private hosts have carried.
    ///
    /// # Errors
    /// A worker does not answer.
    pub fn usage(&self, request: &UsageRequest) -> Result<Vec<Usage>, Fault> {
        let view = self.view();
        let limit =
            |otherwise: u64| usize::try_from(request.limit.unwrap_or(otherwise)).unwrap_or(usize::MAX);
        if request.by == Some(UsageBy::Host) {
            let mut hosts = self.hosts(&view)?;
            sort(&mut hosts);
            hosts.truncate(limit(HOSTS));
            return Ok(hosts);
        }
        self.settle()?;
        let mut all = Vec::new();
        for by in [UsageBy::Gateway, UsageBy::Eip, UsageBy::Entry] {
            if request.by.is_some_and(|wanted| wanted != by) {
                continue;
            }
            let mut rows = self.of_kind(&view, by)?;
            if request.by.is_some() {
                sort(&mut rows);
            }
            rows.truncate(limit(u64::MAX));
            all.append(&mut rows);
        }
        Ok(all)
    }

    /// Brings the bytes of live sessions to their totals, if that was not done just now.
    pub(in crate::control) fn settle(&self) -> Result<(), Fault> {
        let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.facts.clock.now();
        if settled.is_some_and(|then| now.since(then) < SETTLED) {
            return Ok(());
        }
        self.running.workers().try_for_each(|worker| self.running.settle(worker)).map_err(unavailable)?;
        *settled = Some(now);
        Ok(())
    }

    /// Usage of one kind over all workers, by index.
    pub(in crate::control) fn totals_of(&self, kind: UsageKind) -> Result<BTreeMap<u32, nat::Usage>, Fault> {
        let mut totals = BTreeMap::<u32, nat::Usage>::new();
        for worker in self.running.workers() {
            for row in self.running.usage(worker, kind).map_err(unavailable)? {
                totals.entry(row.index()).or_default().add(&row);
            }
        }
        Ok(totals)
    }

    fn of_kind(&self, view: &View, by: UsageBy) -> Result<Vec<Usage>, Fault> {
        let directory = &view.directory;
        let rows = match by {
            UsageBy::Gateway => {
                let totals = self.totals_of(UsageKind::Gateway)?;
                // Those without traffic, too: they are few.
                let named = view.model.gateways().iter().map(|gateway| {
                    let name = gateway.name.to_string();
                    let index: Option<GatewayIndex> = directory.gateway_named(&name);
                    let total = index.and_then(|index| totals.get(&index.0)).copied().unwrap_or_default();
                    row(by, name, &total)
                });
                named.collect()
            }
            UsageBy::Eip => {
                let snapshot = self.running.snapshot();
                let totals = self.totals_of(UsageKind::Eip)?;
                let named = totals.iter().filter_map(|(index, total)| {
                    let address =
                        directory.eip(EipIndex(*index)).filter(|it| snapshot.eip((*it).into()).is_some())?;
                    Some(row(by, address.to_string(), total))
                });
                named.collect()
            }
            UsageBy::Entry => {
                let totals = self.totals_of(UsageKind::Entry)?;
                let named = totals.iter().filter_map(|(index, total)| {
                    let info = directory.entry(EntryId(*index))?;
                    let (table, gateway) = (info.kind.name().to_owned(), info.gateway.to_string());
                    let row = row(by, info.name.clone(), total);
                    Some(Usage { table: Some(table), gateway: Some(gateway), ..row })
                });
                named.collect()
            }
            UsageBy::Host => Vec::new(),
        };
        Ok(rows)
    }

    /// Private hosts with live sessions, and what these have carried.
    fn hosts(&self, view: &View) -> Result<Vec<Usage>, Fault> {
        let mut hosts = HashMap::<_, (u64, u64, u64)>::new();
        let listed = self.running.sessions(&SessionFilter::default(), |rows| {
            for row in rows {
                let (sessions, bytes_out, bytes_in) = hosts.entry((row.vpc, row.inside.0)).or_default();
                *sessions += 1;
                *bytes_out += row.bytes_out;
                *bytes_in += row.bytes_in;
            }
            ControlFlow::Continue(())
        });
        listed.map_err(unavailable)?;
        let told = hosts.into_iter().map(|((vpc, host), (sessions, bytes_out, bytes_in))| Usage {
            by: UsageBy::Host,
            name: std::net::Ipv4Addr::from(host).to_string(),
            table: None,
            gateway: None,
            vpc: view.directory.vpc(vpc).map(str::to_owned),
            sessions,
            sessions_created: None,
            bytes_out,
            bytes_in,
            packets_out: None,
            packets_in: None,
            refused: None,
        });
        Ok(told.collect())
    }
}

/// Those with the most sessions first.
fn sort(rows: &mut [Usage]) {
    let bytes = |row: &Usage| row.bytes_out + row.bytes_in;
    rows.sort_by(|one, other| {
        (other.sessions, bytes(other), &one.name).cmp(&(one.sessions, bytes(one), &other.name))
    });
}

fn row(by: UsageBy, name: String, total: &nat::Usage) -> Usage {
    Usage {
        by,
        name,
        table: None,
        gateway: None,
        vpc: None,
        sessions: total.sessions.into(),
        sessions_created: Some(total.created),
        bytes_out: total.bytes_out,
        bytes_in: total.bytes_in,
        packets_out: Some(total.packets_out),
        packets_in: Some(total.packets_in),
        refused: Some(Refused {
            session_limit: total.over_sessions,
            session_rate_limit: total.over_rate,
            host_quota: total.over_quota,
            ports_exhausted: total.no_port,
        }),
    }
}
