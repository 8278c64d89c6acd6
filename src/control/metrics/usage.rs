//! What gateways, EIPs, entries and the busiest private hosts have carried.

use super::{Family, Metric, Samples};
use crate::control::protocol::{Usage, UsageBy};

type UsageFamilies = (UsageBy, [&'static str; 5], [&'static [&'static str]; 3], [&'static str; 5]);

/// Metrics of usage: by what, their names, their labels without and with a direction or a reason, and their texts.
const USAGES: [UsageFamilies; 3] = [
    (
        UsageBy::Gateway,
        [
            "natgate_gateway_sessions",
            "natgate_gateway_sessions_created_total",
            "natgate_gateway_bytes_total",
            "natgate_gateway_packets_total",
            "natgate_gateway_refused_total",
        ],
        [&["gateway"], &["gateway", "direction"], &["gateway", "reason"]],
        [
            "Sessions of a gateway, DNAT and SNAT.",
            "Sessions of a gateway that began, DNAT and SNAT.",
            "Bytes of IP packets in a gateway's sessions, to the Internet side (out) and to the VPC side (in).",
            "IP packets in a gateway's sessions, to the Internet side (out) and to the VPC side (in).",
            "Packets of a gateway that were refused an SNAT session, by the reason of their drop.",
        ],
    ),
    (
        UsageBy::Eip,
        [
            "natgate_eip_sessions",
            "natgate_eip_sessions_created_total",
            "natgate_eip_bytes_total",
            "natgate_eip_packets_total",
            "natgate_eip_refused_total",
        ],
        [&["eip"], &["eip", "direction"], &["eip", "reason"]],
        [
            "Sessions of an EIP, DNAT and SNAT; absent where it had none.",
            "Sessions of an EIP that began.",
            "Bytes of IP packets in an EIP's sessions, to the Internet side (out) and to the VPC side (in).",
            "IP packets in an EIP's sessions, to the Internet side (out) and to the VPC side (in).",
            "Packets that were refused an SNAT session because no port of this EIP was free.",
        ],
    ),
    (
        UsageBy::Entry,
        [
            "natgate_entry_sessions",
            "natgate_entry_sessions_created_total",
            "natgate_entry_bytes_total",
            "natgate_entry_packets_total",
            "natgate_entry_refused_total",
        ],
        [
            &["table", "gateway", "entry"],
            &["table", "gateway", "entry", "direction"],
            &["table", "gateway", "entry", "reason"],
        ],
        [
            "Sessions of a DNAT or SNAT entry; absent where it had none.",
            "Sessions of an entry that began.",
            "Bytes of IP packets in an entry's sessions, to the Internet side (out) and to the VPC side (in).",
            "IP packets in an entry's sessions, to the Internet side (out) and to the VPC side (in).",
            "Packets that were refused an SNAT session of an entry, by the reason of their drop.",
        ],
    ),
];

/// Samples for each gateway, EIP, entry or private host.
fn of(usage: &[Usage], by: UsageBy, values: impl Fn(&Usage) -> Vec<(Option<&'static str>, u64)>) -> Samples {
    let rows = usage.iter().filter(|row| row.by == by);
    let samples = rows.flat_map(|row| {
        let mut labels: Vec<_> = row.table.iter().chain(&row.gateway).chain(&row.vpc).cloned().collect();
        labels.push(row.name.clone());
        values(row).into_iter().map(move |(label, value)| {
            let labels = labels.iter().cloned().chain(label.map(str::to_owned));
            (labels.collect(), value as f64)
        })
    });
    samples.collect()
}

/// The metrics of usage.
pub(super) fn families(usage: &[Usage]) -> Vec<Family> {
    let mut families = Vec::new();
    let mut add = |name, kind, labels, help, samples| {
        families.push(Family { metric: Metric { name, kind, labels, help }, samples });
    };
    let alone = |value: u64| vec![(None, value)];
    let both = |out: u64, into: u64| vec![(Some("out"), out), (Some("in"), into)];
    let bytes = |by| of(usage, by, |row| both(row.bytes_out, row.bytes_in));
    let packets = |by| {
        let count = |packets: Option<u64>| packets.unwrap_or(0);
        of(usage, by, |row| both(count(row.packets_out), count(row.packets_in)))
    };
    for (by, names, labels, helps) in USAGES {
        add(names[0], "gauge", labels[0], helps[0], of(usage, by, |row| alone(row.sessions)));
        let created = of(usage, by, |row| alone(row.sessions_created.unwrap_or(0)));
        add(names[1], "counter", labels[0], helps[1], created);
        add(names[2], "counter", labels[1], helps[2], bytes(by));
        add(names[3], "counter", labels[1], helps[3], packets(by));
        let refused = of(usage, by, |row| {
            let refused = row.refused.unwrap_or_default().by_reason();
            let told = |(reason, _): &(&str, u64)| by != UsageBy::Eip || *reason == "ports-exhausted";
            refused.into_iter().filter(told).map(|(reason, count)| (Some(reason), count)).collect()
        });
        add(names[4], "counter", labels[2], helps[4], refused);
    }
    let host = UsageBy::Host;
    add(
        "natgate_host_snat_sessions",
        "gauge",
        &["vpc", "host"],
        "SNAT sessions of a private host; the ten hosts that carry most of late have samples, here and below.",
        of(usage, host, |row| alone(row.sessions)),
    );
    add(
        "natgate_host_bytes_total",
        "counter",
        &["vpc", "host", "direction"],
        "Bytes of IP packets in a private host's sessions, out and in, since it is among those that carry most.",
        bytes(host),
    );
    add(
        "natgate_host_packets_total",
        "counter",
        &["vpc", "host", "direction"],
        "IP packets in a private host's sessions, out and in, since it is among those that carry most.",
        packets(host),
    );
    families
}
