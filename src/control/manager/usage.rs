//! What gateways, EIPs, entries and private hosts have carried, over all workers.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::ops::ControlFlow;
use std::sync::PoisonError;
use std::time::Duration;

use hashbrown::HashMap;

use crate::base::{EipIndex, EntryId, GatewayIndex, VpcIndex};
use crate::control::manager::{Manager, View};
use crate::control::protocol::{Fault, FaultCode, Refused, Usage, UsageBy, UsageRequest};
use crate::nat::{self, SessionFilter, Talker, UsageKind};
use crate::policy::Realm;
use crate::worker::Silent;

/// Bytes of live sessions are brought to their totals at most so often, however often somebody asks.
const SETTLED: Duration = Duration::from_millis(900);

/// Private hosts that are told of at most where a request says nothing.
const HOSTS: u64 = 10;

/// A private host: its VPC and its address.
type HostKey = (VpcIndex, u32);

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
        self.settle()?;
        if request.by == Some(UsageBy::Host) {
            let mut hosts = self.hosts(&view)?;
            sort(&mut hosts);
            hosts.truncate(limit(HOSTS));
            return Ok(hosts);
        }
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
        if request.by.is_none() {
            all.append(&mut self.busiest(&view, limit(HOSTS).min(HOSTS as usize))?);
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
                    let (table, gateway) = (info.kind().name().to_owned(), info.gateway.to_string());
                    let row = row(by, info.name.to_string(), total);
                    Some(Usage { table: Some(table), gateway: Some(gateway), ..row })
                });
                named.collect()
            }
            UsageBy::Host => Vec::new(),
        };
        Ok(rows)
    }

    /// The private hosts that carry most of late, over all workers.
    fn talkers(&self) -> Result<HashMap<HostKey, Talker>, Fault> {
        let mut talkers = HashMap::<_, Talker>::new();
        for worker in self.running.workers() {
            for talker in self.running.talkers(worker).map_err(unavailable)? {
                if let Realm::Vpc(vpc) = Realm::of_tenant(talker.tenant) {
                    talkers.entry((vpc, talker.address)).or_default().add(&talker);
                }
            }
        }
        Ok(talkers)
    }

    /// The `most` of them that carry most, with their SNAT sessions.
    fn busiest(&self, view: &View, most: usize) -> Result<Vec<Usage>, Fault> {
        let mut talkers: Vec<_> = self.talkers()?.into_iter().collect();
        talkers.sort_by_key(|(host, talker)| (Reverse(talker.weight), *host));
        let busiest = talkers.iter().take(most);
        Ok(busiest.map(|(host, talker)| of_host(view, *host, talker.sessions.into(), talker)).collect())
    }

    /// Private hosts with live sessions.
    fn hosts(&self, view: &View) -> Result<Vec<Usage>, Fault> {
        let mut hosts = HashMap::<HostKey, (u64, Talker)>::new();
        let listed = self.running.sessions(&SessionFilter::default(), |rows| {
            for row in rows {
                let (sessions, carried) = hosts.entry((row.vpc, row.inside.0)).or_default();
                *sessions += 1;
                carried.bytes_out += row.bytes_out;
                carried.bytes_in += row.bytes_in;
            }
            ControlFlow::Continue(())
        });
        listed.map_err(unavailable)?;
        let talkers = self.talkers()?;
        let told = hosts.into_iter().map(|(host, (sessions, carried))| match talkers.get(&host) {
            Some(talker) => of_host(view, host, sessions, talker),
            None => Usage { packets_out: None, packets_in: None, ..of_host(view, host, sessions, &carried) },
        });
        Ok(told.collect())
    }
}

fn of_host(view: &View, (vpc, address): HostKey, sessions: u64, carried: &Talker) -> Usage {
    Usage {
        by: UsageBy::Host,
        name: Ipv4Addr::from(address).to_string(),
        table: None,
        gateway: None,
        vpc: view.directory.vpc(vpc).map(str::to_owned),
        sessions,
        sessions_created: None,
        bytes_out: carried.bytes_out,
        bytes_in: carried.bytes_in,
        packets_out: Some(carried.packets_out),
        packets_in: Some(carried.packets_in),
        refused: None,
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
