//! A million live sessions, made and listed on a gateway at work.

use std::fmt::Write as _;

use serde_json::Value;

use crate::common::need_root;
use crate::gateway::{Gateway, socket};
use crate::lab::Lab;

/// Live sessions.
const SESSIONS: u64 = 1_000_000;
/// EIPs that give them a port each.
const EIPS: u32 = 24;

/// SNAT for the hosts that the packet generator pretends to be.
fn configuration(lab: &Lab) -> String {
    let mut text = format!(
        r#"
[system]
workers = 1
sessions = 1_200_000
control = "{}"
[quotas]
eips_per_gateway = 32
[[port]]
name = "wan"
device = "gen-wan"
backend = "af_xdp"
[[port]]
name = "lan"
device = "gen-lan"
backend = "af_xdp"
[[outside]]
port = "wan"
address = "203.0.113.2/24"
gateway = "203.0.113.1"
public = ["203.0.113.32/27"]
[[vpc]]
name = "vpc"
cidr = "10.0.0.0/16"
[[vpc.vswitch]]
name = "hosts"
cidr = "10.0.0.0/16"
port = "lan"
address = "10.0.255.254"
[[gateway]]
name = "gateway"
vpc = "vpc"
vswitch = "hosts"
"#,
        socket(lab).display()
    );
    let eips: Vec<_> = (32..32 + EIPS).map(|last| format!("203.0.113.{last}")).collect();
    for eip in &eips {
        write!(text, "[[eip]]\naddress = \"{eip}\"\ngateway = \"gateway\"\n").unwrap();
    }
    write!(text, "[[snat]]\ngateway = \"gateway\"\nsource = \"vswitch:hosts\"\neips = {eips:?}\n").unwrap();
    text
}

/// The packet generator, there and back through the gateway.
fn generator(flows: u64, rate: &str, seconds: u32) -> String {
    format!(
        "exec {} pktgen --send lan --receive wan --gateway 10.0.255.254 --source 10.0.1.0/24 \
         --destination 198.51.100.0/24 --answer 203.0.113.1 --both-ways --order sequential \
         --flows {flows} --rate {rate} --seconds {seconds} --json",
        env!("CARGO_BIN_EXE_natgate")
    )
}

fn parse(text: &str) -> Value {
    let json = text.find('{').map_or("", |start| &text[start..]);
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn listing_a_million_sessions_stalls_no_packet() {
    need_root!();
    let lab = Lab::alone();
    lab.shell("LAB_QUEUES=1; lab_namespace $P-gen; for side in lan wan; do lab_cable $P-gen $side $P-gw gen-$side; done");
    let gateway = Gateway::start(&lab, &configuration(&lab));
    let used = || parse(&gateway.ask("status --json"))["sessions"]["used"].as_u64().unwrap_or(0);
    // What a full queue loses comes again: the flows take turns. A busy machine sends fewer than are asked for, and each run begins
    // with the first flow: so the next one takes longer.
    for seconds in [9, 9, 18, 36, 72, 144] {
        if used() >= SESSIONS {
            break;
        }
        let load = lab.spawn("gen", &generator(SESSIONS, "120k", seconds));
        load.finish(seconds + 30).unwrap_or_else(|error| panic!("{error}"));
    }
    assert!(used() >= SESSIONS, "{} sessions", used());

    let probe = lab.spawn("gen", &generator(64, "2k", 8));
    let list = format!(
        "set -o pipefail; NATGATE_SOCKET={} {} sessions --json | wc -l",
        socket(&lab).display(),
        env!("CARGO_BIN_EXE_natgate")
    );
    let listed = lab.spawn("gw", &list).finish(60).unwrap_or_else(|error| panic!("{error}"));
    let listed: u64 = listed.trim().parse().unwrap_or_else(|_| panic!("{listed}"));
    assert!(listed >= SESSIONS, "{listed} sessions are listed");
    let report = parse(&probe.finish(30).unwrap_or_else(|error| panic!("{error}")));
    assert_eq!(report["loss"], 0.0, "{report}");
    // Without a listing it is a few milliseconds, on two cores that everything here shares; to look at all sessions at once takes a second.
    assert!(report["round_trip_ns"]["max"].as_u64() < Some(250_000_000), "{report}");
    gateway.finish();
}
