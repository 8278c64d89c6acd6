//! The `natgate` binary as people and scripts meet it: exit codes, pipes, and a gateway that replays captures without any
//! privilege.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, PacketBuilder, SlicedPacket};
use etherparse::{NetSlice, TransportSlice};
use pcap_file::pcap::{PcapPacket, PcapReader, PcapWriter};

use crate::common::daemon::NETWORK;

const WAN: [u8; 6] = [2, 0, 0, 0, 0, 1];
const LAN: [u8; 6] = [2, 0, 0, 0, 0, 2];
const HOST: [u8; 6] = [2, 0, 0, 0, 0, 0x10];
const PEER: [u8; 6] = [2, 0, 0, 0, 0, 0x20];

/// A directory of its own for each test, gone at its end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("natgate-command-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn natgate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_natgate"));
    command.args(arguments).env_remove("NATGATE_SOCKET").env_remove("NOTIFY_SOCKET").stdin(Stdio::null());
    command
}

/// What a command printed and how it ended; it has twenty seconds.
fn finish(mut command: Command) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    for _ in 0..2000 {
        if child.try_wait().unwrap().is_some() {
            return child.wait_with_output().unwrap();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    panic!("it does not end: {:?}", child.wait_with_output().unwrap());
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn configuration(directory: &Directory, entries: &str) -> PathBuf {
    let at = |name: &str| directory.file(name).display().to_string();
    let text = format!(
        r#"
[system]
workers = 2
control = "{control}"
sessions = 2048
[[port]]
name = "wan"
backend = "pcap"
replay = "{wan_in}"
capture = "{wan_out}"
mac = "02:00:00:00:00:01"
[[port]]
name = "lan"
backend = "pcap"
replay = "{lan_in}"
capture = "{lan_out}"
mac = "02:00:00:00:00:02"
[[outside]]
port = "wan"
address = "198.51.100.1/24"
public = ["203.0.113.16/28"]
{NETWORK}[[eip]]
address = "203.0.113.17"
gateway = "gw1"
{entries}
"#,
        control = at("run/natgate.sock"),
        wan_in = at("wan-in.pcap"),
        wan_out = at("wan-out.pcap"),
        lan_in = at("lan-in.pcap"),
        lan_out = at("lan-out.pcap"),
    );
    let path = directory.file("natgate.toml");
    fs::write(&path, text).unwrap();
    path
}

const SNAT: &str =
    "[[snat]]\nname = \"all\"\ngateway = \"gw1\"\nsource = \"vpc\"\neips = [\"203.0.113.17\"]\n";

fn write_capture(path: &Path, frames: &[(u64, Vec<u8>)]) {
    let mut writer = PcapWriter::new(File::create(path).unwrap()).unwrap();
    for (millis, frame) in frames {
        let packet = PcapPacket::new(Duration::from_millis(*millis), frame.len() as u32, frame);
        writer.write_packet(&packet).unwrap();
    }
}

fn read_capture(path: &Path) -> Vec<Vec<u8>> {
    let mut reader = PcapReader::new(File::open(path).unwrap()).unwrap();
    let mut frames = Vec::new();
    while let Some(packet) = reader.next_packet() {
        frames.push(packet.unwrap().data.into_owned());
    }
    frames
}

fn udp(macs: ([u8; 6], [u8; 6]), from: ([u8; 4], u16), to: ([u8; 4], u16), payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(macs.0, macs.1).ipv4(from.0, to.0, 64).udp(from.1, to.1);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

fn arp_reply(from: ([u8; 6], [u8; 4]), to: ([u8; 6], [u8; 4])) -> Vec<u8> {
    let arp = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        ArpOperation::REPLY,
        &from.0,
        &from.1,
        &to.0,
        &to.1,
    );
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(from.0, to.0).arp(arp.unwrap()).write(&mut frame).unwrap();
    frame
}

/// Source, destination and payload of a UDP frame.
fn udp_of(frame: &[u8]) -> Option<(String, String, Vec<u8>)> {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(udp))) = (&packet.net, &packet.transport) else {
        return None;
    };
    let (ip, payload) = (ip.header(), udp.payload().to_vec());
    let source = format!("{}:{}", ip.source_addr(), udp.source_port());
    Some((source, format!("{}:{}", ip.destination_addr(), udp.destination_port()), payload))
}

#[test]
fn a_gateway_replays_captures_without_privilege_and_ends_with_them() {
    let directory = Directory::new("replay");
    let (host, peer) = (([10, 0, 1, 10], 4000), ([198, 51, 100, 7], 53));
    write_capture(&directory.file("lan-in.pcap"), &[(1000, udp((HOST, LAN), host, peer, b"question"))]);
    let learned = arp_reply((PEER, peer.0), (WAN, [198, 51, 100, 1]));
    // A packet that nobody asked for, to an EIP.
    let stray = udp((PEER, WAN), ([198, 51, 100, 7], 9), ([203, 0, 113, 17], 9), b"stray");
    write_capture(&directory.file("wan-in.pcap"), &[(2000, learned), (3000, stray)]);
    let config = configuration(&directory, SNAT);
    let config = config.to_str().unwrap();
    let mut command = natgate(&["run", "--config", config]);
    if rustix::process::geteuid().is_root() {
        // As nobody; the directory is nobody's.
        use std::os::unix::process::CommandExt;
        std::os::unix::fs::chown(&directory.0, Some(65534), Some(65534)).unwrap();
        command.uid(65534).gid(65534);
    }
    let output = finish(command);
    let log = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{log}");
    assert!(
        log.contains("all captures are replayed") && log.contains("every packet is accounted for"),
        "{log}"
    );
    assert!(!directory.file("run/natgate.sock").exists());

    let sent = read_capture(&directory.file("wan-out.pcap"));
    let packets: Vec<_> = sent.iter().filter_map(|frame| udp_of(frame)).collect();
    let [(source, destination, payload)] = packets.as_slice() else { panic!("{packets:?}\n{log}") };
    assert!(source.starts_with("203.0.113.17:"), "{source}");
    assert_eq!((destination.as_str(), payload.as_slice()), ("198.51.100.7:53", &b"question"[..]));
}

#[test]
fn a_good_file_is_checked() {
    let directory = Directory::new("good");
    let config = configuration(&directory, SNAT);
    let config = config.to_str().unwrap();
    let output = finish(natgate(&["check", "--config", config]));
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), format!("{config}: no errors\n")));
    let output = finish(natgate(&["check", "--config", config, "--json"]));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json, serde_json::json!({ "valid": true, "errors": [] }));
}

#[test]
fn a_wrong_file_is_refused_with_all_its_errors() {
    let directory = Directory::new("wrong");
    let config = configuration(
        &directory,
        &SNAT.replace("203.0.113.17", "203.0.113.99").replace("vpc\"", "10.9.0.0/16\""),
    );
    let config = config.to_str().unwrap();
    for command in ["check", "run"] {
        let output = finish(natgate(&[command, "--config", config]));
        let errors = text(&output.stderr);
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(2), ""), "{errors}");
        assert!(errors.contains("[UnknownEip]") && errors.contains("[SnatSourceOutsideVpc]"), "{errors}");
    }
    let output = finish(natgate(&["check", "--config", config, "--json"]));
    assert_eq!(output.status.code(), Some(2));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&json["valid"], json["errors"].as_array().unwrap().len()), (&false.into(), 2));
    let output = finish(natgate(&["check", "--config", "/nonexistent/natgate.toml"]));
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_port_that_cannot_be_opened_is_a_failure_that_names_it() {
    let directory = Directory::new("port");
    // The captures to replay are not there.
    let config = configuration(&directory, SNAT);
    let output = finish(natgate(&["run", "--config", config.to_str().unwrap()]));
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("port \"wan\"") && errors.contains("wan-in.pcap"), "{errors}");
    assert!(!directory.file("run/natgate.sock").exists());
}

#[test]
fn without_a_gateway_every_question_ends_with_3() {
    for command in [
        &["status"][..],
        &["stats"],
        &["reload"],
        &["sessions", "--count"],
        &["trace"],
        &["explain", "tcp 10.0.1.10:1 > 192.0.2.1:2"],
    ] {
        let mut command = natgate(command);
        command.env("NATGATE_SOCKET", "/nonexistent/natgate.sock");
        let output = finish(command);
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert!(text(&output.stderr).contains("/nonexistent/natgate.sock"));
    }
}

#[test]
fn wrong_usage_ends_with_2() {
    for arguments in [&["fly"][..], &[], &["sessions", "--inside", "x"], &["explain", "tcp a > b"]] {
        assert_eq!(finish(natgate(arguments)).status.code(), Some(2), "{arguments:?}");
    }
    assert_eq!(finish(natgate(&["--version"])).status.code(), Some(0));
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let mut child =
        natgate(&["completions", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut some = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut some).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
}
