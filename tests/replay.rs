//! A capture replayed through a DNAT entry: what is written is what a server and its client would have seen.

mod common;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use etherparse::{NetHeaders, PacketBuilder, PacketHeaders, TransportHeader};
use pcap_file::pcap::{PcapPacket, PcapReader, PcapWriter};

type Mac = [u8; 6];
type Ip = [u8; 4];

const WAN: Mac = [2, 0, 0, 0, 1, 1];
const LAN: Mac = [2, 0, 0, 0, 1, 2];
const ROUTER: (Mac, Ip) = ([2, 0, 0, 0, 2, 1], [203, 0, 113, 1]);
const WEB: (Mac, Ip) = ([2, 0, 0, 0, 2, 2], [10, 0, 1, 10]);
const CLIENT: Ip = [198, 51, 100, 10];
const EIP: Ip = [203, 0, 113, 16];

/// An empty directory for one test.
fn directory(test: &str) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("command-{test}"));
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).expect("a directory");
    directory
}

/// Runs natgate, for at most half a minute.
fn natgate(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command.arg("30").arg(env!("CARGO_BIN_EXE_natgate")).args(arguments).current_dir(directory);
    command.output().expect("natgate")
}

fn configuration() -> String {
    let port = |name: &str, mac: Mac| {
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        format!(
            "[[port]]\nname = \"{name}\"\nreplay = \"{name}-in.pcap\"\ncapture = \"{name}-out.pcap\"\n\
             mac = \"{mac}\"\n"
        )
    };
    format!(
        r#"
[system]
workers = 1
sessions = 1024
control = "natgate.sock"
{}
{}
[[outside]]
port = "wan"
address = "203.0.113.2/24"
gateway = "203.0.113.1"
public = ["203.0.113.16/28"]
[[vpc]]
name = "prod"
cidr = "10.0.0.0/16"
[[vpc.vswitch]]
name = "servers"
cidr = "10.0.1.0/24"
port = "lan"
address = "10.0.1.1"
[[gateway]]
name = "gw1"
vpc = "prod"
vswitch = "servers"
[[eip]]
address = "203.0.113.16"
gateway = "gw1"
[[dnat]]
gateway = "gw1"
eip = "203.0.113.16"
public_port = 80
private_ip = "10.0.1.10"
private_port = 8080
protocol = "TCP"
"#,
        port("wan", WAN),
        port("lan", LAN)
    )
}

/// An ARP request of a host for an address of the gateway, which learns of the host by it.
fn arp(from: (Mac, Ip), wanted: Ip) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(from.0);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(from.0);
    frame.extend(from.1);
    frame.extend([0; 6]);
    frame.extend(wanted);
    frame.resize(60, 0);
    frame
}

fn tcp(link: (Mac, Mac), from: (Ip, u16), to: (Ip, u16), is_answer: bool) -> Vec<u8> {
    let builder =
        PacketBuilder::ethernet2(link.0, link.1).ipv4(from.0, to.0, 64).tcp(from.1, to.1, 7, 1000).syn();
    let builder = if is_answer { builder.ack(8) } else { builder };
    let mut frame = Vec::new();
    builder.write(&mut frame, &[]).expect("a frame");
    frame
}

fn write(path: &Path, frames: &[(u64, Vec<u8>)]) {
    let mut writer = PcapWriter::new(File::create(path).expect("a capture")).expect("a capture");
    for (millis, frame) in frames {
        let packet = PcapPacket::new(Duration::from_millis(*millis), frame.len() as u32, frame);
        writer.write_packet(&packet).expect("a frame");
    }
}

/// The TCP segments of a capture, from and to, whose checksums are right.
fn segments(path: &Path) -> Vec<((Ip, u16), (Ip, u16))> {
    let mut reader = PcapReader::new(File::open(path).expect("a capture")).expect("a capture");
    let mut found = Vec::new();
    while let Some(packet) = reader.next_packet() {
        let frame = packet.expect("a frame").data;
        let headers = PacketHeaders::from_ethernet_slice(&frame).expect("a whole frame");
        let (Some(NetHeaders::Ipv4(ip, _)), Some(TransportHeader::Tcp(tcp))) =
            (headers.net, headers.transport)
        else {
            continue;
        };
        assert_eq!(ip.header_checksum, ip.calc_header_checksum());
        assert_eq!(tcp.checksum, tcp.calc_checksum_ipv4(&ip, &[]).expect("a short segment"));
        assert_eq!(ip.time_to_live, 63);
        found.push(((ip.source, tcp.source_port), (ip.destination, tcp.destination_port)));
    }
    found
}

#[test]
fn a_capture_is_replayed() {
    let directory = directory("replay");
    fs::write(directory.join("natgate.toml"), configuration()).expect("a configuration");
    let question = tcp((ROUTER.0, WAN), (CLIENT, 5000), (EIP, 80), false);
    let answer = tcp((WEB.0, LAN), (WEB.1, 8080), (CLIENT, 5000), true);
    write(&directory.join("wan-in.pcap"), &[(0, arp(ROUTER, [203, 0, 113, 2])), (20, question)]);
    write(&directory.join("lan-in.pcap"), &[(10, arp(WEB, [10, 0, 1, 1])), (30, answer)]);
    let output = natgate(&directory, &["run", "--config", "natgate.toml"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(segments(&directory.join("lan-out.pcap")), [((CLIENT, 5000), (WEB.1, 8080))]);
    assert_eq!(segments(&directory.join("wan-out.pcap")), [((EIP, 80), (CLIENT, 5000))]);
}
