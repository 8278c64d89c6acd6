//! Answers for people.

use std::collections::BTreeMap;

use crate::base::DropReason;
use crate::cli::output::{Align, Table, bytes, counted, line, percent, rate, time};
use crate::control::protocol::{
    Applied, Change, ChangeKind, Counts, Explanation, Occupancy, PortStats, Reloaded, Session, Stats, Status,
    Step, Trace, Usage, UsageBy, WorkerStatus,
};

/// What a reload changed.
pub fn reloaded(reloaded: &Reloaded) -> String {
    changed(&reloaded.changes, reloaded.dry_run, reloaded.generation)
}

/// What an apply changed, and until when it waits to be confirmed.
pub fn applied(applied: &Applied) -> String {
    let changed = changed(&applied.changes, applied.dry_run, applied.generation);
    let trial = applied.unconfirmed.as_ref().map_or_else(String::new, |unconfirmed| {
        format!("it is taken back at {} unless natgate confirm comes before\n", unconfirmed.until)
    });
    changed + &trial
}

fn changed(changes: &[Change], dry_run: bool, generation: u32) -> String {
    let mut text = Vec::new();
    for change in changes {
        let sign = match change.change {
            ChangeKind::Added => '+',
            ChangeKind::Changed => '~',
            ChangeKind::Removed => '-',
        };
        let colon = if change.detail.is_empty() { "" } else { ": " };
        text.push(format!("{sign} {} {}{colon}{}\n", change.resource, change.name, change.detail));
    }
    text.push(match (changes.len(), dry_run) {
        (0, _) => format!("nothing has changed; generation {generation} stays in force\n"),
        (changes, true) => {
            let changes = counted(changes, "change");
            format!("{changes} would be applied; generation {generation} stays in force\n")
        }
        (changes, false) => {
            let changes = counted(changes, "change");
            format!("{changes} applied; generation {generation} is in force on all workers\n")
        }
    });
    text.concat()
}

fn occupancy(occupancy: Occupancy) -> String {
    let Occupancy { used, capacity } = occupancy;
    format!("{used} of {capacity} ({})", percent(used, capacity))
}

/// What runs.
pub fn status(status: &Status) -> String {
    let Status { version, process, generation, config, .. } = status;
    let behind = status.workers.iter().filter(|worker| worker.generation != *generation).count();
    let force = if behind == 0 {
        "in force on all workers".into()
    } else {
        format!("not yet in force on {}", counted(behind, "worker"))
    };
    let mut text = vec![format!(
        "natgate {version}, process {process}, up {}\nconfiguration {config}, generation {generation}, {force}\n\n",
        time(status.uptime_seconds)
    )];
    let mut ports = Table::new(["PORT", "DEVICE", "MAC", ">MTU", ">QUEUES", "MODE"]);
    for port in &status.ports {
        let numbers = [port.mtu.to_string(), port.queues.to_string()];
        let words = [port.name.clone(), port.device.clone(), port.mac.clone()];
        ports.row(words.into_iter().chain(numbers).chain([port.mode.clone()]));
    }
    text.push(format!("{ports}\n"));
    let mut workers = Table::new([">WORKER", ">CORE", "STATE", ">GENERATION", ">SESSIONS"]);
    for worker in &status.workers {
        workers.row([
            worker.worker.to_string(),
            worker.core.map_or("-".into(), |core| core.to_string()),
            match worker {
                WorkerStatus { alive: false, .. } => "DEAD".into(),
                WorkerStatus { restarts: 0, .. } => "runs".into(),
                WorkerStatus { restarts, .. } => format!("runs, {restarts} RESTARTS"),
            },
            worker.generation.to_string(),
            occupancy(worker.sessions),
        ]);
    }
    text.push(format!("{workers}\n"));
    let mut rest = Table::new(["TABLE", "IN USE"]);
    rest.row(["sessions".into(), occupancy(status.sessions)]);
    rest.row(["neighbours".into(), occupancy(status.neighbours)]);
    for gateway in &status.gateways {
        let sessions = gateway.snat_sessions;
        let used = match gateway.limit {
            Some(capacity) => occupancy(Occupancy { used: sessions, capacity }),
            None => format!("{sessions} (unlimited)"),
        };
        rest.row([format!("SNAT sessions of {}", gateway.name), used]);
    }
    for memory in &status.memory {
        rest.row([
            format!("memory: {}", memory.name),
            format!("{} on {} pages", bytes(memory.bytes), memory.pages),
        ]);
    }
    for log in &status.session_log {
        let lost = if log.lost == 0 { String::new() } else { format!(", {} LOST", log.lost) };
        rest.row([format!("session log: {}", log.place), format!("{} lines{lost}", log.written)]);
    }
    text.push(rest.to_string());
    if let Some(unconfirmed) = &status.unconfirmed {
        let changes = counted(unconfirmed.changes as usize, "change");
        let (who, until) = (&unconfirmed.who, &unconfirmed.until);
        text.push(format!(
            "\n{changes} by {who}, taken back at {until} unless natgate confirm comes before\n"
        ));
    }
    if !status.resources.is_empty() {
        let resources: Vec<_> =
            status.resources.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        text.push(format!("\nconfigured: {}\n", resources.join(", ")));
    }
    text.concat()
}

type Counter = fn(&Counts) -> u64;

/// What became of frames, in the order of the conservation law.
const FATES: [(&str, Counter); 7] = [
    ("received", |c| c.received),
    ("+ taken over", |c| c.taken_over),
    ("= forwarded", |c| c.forwarded),
    ("+ handed", |c| c.handed),
    ("+ consumed", |c| c.consumed),
    ("+ held", |c| c.held),
    ("+ dropped", |c| c.dropped),
];

const OTHERS: [(&str, Counter); 10] = [
    ("originated", |c| c.originated),
    ("bytes out", |c| c.bytes_out),
    ("bytes in", |c| c.bytes_in),
    ("sessions created", |c| c.sessions_created),
    ("sessions removed", |c| c.sessions_removed),
    ("stateless", |c| c.stateless),
    ("displaced", |c| c.displaced),
    ("evicted", |c| c.evicted),
    ("ftp rewritten", |c| c.ftp_rewritten),
    ("ftp unaltered", |c| c.ftp_unaltered),
];

/// Counters, with their rates since `before` if there is one.
pub fn stats(stats: &Stats, before: Option<&Stats>) -> String {
    let mut headings = vec!["PACKETS".to_owned(), ">TOTAL".to_owned()];
    headings.extend(before.map(|_| ">PER SECOND".to_owned()));
    headings.extend(stats.workers.iter().map(|worker| format!(">WORKER {}", worker.worker)));
    let mut counters = Table::new(headings.iter().map(String::as_str));
    for (name, counter) in FATES.into_iter().chain(OTHERS) {
        let mut row = vec![name.to_owned(), counter(&stats.total).to_string()];
        row.extend(before.map(|before| since(stats, before, |stats| counter(&stats.total))));
        row.extend(stats.workers.iter().map(|worker| counter(&worker.counts).to_string()));
        counters.row(row);
        if name == "+ dropped" {
            let mut row = vec!["balance".to_owned(), balance(stats.total.balance)];
            row.extend(before.map(|_| String::new()));
            row.extend(stats.workers.iter().map(|worker| balance(worker.counts.balance)));
            counters.row(row);
        }
    }
    let mut row = vec!["busy".to_owned(), String::new()];
    row.extend(before.map(|_| String::new()));
    row.extend(stats.workers.iter().enumerate().map(|(index, worker)| {
        let earlier =
            before.and_then(|before| before.workers.get(index)).map(|worker| worker.activity.clone());
        let earlier = earlier.unwrap_or_default();
        let busy = worker.activity.busy_seconds - earlier.busy_seconds;
        let idle = worker.activity.idle_seconds - earlier.idle_seconds;
        if busy + idle > 0.0 { format!("{:.1} %", 100.0 * busy / (busy + idle)) } else { "-".into() }
    }));
    counters.row(row);
    let mut text = vec![format!("{counters}\n{}", ports(stats, before))];
    let drops = drops(stats, before);
    if !drops.is_empty() {
        text.push(format!("\n{drops}"));
    }
    text.concat()
}

fn balance(balance: i64) -> String {
    if balance == 0 { "0".into() } else { format!("{balance} (WRONG)") }
}

fn since(stats: &Stats, before: &Stats, counter: impl Fn(&Stats) -> u64) -> String {
    let seconds = stats.uptime_seconds - before.uptime_seconds;
    let more = counter(stats).saturating_sub(counter(before));
    if seconds > 0.0 { rate(more as f64 / seconds) } else { "-".into() }
}

fn ports(stats: &Stats, before: Option<&Stats>) -> Table {
    type Counter = fn(&PortStats) -> u64;
    const COUNTERS: [(&str, Counter); 7] = [
        (">RX PACKETS", |p| p.rx_packets),
        (">RX BYTES", |p| p.rx_bytes),
        (">TX PACKETS", |p| p.tx_packets),
        (">TX BYTES", |p| p.tx_bytes),
        (">RX MISSED", |p| p.rx_missed),
        (">RX ERRORS", |p| p.rx_errors),
        (">TX ERRORS", |p| p.tx_errors),
    ];
    let heading = if before.is_some() { "PORT (PER SECOND)" } else { "PORT" };
    let mut table = Table::new([heading].into_iter().chain(COUNTERS.map(|(name, _)| name)));
    for (index, port) in stats.ports.iter().enumerate() {
        let cells = COUNTERS.map(|(_, counter)| match before {
            Some(before) => since(stats, before, |stats| stats.ports.get(index).map_or(0, counter)),
            None => counter(port).to_string(),
        });
        table.row([port.name.clone()].into_iter().chain(cells));
    }
    table
}

fn drops(stats: &Stats, before: Option<&Stats>) -> Table {
    let headings = ["DROPS", ">TOTAL"].into_iter().chain(before.map(|_| ">PER SECOND")).chain(["REASON"]);
    let mut table = Table::new(headings);
    let count = |drops: &BTreeMap<String, u64>, name: &str| drops.get(name).copied().unwrap_or(0);
    for reason in DropReason::ALL {
        let name = reason.name();
        let total = count(&stats.total.drops, name);
        if total > 0 {
            let rate = before.map(|before| since(stats, before, |stats| count(&stats.total.drops, name)));
            let cells = [name.to_owned(), total.to_string()].into_iter().chain(rate);
            table.row(cells.chain([reason.description().to_owned()]));
        }
    }
    table
}

/// What gateways, EIPs, entries or private hosts have carried; with what they had carried so many seconds before, as rates.
pub fn usage(by: UsageBy, rows: &[Usage], before: Option<(&[Usage], f64)>) -> String {
    let earlier = |row: &Usage| -> Option<&Usage> {
        let same = |old: &&Usage| {
            (&old.name, &old.table, &old.gateway, &old.vpc) == (&row.name, &row.table, &row.gateway, &row.vpc)
        };
        before?.0.iter().find(same)
    };
    let number = |row: &Usage, value: &dyn Fn(&Usage) -> u64, form: &dyn Fn(u64) -> String| match before {
        None => form(value(row)),
        // One that was not among those that were shown before has no rate yet.
        Some((_, seconds)) => match earlier(row) {
            Some(earlier) if seconds > 0.0 => {
                let more = value(row).saturating_sub(value(earlier));
                form((more as f64 / seconds).round() as u64)
            }
            _ => "-".into(),
        },
    };
    let per = if before.is_some() { "/S" } else { "" };
    let (name, of) = match by {
        UsageBy::Gateway => ("GATEWAY", None),
        UsageBy::Eip => ("EIP", None),
        UsageBy::Entry => ("ENTRY", Some("GATEWAY")),
        UsageBy::Host => ("HOST", Some("VPC")),
    };
    let counts = [">NEW", ">OUT", ">IN", ">PACKETS OUT", ">PACKETS IN"].map(|name| format!("{name}{per}"));
    let refusals = ["SESSION LIMIT", "RATE LIMIT", "QUOTA", "NO PORT"].map(|name| format!(">{name}{per}"));
    let mut headings = vec![name.to_owned()];
    headings.extend((by == UsageBy::Entry).then(|| "TABLE".to_owned()));
    headings.extend(of.map(str::to_owned));
    headings.push(">SESSIONS".into());
    let is_host = by == UsageBy::Host;
    let [new, out, into, packets @ ..] = counts;
    headings.extend((!is_host).then_some(new));
    headings.extend([out, into]);
    headings.extend(packets);
    headings.extend(refusals.into_iter().filter(|_| !is_host));
    let mut table = Table::new(headings.iter().map(String::as_str));
    for row in rows {
        let mut cells = vec![row.name.clone()];
        cells.extend(row.table.clone());
        cells.extend(row.gateway.clone().or_else(|| row.vpc.clone()));
        cells.push(row.sessions.to_string());
        if !is_host {
            cells.push(number(row, &|row| row.sessions_created.unwrap_or(0), &|count| count.to_string()));
        }
        cells.push(number(row, &|row| row.bytes_out, &bytes));
        cells.push(number(row, &|row| row.bytes_in, &bytes));
        let packets: [fn(&Usage) -> Option<u64>; 2] = [|row| row.packets_out, |row| row.packets_in];
        for packets in packets {
            let count = |row: &Usage| packets(row).unwrap_or(0);
            let cell = packets(row).map(|_| number(row, &count, &|count| count.to_string()));
            cells.push(cell.unwrap_or_else(|| "-".into()));
        }
        for at in (0..4).filter(|_| !is_host) {
            let value = |row: &Usage| row.refused.unwrap_or_default().by_reason()[at].1;
            cells.push(number(row, &value, &|count| count.to_string()));
        }
        table.row(cells);
    }
    table.to_string()
}

const SESSION_COLUMNS: [(&str, usize, Align); 13] = [
    ("PROTO", 5, Align::Left),
    ("INSIDE", 21, Align::Left),
    ("EXTERNAL", 21, Align::Left),
    ("PEER", 21, Align::Left),
    ("KIND", 9, Align::Left),
    ("ENTRY", 12, Align::Left),
    ("STATE", 12, Align::Left),
    ("OUT", 8, Align::Right),
    ("IN", 8, Align::Right),
    ("AGE", 7, Align::Right),
    ("IDLE", 7, Align::Right),
    ("EXPIRES", 7, Align::Right),
    ("WORKER", 6, Align::Left),
];

fn session_line(cells: [&str; 13]) -> String {
    let line = line(cells, &SESSION_COLUMNS.map(|column| column.1), &SESSION_COLUMNS.map(|column| column.2));
    line + "\n"
}

/// The headings over sessions. Their lines have fixed widths, because they are printed while they come.
pub fn sessions_head() -> String {
    session_line(SESSION_COLUMNS.map(|column| column.0))
}

/// A session.
pub fn session(session: &Session) -> String {
    let workers: Vec<_> = session.workers.iter().map(u16::to_string).collect();
    session_line([
        &session.protocol,
        &session.inside,
        &session.external,
        &session.peer,
        &session.kind,
        &session.entry,
        &session.state,
        &bytes(session.bytes_out),
        &bytes(session.bytes_in),
        &time(session.age_seconds),
        &time(session.idle_seconds),
        &time(session.expires_seconds),
        &workers.join(","),
    ])
}

/// All that is known of a session.
pub fn whole_session(session: &Session) -> String {
    let workers: Vec<_> = session.workers.iter().map(u16::to_string).collect();
    let lines = [
        ("protocol", session.protocol.clone()),
        ("inside", session.inside.clone()),
        ("external", session.external.clone()),
        ("peer", session.peer.clone()),
        ("kind", session.kind.clone()),
        ("entry", session.entry.clone()),
        ("gateway", session.gateway.clone()),
        ("vpc", session.vpc.clone()),
        ("state", session.state.clone()),
        ("out", format!("{} bytes", session.bytes_out)),
        ("in", format!("{} bytes", session.bytes_in)),
        ("age", time(session.age_seconds)),
        ("idle", time(session.idle_seconds)),
        ("expires in", time(session.expires_seconds)),
        ("workers", workers.join(", ")),
    ];
    lines.map(|(name, value)| format!("{name:<10}  {value}\n")).concat()
}

fn steps(steps: &[Step]) -> String {
    let width = steps.iter().map(|step| step.stage.chars().count()).max().unwrap_or(0);
    let lines: Vec<_> =
        steps.iter().map(|Step { stage, decision }| format!("  {stage:<width$}  {decision}\n")).collect();
    lines.concat()
}

/// What became of a packet.
pub fn trace(number: u64, trace: &Trace) -> String {
    let Trace { worker, at_seconds, port, packet, verdict, .. } = trace;
    format!(
        "[{number}] {packet} (port {port}, worker {worker}, at {at_seconds:.6} s)\n{}  => {verdict}\n",
        steps(&trace.steps)
    )
}

/// What would happen to a packet.
pub fn explanation(explanation: &Explanation) -> String {
    let Explanation { packet, from, verdict, becomes, entry, .. } = explanation;
    let mut text = vec![format!("{packet}, from {from}\n{}  => {verdict}\n", steps(&explanation.steps))];
    if let Some(becomes) = becomes {
        text.push(format!("  => {becomes}\n"));
    }
    if let Some(entry) = entry {
        text.push(format!("  by {entry}\n"));
    }
    text.concat()
}
