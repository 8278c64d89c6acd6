//! Tests of the configuration.

mod compile;
mod fuzz;
mod reload;
mod rules;

use super::*;

/// A valid file with something of everything.
const EXAMPLE: &str = include_str!("example.toml");

/// A valid file of a gateway on DPDK.
const DPDK: &str = "[dpdk]\nhugepages = 'off'\nmemory = 256\narguments = ['--iova-mode=va']\n[[port]]\nname = 'wan'\n\
                    backend = 'dpdk'\ndevice = 'net_af_packet0,iface=wan/0'\n";

const FACTS: [PortFacts; 2] =
    [PortFacts { mac: [2, 0, 0, 0, 0, 1], mtu: 1500 }, PortFacts { mac: [2, 0, 0, 0, 0, 2], mtu: 9000 }];

fn model(text: &str) -> Model {
    parse(text, "natgate.toml").unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

/// The example with parts replaced; each must be there.
fn edited(edits: &[(&str, &str)]) -> String {
    let mut text = EXAMPLE.to_owned();
    for (from, to) in edits {
        assert!(text.contains(from), "the example has no {from:?}");
        text = text.replacen(from, to, 1);
    }
    text
}

/// A file that cannot be read is an error like others.
#[test]
fn a_file_that_is_not_there() {
    let errors = load(Path::new("/nonexistent/natgate.toml")).unwrap_err();
    assert_eq!(errors.iter().map(|e| e.code).collect::<Vec<_>>(), [Code::Unreadable]);
    assert!(errors.to_string().starts_with("/nonexistent/natgate.toml: "), "{errors}");
}

/// The parser asks for every key of the reference, and for no other (asking for another fails in `Table::get`).
#[test]
fn the_reference_has_exactly_the_keys_that_are_read() {
    let plan = "[[plan]]\nname = 'shared'\nbandwidth = '1Gbps'\n";
    let text = format!("{EXAMPLE}\n[quotas]\n{plan}");
    let document = Document::new(&text, "natgate.toml");
    assert!(read(&document).is_some());
    let with_store = Document::new(
        "[store]\n[api]\n[metering]\n[session_log]\nindex = 'log'\n[[port]]\nname = 'p0'\ndevice = 'eth0'\n",
        "natgate.toml",
    );
    assert!(read(&with_store).is_some());
    let with_dpdk = Document::new(DPDK, "natgate.toml");
    assert_eq!(read(&with_dpdk).is_some(), cfg!(feature = "dpdk"));
    let asked: std::collections::BTreeSet<_> = (document.asked.borrow().iter())
        .chain(with_store.asked.borrow().iter())
        .chain(with_dpdk.asked.borrow().iter())
        .copied()
        .collect();
    let asked: Vec<_> = asked.into_iter().collect();
    let mut known: Vec<_> =
        reference::SECTIONS.iter().flat_map(|s| s.keys.iter().map(|key| (s.path, key.name))).collect();
    known.sort_unstable();
    assert_eq!(asked, known);
}

/// Defaults that the reference states are the ones in force.
#[test]
fn stated_defaults_are_the_real_ones() {
    let model = model("[[port]]\nname = 'p0'\ndevice = 'eth0'\n");
    let system = model.system();
    let default = |section: &reference::Section, key: &str| {
        let key = section.keys.iter().find(|k| k.name == key).expect("a key of the reference");
        key.default.trim_matches('`').to_owned()
    };
    let stated = |key| default(&reference::SYSTEM, key);
    assert_eq!(stated("sessions"), system.sessions.to_string());
    assert_eq!(stated("neighbours"), system.neighbours.to_string());
    assert_eq!(stated("snat_eips"), system.snat_eips.to_string());
    assert_eq!(stated("buffer_size"), system.buffer_size.to_string());
    assert_eq!(stated("control"), system.control.display().to_string());
    assert_eq!(stated("log"), system.log.to_string().to_lowercase());
    let timeouts = TimeoutOverrides::all(model.timeouts());
    for (key, value) in [
        ("tcp_established", timeouts.tcp_established),
        ("tcp_transitory", timeouts.tcp_transitory),
        ("udp", timeouts.udp),
        ("icmp", timeouts.icmp),
        ("other", timeouts.other),
    ] {
        assert_eq!(units::duration(&default(&reference::TIMEOUT, key)), value, "{key}");
    }
    let quotas = model.quotas();
    for (key, value) in [
        ("dnat_entries_per_gateway", quotas.dnat_entries_per_gateway),
        ("snat_entries_per_gateway", quotas.snat_entries_per_gateway),
        ("eips_per_gateway", quotas.eips_per_gateway),
        ("gateways_per_vpc", quotas.gateways_per_vpc),
    ] {
        assert_eq!(default(&reference::QUOTA, key), value.to_string(), "{key}");
    }
}

#[test]
fn values_mean_what_they_say() {
    use crate::policy::{Filtering, Limits, Mapping, PortRange, Prefix};
    let model = model(&edited(&[
        ("workers = 2", "cores = [1, 3]\nidle = \"poll\""),
        ("sessions = 1048576", "sessions = \"2M\""),
        ("profile = \"rfc\"\nudp = \"5m\"", "profile = \"alibaba\"\nudp = \"90s\""),
        ("specification = \"Unlimited\"", "specification = \"PayByLcu\"\nsessions = \"5M\""),
        ("host_sessions = 100000", "host_sessions = \"unlimited\""),
        ("public_port = 80", "public_port = \"8000/8009\""),
        ("private_port = 8080", "private_port = \"100/109\""),
        (
            "mapping = \"endpoint-independent\"\nfiltering = \"endpoint-independent\"",
            "mapping = \"endpoint-dependent\"",
        ),
    ]));
    let system = model.system();
    assert_eq!(system.workers, Workers::Cores(vec![1, 3]));
    assert_eq!((system.sessions, system.idle), (2_000_000, Some(Idle::Poll)));
    let seconds = |ticks: u32| ticks / 10;
    let timeouts = model.timeouts();
    assert_eq!((seconds(timeouts.tcp_established), seconds(timeouts.udp)), (900, 90));
    let gateway = &model.gateways()[0];
    assert_eq!(gateway.specification.limits(), Limits { sessions: 5_000_000, new_per_second: 100_000 });
    assert_eq!(gateway.host_sessions, None);
    assert_eq!(model.dnat()[0].effect().to_string(), "203.0.113.16:8000/8009 TCP -> 10.0.1.10:100/109");
    let snat = &model.snat()[0];
    assert_eq!(snat.mapping, Mapping::EndpointDependent);
    assert_eq!(snat.filtering, Filtering::AddressAndPortDependent);
    assert_eq!(snat.ports, PortRange { first: 1024, last: 65535 });
    assert_eq!(snat.prefix, Prefix::of(0x0a00_0100, 24));
    // An entry's own value over the file's; the others stay the file's.
    let own = snat.timeouts.over(timeouts);
    assert_eq!((seconds(own.udp), seconds(own.tcp_established)), (60, 900));
}

#[test]
fn specifications_are_the_documented_ones() {
    for (specification, sessions, rate) in [
        (Specification::Small, 10_000, 1_000),
        (Specification::Middle, 50_000, 5_000),
        (Specification::Large, 200_000, 10_000),
        (Specification::XLarge1, 1_000_000, 50_000),
        (Specification::PAY_BY_LCU, 2_000_000, 100_000),
    ] {
        let limits = specification.limits();
        assert_eq!((limits.sessions, limits.new_per_second), (sessions, rate), "{specification}");
    }
}
