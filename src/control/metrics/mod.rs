//! What monitoring sees: every metric with its unit and labels in one table, written in the text format of Prometheus.
//!
//! Labels are bounded by the configuration: workers, ports, gateways, EIPs, entries (up to [`ENTRIES`] of them) and the fixed list of
//! drop reasons. Of private hosts, the few that carry most of late have samples. Nothing here is by peer.

mod usage;

use std::fmt::Write as _;

use crate::control::protocol::{ExternalPorts, PortBlocks, Stats, Status, Usage, UsageRequest};

/// EIPs and entries that have metrics of their own, at most: the first that had sessions.
pub const ENTRIES: u64 = 10_000;

/// The usage that metrics are made of.
pub const USAGE: UsageRequest = UsageRequest { by: None, limit: Some(ENTRIES) };

/// A metric as it is documented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name, which ends in its unit.
    pub name: &'static str,
    /// `counter` or `gauge`.
    pub kind: &'static str,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

/// The samples of one metric: values of its labels, and the value.
type Samples = Vec<(Vec<String>, f64)>;

/// A metric with its samples.
struct Family {
    metric: Metric,
    samples: Samples,
}

/// Names, kinds, labels and texts of all metrics.
pub fn table() -> Vec<Metric> {
    families(&Status::default(), &Stats::default(), &[]).into_iter().map(|family| family.metric).collect()
}

/// All metrics, in the text format of Prometheus (version 0.0.4).
pub fn render(status: &Status, stats: &Stats, usage: &[Usage]) -> String {
    let mut text = String::new();
    for Family { metric, samples } in families(status, stats, usage) {
        let Metric { name, kind, labels, help } = metric;
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (values, value) in samples {
            let named = labels.iter().zip(values);
            let named: Vec<_> =
                named.map(|(label, value)| format!("{label}=\"{}\"", escape(&value))).collect();
            let set = if named.is_empty() { String::new() } else { format!("{{{}}}", named.join(",")) };
            let _ = writeln!(text, "{name}{set} {value}");
        }
    }
    text
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn one(value: f64) -> Samples {
    vec![(Vec::new(), value)]
}

/// A sample for each of some things, with one label.
fn each<T>(things: &[T], label: impl Fn(&T) -> String, value: impl Fn(&T) -> f64) -> Samples {
    things.iter().map(|thing| (vec![label(thing)], value(thing))).collect()
}

fn families(status: &Status, stats: &Stats, usage: &[Usage]) -> Vec<Family> {
    let mut families = Vec::new();
    let mut add = |name, kind, labels, help, samples| {
        families.push(Family { metric: Metric { name, kind, labels, help }, samples });
    };
    let version = vec![(vec![status.version.clone()], 1.0)];
    add("natgate_build_info", "gauge", &["version"][..], "The version that runs; always 1.", version);
    add("natgate_uptime_seconds", "gauge", &[], "Time since the start.", one(stats.uptime_seconds));
    add(
        "natgate_generation",
        "gauge",
        &[],
        "The published generation of the configuration.",
        one(status.generation.into()),
    );

    let workers = |value: &dyn Fn(&crate::control::protocol::WorkerStatus) -> f64| {
        each(&status.workers, |worker| worker.worker.to_string(), value)
    };
    add(
        "natgate_worker_up",
        "gauge",
        &["worker"],
        "Whether the worker lives.",
        workers(&|worker| f64::from(u8::from(worker.alive))),
    );
    add(
        "natgate_worker_restarts_total",
        "counter",
        &["worker"],
        "Times that the worker died of a defect and was started anew.",
        workers(&|worker| worker.restarts as f64),
    );
    add(
        "natgate_worker_sessions_lost_total",
        "counter",
        &["worker"],
        "Sessions that were lost with the worker.",
        workers(&|worker| worker.sessions_lost as f64),
    );
    add(
        "natgate_worker_stalls_total",
        "counter",
        &["worker"],
        "Times that the worker stood still for longer than a second.",
        workers(&|worker| worker.stalls as f64),
    );
    add(
        "natgate_worker_generation",
        "gauge",
        &["worker"],
        "The generation that the worker works with.",
        workers(&|worker| worker.generation.into()),
    );
    add(
        "natgate_sessions",
        "gauge",
        &["worker"],
        "Live sessions.",
        workers(&|worker| worker.sessions.used as f64),
    );
    add(
        "natgate_sessions_limit",
        "gauge",
        &["worker"],
        "Sessions that there is room for.",
        workers(&|worker| worker.sessions.capacity as f64),
    );

    let of_workers = |value: &dyn Fn(&crate::control::protocol::WorkerStats) -> f64| {
        each(&stats.workers, |worker| worker.worker.to_string(), value)
    };
    let packets: Samples = stats
        .workers
        .iter()
        .flat_map(|worker| {
            let counts = &worker.counts;
            [
                ("received", counts.received),
                ("taken_over", counts.taken_over),
                ("forwarded", counts.forwarded),
            ]
            .into_iter()
            .chain([("handed", counts.handed), ("consumed", counts.consumed), ("dropped", counts.dropped)])
            .map(|(fate, count)| (vec![worker.worker.to_string(), fate.to_owned()], count as f64))
        })
        .collect();
    add(
        "natgate_packets_total",
        "counter",
        &["worker", "fate"],
        "Packets by what became of them: received + taken_over is forwarded + handed + consumed + dropped, and those that wait for a next hop.",
        packets,
    );
    add(
        "natgate_packets_held",
        "gauge",
        &["worker"],
        "Packets that wait for the Ethernet address of a next hop.",
        of_workers(&|worker| worker.counts.held as f64),
    );
    add(
        "natgate_packets_originated_total",
        "counter",
        &["worker"],
        "Frames of the gateway's own making: ARP, echo replies, ICMP errors.",
        of_workers(&|worker| worker.counts.originated as f64),
    );
    let drops = stats.workers.iter().flat_map(|worker| {
        let of = move |(reason, count): (&String, &u64)| {
            (vec![worker.worker.to_string(), reason.clone()], *count as f64)
        };
        worker.counts.drops.iter().map(of)
    });
    add(
        "natgate_drops_total",
        "counter",
        &["worker", "reason"],
        "Dropped packets by reason; the README lists all reasons.",
        drops.collect(),
    );
    let bytes = stats.workers.iter().flat_map(|worker| {
        [("out", worker.counts.bytes_out), ("in", worker.counts.bytes_in)]
            .map(|(direction, bytes)| (vec![worker.worker.to_string(), direction.to_owned()], bytes as f64))
    });
    add(
        "natgate_forwarded_bytes_total",
        "counter",
        &["worker", "direction"],
        "Bytes of forwarded IP packets, to the Internet side (out) and to the VPC side (in).",
        bytes.collect(),
    );
    add(
        "natgate_sessions_created_total",
        "counter",
        &["worker"],
        "Sessions that began.",
        of_workers(&|worker| worker.counts.sessions_created as f64),
    );
    add(
        "natgate_sessions_removed_total",
        "counter",
        &["worker"],
        "Sessions that ended.",
        of_workers(&|worker| worker.counts.sessions_removed as f64),
    );
    add(
        "natgate_sessions_displaced_total",
        "counter",
        &["worker"],
        "SNAT sessions ended because a DNAT entry took their port.",
        of_workers(&|worker| worker.counts.displaced as f64),
    );
    add(
        "natgate_sessions_evicted_total",
        "counter",
        &["worker"],
        "Half-open TCP connections that gave way to other sessions for want of room.",
        of_workers(&|worker| worker.counts.evicted as f64),
    );
    add(
        "natgate_ftp_rewritten_total",
        "counter",
        &["worker"],
        "Endpoints announced on FTP control connections that were translated.",
        of_workers(&|worker| worker.counts.ftp_rewritten as f64),
    );
    add(
        "natgate_ftp_unaltered_total",
        "counter",
        &["worker"],
        "Announcements on FTP control connections that passed unaltered, and control connections that were not read for want of room.",
        of_workers(&|worker| worker.counts.ftp_unaltered as f64),
    );
    add(
        "natgate_stateless_packets_total",
        "counter",
        &["worker"],
        "DNAT packets translated without a session.",
        of_workers(&|worker| worker.counts.stateless as f64),
    );
    add(
        "natgate_worker_busy_seconds_total",
        "counter",
        &["worker"],
        "Time in turns of the loop that found something to do.",
        of_workers(&|worker| worker.activity.busy_seconds),
    );
    add(
        "natgate_worker_idle_seconds_total",
        "counter",
        &["worker"],
        "Time in turns of the loop that found nothing.",
        of_workers(&|worker| worker.activity.idle_seconds),
    );
    add(
        "natgate_batches_total",
        "counter",
        &["worker"],
        "Batches that held packets.",
        of_workers(&|worker| worker.activity.batches as f64),
    );
    add(
        "natgate_handoff_waiting_frames",
        "gauge",
        &["worker"],
        "Frames from other workers that wait.",
        of_workers(&|worker| worker.activity.waiting as f64),
    );

    let frames = stats.ports.iter().flat_map(|port| {
        [("receive", port.rx_packets), ("transmit", port.tx_packets)]
            .map(|(direction, count)| (vec![port.name.clone(), direction.to_owned()], count as f64))
    });
    add(
        "natgate_port_frames_total",
        "counter",
        &["port", "direction"],
        "Frames of a port.",
        frames.collect(),
    );
    let bytes = stats.ports.iter().flat_map(|port| {
        [("receive", port.rx_bytes), ("transmit", port.tx_bytes)]
            .map(|(direction, count)| (vec![port.name.clone(), direction.to_owned()], count as f64))
    });
    add(
        "natgate_port_bytes_total",
        "counter",
        &["port", "direction"],
        "Bytes of a port's frames.",
        bytes.collect(),
    );
    let errors = stats.ports.iter().flat_map(|port| {
        [("rx_missed", port.rx_missed), ("rx_errors", port.rx_errors), ("tx_errors", port.tx_errors)]
            .map(|(kind, count)| (vec![port.name.clone(), kind.to_owned()], count as f64))
    });
    add(
        "natgate_port_errors_total",
        "counter",
        &["port", "kind"],
        "Frames that a port lost or refused.",
        errors.collect(),
    );
    let links = stats.ports.iter().filter_map(|port| Some((vec![port.name.clone()], port.link_mbps? as f64)));
    add(
        "natgate_port_link_mbps",
        "gauge",
        &["port"],
        "Speed of a port's link in Mbit/s, 0 while it is down; absent where the device does not say.",
        links.collect(),
    );
    let of_devices = stats.ports.iter().flat_map(|port| {
        port.device.iter().map(|(counter, count)| (vec![port.name.clone(), counter.clone()], *count as f64))
    });
    add(
        "natgate_port_device_total",
        "counter",
        &["port", "counter"],
        "A device's own counters by its own names (of ports of the back ends dpdk and capsule), once they are not zero.",
        of_devices.collect(),
    );

    let gateways = &status.gateways;
    add(
        "natgate_gateway_snat_sessions",
        "gauge",
        &["gateway"],
        "SNAT sessions of a gateway.",
        each(gateways, |gateway| gateway.name.clone(), |gateway| gateway.snat_sessions as f64),
    );
    let limited: Vec<_> = gateways
        .iter()
        .filter_map(|gateway| Some((vec![gateway.name.clone()], gateway.limit? as f64)))
        .collect();
    add(
        "natgate_gateway_snat_sessions_limit",
        "gauge",
        &["gateway"],
        "SNAT sessions that its specification allows; absent where it is unlimited.",
        limited,
    );
    let ports = status
        .external_ports
        .iter()
        .map(|ports| (vec![ports.eip.clone(), ports.protocol.clone()], ports.taken as f64));
    add(
        "natgate_eip_ports_taken",
        "gauge",
        &["eip", "protocol"],
        "External ports that SNAT has taken; hosts get those from 1024 on, 64512 less those of DNAT entries.",
        ports.collect(),
    );
    let ports = |value: &dyn Fn(&ExternalPorts) -> Option<f64>| -> Samples {
        let known = status.external_ports.iter().filter_map(|ports| Some((ports, value(ports)?)));
        known.map(|(ports, value)| (vec![ports.eip.clone(), ports.protocol.clone()], value)).collect()
    };
    add(
        "natgate_eip_ports_limit",
        "gauge",
        &["eip", "protocol"],
        "External ports that hosts can get: 64512 less those of DNAT entries.",
        ports(&|ports| Some(ports.limit as f64)),
    );
    add(
        "natgate_eip_ports_full_seconds",
        "gauge",
        &["eip", "protocol"],
        "Time until all external ports are taken if it goes on as in the last minute; absent where they do not grow more.",
        ports(&|ports| ports.seconds_to_full),
    );
    let blocks = &status.port_blocks;
    let of_blocks = |value: &dyn Fn(&PortBlocks) -> u64| {
        each(blocks, |blocks| blocks.eip.clone(), |blocks| value(blocks) as f64)
    };
    add(
        "natgate_eip_port_blocks_taken",
        "gauge",
        &["eip"],
        "Blocks of external ports that private hosts have, where an SNAT entry gives them out; absent where none has one.",
        of_blocks(&|blocks| blocks.taken),
    );
    add(
        "natgate_eip_port_blocks_limit",
        "gauge",
        &["eip"],
        "Blocks of external ports that there are on an EIP; absent where no host has one.",
        of_blocks(&|blocks| blocks.limit),
    );
    for Family { metric: Metric { name, kind, labels, help }, samples } in usage::families(usage) {
        add(name, kind, labels, help, samples);
    }
    let log = &status.session_log;
    add(
        "natgate_session_log_lines_total",
        "counter",
        &["place"],
        "Lines of the session log that a place has taken.",
        each(log, |log| log.place.clone(), |log| log.written as f64),
    );
    add(
        "natgate_session_log_lost_lines_total",
        "counter",
        &["place"],
        "Lines of the session log that are missing at a place.",
        each(log, |log| log.place.clone(), |log| log.lost as f64),
    );
    add(
        "natgate_neighbours",
        "gauge",
        &[],
        "Neighbours (ARP) that are known.",
        one(status.neighbours.used as f64),
    );
    add(
        "natgate_neighbours_limit",
        "gauge",
        &[],
        "Neighbours that there is room for.",
        one(status.neighbours.capacity as f64),
    );
    add(
        "natgate_memory_bytes",
        "gauge",
        &["holds", "pages"],
        "Memory of packet buffers and tables.",
        status
            .memory
            .iter()
            .map(|memory| (vec![memory.name.clone(), memory.pages.clone()], memory.bytes as f64))
            .collect(),
    );
    add(
        "natgate_resources",
        "gauge",
        &["kind"],
        "Resources by kind.",
        status.resources.iter().map(|(kind, count)| (vec![kind.clone()], *count as f64)).collect(),
    );
    families
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::GatewayStatus;

    #[test]
    fn names_tell_kinds_and_units() {
        let table = table();
        let mut names: Vec<_> = table.iter().map(|metric| metric.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), table.len(), "a name stands for one metric");
        for Metric { name, kind, help, .. } in table {
            assert!(name.starts_with("natgate_") && help.ends_with('.'), "{name}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
        }
    }

    #[test]
    fn values_of_labels_are_escaped() {
        let gateway = GatewayStatus { name: "a\"b\\c\n".into(), snat_sessions: 3, limit: Some(10) };
        let text = render(&Status { gateways: vec![gateway], ..Status::default() }, &Stats::default(), &[]);
        assert!(text.contains("natgate_gateway_snat_sessions{gateway=\"a\\\"b\\\\c\\n\"} 3\n"), "{text}");
        assert!(
            text.contains("natgate_gateway_snat_sessions_limit{gateway=\"a\\\"b\\\\c\\n\"} 10\n"),
            "{text}"
        );
    }
}
