//! What `natgate top` shows, as text.

use crate::base::DropReason;
use crate::cli::output::{Table, percent, rate, time};
use crate::cli::render;
use crate::cli::top::Sample;
use crate::control::protocol::{Counts, CrowdedDestination, ExternalPorts, Stats, UsageBy, WorkerStats};

/// Lines of the tables of drops and of ports.
const LINES: usize = 5;

/// What the keys do.
pub(super) const KEYS: &str = "\nq quit   g gateways   e EIPs   n entries   h private hosts\n";

/// What happened between two moments.
pub(super) fn text(now: &Sample, before: &Sample, by: UsageBy) -> String {
    let seconds = now.at.since(before.at).as_secs_f64();
    let per_second = |value: &dyn Fn(&Counts) -> u64| {
        let more = value(&now.stats.total).saturating_sub(value(&before.stats.total));
        if seconds > 0.0 { more as f64 / seconds } else { 0.0 }
    };
    let status = &now.status;
    let (used, capacity) = (status.sessions.used, status.sessions.capacity);
    let mut text = vec![format!(
        "natgate {}, up {}, generation {}, over {seconds:.1} s\n",
        status.version,
        time(status.uptime_seconds),
        status.generation
    )];
    text.push(format!(
        "sessions {used} of {capacity} ({}), {}/s new, {}/s ended\n",
        percent(used, capacity),
        rate(per_second(&|counts| counts.sessions_created)),
        rate(per_second(&|counts| counts.sessions_removed)),
    ));
    text.push(format!(
        "packets {}/s forwarded, {}/s dropped; {} to the Internet side, {} to the VPC side\n\n",
        rate(per_second(&|counts| counts.forwarded)),
        rate(per_second(&|counts| counts.dropped)),
        bits(8.0 * per_second(&|counts| counts.bytes_out)),
        bits(8.0 * per_second(&|counts| counts.bytes_in)),
    ));
    text.push(format!("{}\n", workers(now, before, seconds)));
    let drops = drops(&now.stats, &before.stats, seconds);
    if !drops.is_empty() {
        text.push(format!("{drops}\n"));
    }
    if !status.external_ports.is_empty() {
        text.push(format!("{}\n", ports(&status.external_ports)));
    }
    if !status.crowded_destinations.is_empty() {
        text.push(format!("{}\n", crowded(&status.crowded_destinations)));
    }
    text.push(render::usage(by, &now.usage, Some((&before.usage, seconds))));
    text.concat()
}

/// A bit rate with its unit.
fn bits(per_second: f64) -> String {
    const UNITS: [(f64, &str); 3] = [(1e9, "Gbps"), (1e6, "Mbps"), (1e3, "kbps")];
    let unit = UNITS.into_iter().find(|(size, _)| per_second >= *size);
    unit.map_or_else(
        || format!("{per_second:.0} bps"),
        |(size, unit)| format!("{:.1} {unit}", per_second / size),
    )
}

fn workers(now: &Sample, before: &Sample, seconds: f64) -> Table {
    let mut table = Table::new([
        ">WORKER",
        "STATE",
        ">BUSY",
        ">PACKETS/S",
        ">DROPPED/S",
        ">HANDED/S",
        ">NEW/S",
        ">SESSIONS",
    ]);
    for (index, worker) in now.stats.workers.iter().enumerate() {
        let none = WorkerStats::default();
        let earlier = before.stats.workers.get(index).unwrap_or(&none);
        let per_second = |value: &dyn Fn(&Counts) -> u64| {
            let more = value(&worker.counts).saturating_sub(value(&earlier.counts));
            if seconds > 0.0 { rate(more as f64 / seconds) } else { "-".into() }
        };
        let busy = worker.activity.busy_seconds - earlier.activity.busy_seconds;
        let all = busy + worker.activity.idle_seconds - earlier.activity.idle_seconds;
        let status = now.status.workers.get(index);
        table.row([
            worker.worker.to_string(),
            if status.is_none_or(|status| status.alive) { "runs" } else { "DEAD" }.into(),
            if all > 0.0 { format!("{:.1} %", 100.0 * busy / all) } else { "-".into() },
            per_second(&|counts| counts.received + counts.taken_over),
            per_second(&|counts| counts.dropped),
            per_second(&|counts| counts.handed),
            per_second(&|counts| counts.sessions_created),
            status.map_or_else(String::new, |status| status.sessions.used.to_string()),
        ]);
    }
    table
}

/// Reasons of drops that happen at the moment, the most frequent first.
fn drops(now: &Stats, before: &Stats, seconds: f64) -> Table {
    let count = |stats: &Stats, name: &str| stats.total.drops.get(name).copied().unwrap_or(0);
    let more = DropReason::ALL
        .iter()
        .map(|reason| (count(now, reason.name()).saturating_sub(count(before, reason.name())), *reason));
    let mut more: Vec<_> = more.filter(|(more, _)| *more > 0 && seconds > 0.0).collect();
    more.sort_by_key(|(more, _)| std::cmp::Reverse(*more));
    let mut table = Table::new(["DROPS", ">PER SECOND", "REASON"]);
    for (more, reason) in more.into_iter().take(LINES) {
        table.row([reason.name().to_owned(), rate(more as f64 / seconds), reason.description().to_owned()]);
    }
    table
}

/// Destinations to which an EIP has the fewest ports left.
fn crowded(all: &[CrowdedDestination]) -> Table {
    let mut all: Vec<_> = all.iter().collect();
    all.sort_by_key(|destination| destination.limit.saturating_sub(destination.taken));
    let mut table = Table::new(["CROWDED", "PROTO", "DESTINATION", ">TAKEN", ">OF"]);
    for CrowdedDestination { eip, protocol, peer, taken, limit } in all.into_iter().take(LINES) {
        table.row([eip.clone(), protocol.clone(), peer.clone(), taken.to_string(), limit.to_string()]);
    }
    table
}

/// EIPs whose external ports are the most used up.
fn ports(all: &[ExternalPorts]) -> Table {
    let share = |ports: &ExternalPorts| ports.taken as f64 / ports.limit.max(1) as f64;
    let mut all: Vec<_> = all.iter().collect();
    all.sort_by(|one, other| share(other).total_cmp(&share(one)));
    let mut table = Table::new(["PORTS OF", "PROTO", ">TAKEN", ">OF", ">SHARE", ">FULL IN"]);
    for ports in all.into_iter().take(LINES) {
        table.row([
            ports.eip.clone(),
            ports.protocol.clone(),
            ports.taken.to_string(),
            ports.limit.to_string(),
            percent(ports.taken, ports.limit),
            ports.seconds_to_full.map_or_else(|| "-".into(), time),
        ]);
    }
    table
}
