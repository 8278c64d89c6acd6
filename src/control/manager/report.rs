//! Status and counters.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use hashbrown::HashMap;

use crate::base::hugepage::Pages;
use crate::base::{DropReason, EipIndex, GatewayIndex, PortIndex};
use crate::config::EntryKind;
use crate::control::address::Protocol;
use crate::control::manager::{Manager, View, names};
use crate::control::protocol::{
    ActivityStats, Counts, CrowdedDestination, ExternalPorts, GatewayStatus, MemoryStatus, Occupancy,
    PortBlocks, PortStats, PortStatus, Stats, Status, WorkerStats, WorkerStatus,
};
use crate::nat::{self, Counters, Destination, PortsRow};
use crate::policy::{Eip, Snapshot};
use crate::worker::{Activity, PortTotals, WorkerTotals};

impl Manager {
    /// What runs.
    pub fn status(&self) -> Status {
        let view = self.view();
        let snapshot = self.running.snapshot();
        let totals = self.running.totals();
        let health = self.running.health();
        let dead = self.running.check().err().map(|died| died.worker.index());
        let workers: Vec<_> = totals
            .iter()
            .zip(self.running.acknowledged())
            .enumerate()
            .map(|(index, (totals, acknowledged))| WorkerStatus {
                worker: index as u16,
                core: self.facts.cores.as_ref().and_then(|cores| cores.get(index).copied()),
                generation: acknowledged.0,
                alive: dead != Some(index),
                restarts: health.get(index).map_or(0, |health| health.restarts),
                sessions_lost: health.get(index).map_or(0, |health| health.sessions_lost),
                stalls: health.get(index).map_or(0, |health| health.stalls),
                sessions: Occupancy {
                    used: sessions(&totals.counters),
                    capacity: self.facts.sessions as u64,
                },
            })
            .collect();
        let tables: Vec<_> =
            self.running.workers().filter_map(|worker| self.running.occupancy(worker).ok()).collect();
        let pool = self.running.pool();
        let (external_ports, port_blocks) = self.external_ports(&view);
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            process: std::process::id(),
            uptime_seconds: self.uptime_seconds(),
            config: self.facts.config.display().to_string(),
            generation: snapshot.generation().0,
            ports: self.ports(&view),
            sessions: Occupancy {
                used: workers.iter().map(|worker| worker.sessions.used).sum(),
                capacity: self.facts.sessions as u64 * workers.len() as u64,
            },
            // Each worker knows all of them, or nearly.
            neighbours: Occupancy {
                used: tables.iter().map(|tables| tables.neighbours as u64).max().unwrap_or(0),
                capacity: self.facts.neighbours as u64,
            },
            memory: memory(pool.pages(), pool.region().1, &tables),
            gateways: gateways(&view, &snapshot),
            external_ports,
            port_blocks,
            crowded_destinations: self.crowded_destinations(&view),
            session_log: self.log.get().map(|ledger| ledger.totals()).unwrap_or_default(),
            resources: resources(&view, self.running.snapshot().eip_count()),
            unconfirmed: self.unconfirmed(),
            workers,
        }
    }

    /// All counters, a few milliseconds old.
    pub fn stats(&self) -> Stats {
        let view = self.view();
        let totals = self.running.totals();
        let workers: Vec<_> = totals
            .iter()
            .enumerate()
            .map(|(index, totals)| WorkerStats {
                worker: index as u16,
                counts: counts(&totals.counters),
                activity: activity(&totals.activity),
            })
            .collect();
        let ports = view.model.ports().iter().enumerate().map(|(index, port)| {
            let of_workers = totals.iter().filter_map(|totals| totals.ports.get(index));
            let index = PortIndex(index as u16);
            PortStats {
                link_mbps: self.running.link(index),
                device: self.running.device_counters(index).into_iter().collect(),
                ..port_stats(port.name.to_string(), of_workers)
            }
        });
        Stats {
            uptime_seconds: self.uptime_seconds(),
            total: total(&totals),
            ports: ports.collect(),
            workers,
        }
    }

    fn external_ports(&self, view: &View) -> (Vec<ExternalPorts>, Vec<PortBlocks>) {
        let (taken, blocks) = self.ports_taken();
        let taken: BTreeMap<_, _> = taken.into_iter().collect();
        let (now, snapshot) = (self.facts.clock.now(), self.running.snapshot());
        let forecast = self.forecast.lock().unwrap_or_else(PoisonError::into_inner);
        let named = taken.into_iter().filter_map(|((index, protocol), taken)| {
            let address = view.directory.eip(index)?;
            let limit = snapshot.eip(address.into()).map_or(HOST_PORTS, |eip| ports_for_hosts(eip, protocol));
            let seconds_to_full = forecast.seconds_to_full(now, (index, protocol), taken, limit);
            let protocol = Protocol(protocol).to_string();
            Some(ExternalPorts { eip: address.to_string(), protocol, taken, limit, seconds_to_full })
        });
        let in_blocks = blocks.into_iter().filter_map(|(index, taken)| {
            let address = view.directory.eip(index)?;
            let blocks = snapshot.block_entry(snapshot.eip(address.into())?)?.blocks()?;
            Some(PortBlocks { eip: address.to_string(), taken, limit: blocks.count.into() })
        });
        (named.collect(), in_blocks.collect())
    }

    fn crowded_destinations(&self, view: &View) -> Vec<CrowdedDestination> {
        let snapshot = self.running.snapshot();
        let mut taken = BTreeMap::<_, u64>::new();
        let of_workers = self.running.workers().filter_map(|worker| self.running.crowded(worker).ok());
        for (Destination { eip, protocol, peer }, ports) in
            of_workers.flatten().filter(|(_, ports)| *ports > 0)
        {
            *taken.entry((eip, protocol, peer)).or_default() += u64::from(ports);
        }
        let told = taken.into_iter().filter_map(|((index, protocol, peer), taken)| {
            let address = view.directory.eip(index)?;
            let limit = snapshot.eip(address.into()).map_or(HOST_PORTS, |eip| ports_for_hosts(eip, protocol));
            let (eip, peer) = (address.to_string(), names::endpoint(protocol, peer));
            Some(CrowdedDestination { eip, protocol: Protocol(protocol).to_string(), peer, taken, limit })
        });
        told.collect()
    }

    /// External ports that are taken over all workers, by EIP and protocol, and blocks of them, by EIP.
    fn ports_taken(&self) -> (HashMap<(EipIndex, u8), u64>, BTreeMap<EipIndex, u64>) {
        let (mut ports, mut blocks) = (HashMap::new(), BTreeMap::new());
        let of_workers = self.running.workers().filter_map(|worker| self.running.ports_in_use(worker).ok());
        for PortsRow { eip, protocol, taken } in of_workers.flatten() {
            let sum = match protocol {
                Some(protocol) => ports.entry((eip, protocol)).or_default(),
                None => blocks.entry(eip).or_default(),
            };
            *sum += u64::from(taken);
        }
        (ports, blocks)
    }

    /// Notes from time to time how many external ports are taken.
    pub(in crate::control) fn watch_ports(&self) {
        let now = self.facts.clock.now();
        let is_due = self.forecast.lock().unwrap_or_else(PoisonError::into_inner).is_due(now);
        if is_due {
            let (taken, _) = self.ports_taken();
            self.forecast.lock().unwrap_or_else(PoisonError::into_inner).note(now, taken);
        }
    }

    fn ports(&self, view: &View) -> Vec<PortStatus> {
        let named = self.running.ports().iter().zip(view.model.ports());
        named
            .map(|(info, port)| PortStatus {
                name: port.name.to_string(),
                device: info.device.clone(),
                mode: info.mode.clone(),
                mac: info.mac.map(|byte| format!("{byte:02x}")).join(":"),
                mtu: info.mtu,
                queues: self.running.totals().len(),
            })
            .collect()
    }
}

/// Ports from 1024 on: those that a host gets for its own port from 1024 on (RFC 4787 REQ-3).
const HOST_PORTS: u64 = 65_536 - 1024;

/// The ports of them that no DNAT entry owns.
fn ports_for_hosts(eip: &Eip, protocol: u8) -> u64 {
    if eip.any_port.is_some() {
        return 0;
    }
    let owned = eip.forwards().iter().filter(|forward| forward.protocol == protocol && forward.last >= 1024);
    HOST_PORTS - owned.map(|forward| u64::from(forward.last - forward.first.max(1024)) + 1).sum::<u64>()
}

fn memory(pool_pages: Pages, pool_bytes: usize, tables: &[nat::Occupancy]) -> Vec<MemoryStatus> {
    let buffers = MemoryStatus {
        name: "packet buffers".to_owned(),
        pages: pages(pool_pages).to_owned(),
        bytes: pool_bytes as u64,
    };
    let tables = tables.first().map(|first| MemoryStatus {
        name: "tables of sessions".to_owned(),
        pages: pages(first.pages).to_owned(),
        bytes: tables.iter().map(|tables| tables.bytes as u64).sum(),
    });
    std::iter::once(buffers).chain(tables).collect()
}

fn pages(pages: Pages) -> &'static str {
    match pages {
        Pages::Huge => "huge",
        Pages::Transparent => "transparent",
        Pages::Small => "small",
    }
}

/// Sessions that began and did not end.
fn sessions(counters: &Counters) -> u64 {
    counters.sessions_created.saturating_sub(counters.sessions_removed)
}

fn gateways(view: &View, snapshot: &Snapshot) -> Vec<GatewayStatus> {
    let running = view.model.gateways().iter().filter_map(|gateway| {
        let index: GatewayIndex = view.directory.gateway_named(gateway.name.as_str())?;
        Some((gateway, snapshot.gateway(index)?))
    });
    running
        .map(|(gateway, running)| GatewayStatus {
            name: gateway.name.to_string(),
            snat_sessions: running.meter.sessions(),
            limit: Some(running.limits.sessions).filter(|limit| *limit != u64::MAX),
        })
        .collect()
}

fn resources(view: &View, eips: usize) -> std::collections::BTreeMap<String, u64> {
    let model = &view.model;
    let entries = |kind| view.directory.entries().filter(|(_, info)| info.kind() == kind).count();
    let vswitches = model.vpcs().iter().map(|vpc| vpc.vswitches.len()).sum();
    [
        ("vpc", model.vpcs().len()),
        ("vswitch", vswitches),
        ("gateway", model.gateways().len()),
        ("plan", model.plans().len()),
        ("eip", eips),
        ("dnat", entries(EntryKind::Dnat)),
        ("snat", entries(EntryKind::Snat)),
    ]
    .into_iter()
    .map(|(kind, count)| (kind.to_owned(), count as u64))
    .collect()
}

fn total(workers: &[WorkerTotals]) -> Counts {
    let mut total = Counts::default();
    for worker in workers {
        let more = counts(&worker.counters);
        let fields: [(&mut u64, u64); 17] = [
            (&mut total.received, more.received),
            (&mut total.taken_over, more.taken_over),
            (&mut total.forwarded, more.forwarded),
            (&mut total.handed, more.handed),
            (&mut total.consumed, more.consumed),
            (&mut total.held, more.held),
            (&mut total.dropped, more.dropped),
            (&mut total.originated, more.originated),
            (&mut total.bytes_out, more.bytes_out),
            (&mut total.bytes_in, more.bytes_in),
            (&mut total.sessions_created, more.sessions_created),
            (&mut total.sessions_removed, more.sessions_removed),
            (&mut total.stateless, more.stateless),
            (&mut total.displaced, more.displaced),
            (&mut total.evicted, more.evicted),
            (&mut total.ftp_rewritten, more.ftp_rewritten),
            (&mut total.ftp_unaltered, more.ftp_unaltered),
        ];
        for (sum, value) in fields {
            *sum += value;
        }
        total.balance += more.balance;
        for (reason, count) in more.drops {
            *total.drops.entry(reason).or_default() += count;
        }
    }
    total
}

fn counts(counters: &Counters) -> Counts {
    let drops = DropReason::ALL.iter().zip(counters.drops);
    Counts {
        received: counters.received,
        taken_over: counters.taken_over,
        forwarded: counters.forwarded,
        handed: counters.handed,
        consumed: counters.consumed,
        held: counters.held,
        dropped: counters.dropped(),
        balance: counters.balance(),
        originated: counters.originated,
        bytes_out: counters.bytes_out,
        bytes_in: counters.bytes_in,
        sessions_created: counters.sessions_created,
        sessions_removed: counters.sessions_removed,
        stateless: counters.stateless,
        displaced: counters.displaced,
        evicted: counters.evicted,
        ftp_rewritten: counters.ftp_rewritten,
        ftp_unaltered: counters.ftp_unaltered,
        drops: drops.map(|(reason, count)| (reason.name().to_owned(), count)).collect(),
    }
}

fn activity(activity: &Activity) -> ActivityStats {
    let seconds = |nanos: u64| nanos as f64 / 1e9;
    ActivityStats {
        busy_seconds: seconds(activity.busy_nanos),
        idle_seconds: seconds(activity.idle_nanos),
        sleeps: activity.sleeps,
        batches: activity.batches,
        own_no_buffer: activity.own_no_buffer,
        own_transmit_full: activity.own_transmit_full,
        facts_lost: activity.facts_lost,
        waiting: activity.waiting,
        waiting_most: activity.waiting_most,
    }
}

fn port_stats<'a>(name: String, of_workers: impl Iterator<Item = &'a PortTotals>) -> PortStats {
    of_workers.fold(PortStats { name, ..PortStats::default() }, |sum, more| PortStats {
        name: sum.name,
        rx_packets: sum.rx_packets + more.rx_packets,
        rx_bytes: sum.rx_bytes + more.rx_bytes,
        tx_packets: sum.tx_packets + more.tx_packets,
        tx_bytes: sum.tx_bytes + more.tx_bytes,
        rx_missed: sum.rx_missed + more.rx_missed,
        rx_errors: sum.rx_errors + more.rx_errors,
        tx_errors: sum.tx_errors + more.tx_errors,
        ..PortStats::default()
    })
}
