//! A gateway on DPDK's virtual devices, by either way onto DPDK, with captures as its neighbours.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use etherparse::{NetHeaders, PacketBuilder, PacketHeaders, TransportHeader};
use pcap_file::pcap::{PcapPacket, PcapReader, PcapWriter};

pub type Mac = [u8; 6];
pub type Ip = [u8; 4];

/// The addresses that `net_pcap` gives its devices, in the order in which they are made.
pub const WAN: Mac = [2, 0x70, 0x63, 0x61, 0x70, 0];
pub const LAN: Mac = [2, 0x70, 0x63, 0x61, 0x70, 1];
pub const ROUTER: (Mac, Ip) = ([2, 0, 0, 0, 2, 1], [203, 0, 113, 1]);
pub const WEB: (Mac, Ip) = ([2, 0, 0, 0, 2, 2], [10, 0, 1, 10]);
pub const CLIENT: Ip = [198, 51, 100, 10];
pub const EIP: Ip = [203, 0, 113, 16];

/// An empty directory for one test.
pub fn directory(test: &str) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("devices-{test}"));
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).expect("a directory");
    directory
}

/// natgate, for at most half a minute.
pub fn natgate(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.arg("30").arg(env!("CARGO_BIN_EXE_natgate")).args(arguments).current_dir(directory);
    command
}

pub const REST: &str = r#"
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
"#;

/// A gateway on two devices of a back end; `system` and `dpdk` stand in its tables of those names.
pub fn configuration(back_end: &str, wan: &str, lan: &str, system: &str, dpdk: &str) -> String {
    let port = |name, device| {
        format!("[[port]]\nname = \"{name}\"\nbackend = \"{back_end}\"\ndevice = \"{device}\"\n")
    };
    format!(
        "[system]\nsessions = 1024\ncontrol = \"natgate.sock\"\nidle = \"sleep\"\n{system}\n[dpdk]\n{dpdk}\n{}{}{REST}",
        port("wan", wan),
        port("lan", lan)
    )
}

/// An ARP request of a host for an address of the gateway, which learns of the host by it.
pub fn arp(from: (Mac, Ip), wanted: Ip) -> Vec<u8> {
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

pub fn tcp(link: (Mac, Mac), from: (Ip, u16), to: (Ip, u16), payload: &[u8]) -> Vec<u8> {
    let builder =
        PacketBuilder::ethernet2(link.0, link.1).ipv4(from.0, to.0, 64).tcp(from.1, to.1, 7, 1000).ack(8);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).expect("a frame");
    frame
}

pub fn write(path: &Path, frames: &[Vec<u8>]) {
    let mut writer = PcapWriter::new(File::create(path).expect("a capture")).expect("a capture");
    for frame in frames {
        let packet = PcapPacket::new(Duration::ZERO, frame.len() as u32, frame);
        writer.write_packet(&packet).expect("a frame");
    }
}

/// A TCP segment: from, to, payload.
pub type Segment = ((Ip, u16), (Ip, u16), Vec<u8>);

/// The TCP segments of a capture. Their checksums are right.
pub fn segments(path: &Path) -> Vec<Segment> {
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
        let payload = headers.payload.slice();
        assert_eq!(ip.header_checksum, ip.calc_header_checksum());
        assert_eq!(tcp.checksum, tcp.calc_checksum_ipv4(&ip, payload).expect("a short segment"));
        assert_eq!(ip.time_to_live, 63);
        found.push(((ip.source, tcp.source_port), (ip.destination, tcp.destination_port), payload.to_vec()));
    }
    found
}

pub fn refusal(name: &str, configuration: &str) -> String {
    let directory = directory(name);
    fs::write(directory.join("natgate.toml"), configuration).expect("a configuration");
    let Output { status, stderr, .. } =
        natgate(&directory, &["run", "--config", "natgate.toml"]).output().expect("natgate");
    let text = String::from_utf8_lossy(&stderr).into_owned();
    assert!(!status.success() && status.code() != Some(124), "{status}: {text}");
    // The log comes before it.
    text.lines().filter(|line| !line.starts_with('[')).collect::<Vec<_>>().join("\n")
}

/// A conversation through the gateway, from captures and into captures.
pub fn a_capture_goes_in_and_out(back_end: &str) {
    let directory = directory(&format!("{back_end}-capture"));
    let devices =
        ["wan", "lan"].map(|name| format!("net_pcap_{name},rx_pcap={name}-in.pcap,tx_pcap={name}-out.pcap"));
    fs::write(
        directory.join("natgate.toml"),
        configuration(back_end, &devices[0], &devices[1], "workers = 1", "hugepages = \"off\""),
    )
    .expect("a configuration");
    let sizes = [6, 100, 1000, 1460];
    let question = |size| tcp((ROUTER.0, WAN), (CLIENT, 5000), (EIP, 80), &vec![size as u8; size]);
    let answer = |size| tcp((WEB.0, LAN), (WEB.1, 8080), (CLIENT, 5000), &vec![size as u8; size]);
    let wan: Vec<_> = [arp(ROUTER, [203, 0, 113, 2])].into_iter().chain(sizes.map(question)).collect();
    let lan: Vec<_> = [arp(WEB, [10, 0, 1, 1])].into_iter().chain(sizes.map(answer)).collect();
    write(&directory.join("wan-in.pcap"), &wan);
    write(&directory.join("lan-in.pcap"), &lan);

    let mut command = natgate(&directory, &["run", "--config", "natgate.toml"]);
    let log = File::create(directory.join("log")).expect("a log");
    let mut gateway = command.stdin(Stdio::null()).stderr(log).spawn().expect("natgate");
    let counters = || {
        let output = natgate(&directory, &["stats", "--json"]).env("NATGATE_SOCKET", "natgate.sock").output();
        let output = output.expect("natgate");
        serde_json::from_slice::<serde_json::Value>(&output.stdout).ok()
    };
    let all = |counters: &serde_json::Value| counters["total"]["forwarded"].as_u64() >= Some(8);
    let passed = (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        counters().is_some_and(|counters| all(&counters))
    });
    let log = || fs::read_to_string(directory.join("log")).unwrap_or_default();
    assert!(passed, "{:?}\n{}", counters(), log());
    // `timeout` passes the signal on.
    let status = Command::new("kill").arg(gateway.id().to_string()).status();
    assert!(status.is_ok_and(|status| status.success()));
    let status = gateway.wait().expect("its end");
    assert!(log().contains("every packet is accounted for"), "{status}: {}", log());

    let wanted = |from: (Ip, u16), to: (Ip, u16)| sizes.map(|size| (from, to, vec![size as u8; size]));
    assert_eq!(segments(&directory.join("lan-out.pcap")), wanted((CLIENT, 5000), (WEB.1, 8080)));
    assert_eq!(segments(&directory.join("wan-out.pcap")), wanted((EIP, 80), (CLIENT, 5000)));
}
