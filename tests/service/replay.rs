//! A capture replayed through a DNAT entry: what is written is what a server and its client would have seen.

use std::fs;

use crate::common::devices::{
    CLIENT, EIP, LAN, Mac, REST, ROUTER, WAN, WEB, arp, directory, natgate, segments, tcp, write,
};

fn configuration() -> String {
    let port = |name: &str, mac: Mac| {
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        format!(
            "[[port]]\nname = \"{name}\"\nreplay = \"{name}-in.pcap\"\ncapture = \"{name}-out.pcap\"\n\
             mac = \"{mac}\"\n"
        )
    };
    let system = "[system]\nworkers = 1\nsessions = 1024\ncontrol = \"natgate.sock\"\n";
    [system, &port("wan", WAN), &port("lan", LAN), REST].concat()
}

#[test]
fn a_capture_is_replayed() {
    let directory = directory("replay");
    fs::write(directory.join("natgate.toml"), configuration()).expect("a configuration");
    let question = tcp((ROUTER.0, WAN), (CLIENT, 5000), (EIP, 80), "S", &[]);
    let answer = tcp((WEB.0, LAN), (WEB.1, 8080), (CLIENT, 5000), "SA", &[]);
    write(&directory.join("wan-in.pcap"), &[(0, arp(ROUTER, [203, 0, 113, 2])), (20, question)]);
    write(&directory.join("lan-in.pcap"), &[(10, arp(WEB, [10, 0, 1, 1])), (30, answer)]);
    let output = natgate(&directory, &["run", "--config", "natgate.toml"]).output().expect("natgate");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(segments(&directory.join("lan-out.pcap")), [((CLIENT, 5000), (WEB.1, 8080), vec![])]);
    assert_eq!(segments(&directory.join("wan-out.pcap")), [((EIP, 80), (CLIENT, 5000), vec![])]);
}
