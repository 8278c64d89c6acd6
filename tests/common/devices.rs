//! A gateway on devices that need no network: captures, and DPDK's virtual devices by either way onto DPDK.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use etherparse::{NetHeaders, PacketBuilder, PacketHeaders, TransportHeader};
use natgate::nic::{Cache, Pool};
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

/// The words of natgate for at most half a minute.
pub const NATGATE: [&str; 5] = ["timeout", "-k", "5", "30", env!("CARGO_BIN_EXE_natgate")];

/// natgate, for at most half a minute.
pub fn natgate(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(NATGATE[0]);
    command.args(&NATGATE[1..]).args(arguments).current_dir(directory);
    command
}

/// A gateway at work in a directory, which is ended when it goes out of scope.
pub struct Gateway {
    process: Child,
    directory: PathBuf,
}

impl Gateway {
    /// Starts one.
    pub fn start(directory: &Path, configuration: &str) -> Self {
        Self::start_by(&NATGATE, directory, configuration)
    }

    /// Starts one by these words, which end in those of [`NATGATE`]: in a network namespace, for instance.
    pub fn start_by(words: &[&str], directory: &Path, configuration: &str) -> Self {
        fs::write(directory.join("natgate.toml"), configuration).expect("a configuration");
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).args(["run", "--config", "natgate.toml"]).current_dir(directory);
        let log = File::create(directory.join("log")).expect("a log");
        let process = command.stdin(Stdio::null()).stderr(log).spawn().expect("natgate");
        Self { process, directory: directory.to_owned() }
    }

    /// What it has said up to now.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// Waits until something is so, for at most ten seconds.
    pub fn eventually(&self, what: &str, mut so: impl FnMut() -> bool) {
        let is_so = (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            so()
        });
        assert!(is_so, "{what}\n{}\n{}", self.stats(), self.log());
    }

    /// Waits until it is ready.
    pub fn ready(self) -> Self {
        self.eventually("it does not start", || self.log().contains("ready;"));
        self
    }

    /// What a command says that asks it.
    pub fn ask(&self, arguments: &[&str]) -> Output {
        let mut command = natgate(&self.directory, arguments);
        command.env("NATGATE_SOCKET", "natgate.sock").output().expect("natgate")
    }

    /// Its counters; null if it does not answer.
    pub fn stats(&self) -> serde_json::Value {
        serde_json::from_slice(&self.ask(&["stats", "--json"]).stdout).unwrap_or_default()
    }

    /// Sends it a signal: `timeout` passes it on.
    pub fn signal(&self, name: &str) {
        let status =
            Command::new("kill").args([&format!("-{name}"), &self.process.id().to_string()]).status();
        assert!(status.expect("kill").success());
    }

    /// Has it end; what it has said.
    pub fn stop(mut self) -> String {
        self.signal("TERM");
        self.process.wait().expect("its end");
        self.log()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Ok(None) = self.process.try_wait() {
            // Not SIGKILL, of which `timeout` could tell nobody.
            let _ = Command::new("kill").arg(self.process.id().to_string()).status();
            let _ = self.process.wait();
        }
    }
}

/// That no buffer is missing: what is not in the pool is in these caches.
pub fn assert_whole(pool: &Pool, caches: &[&Cache]) {
    let held: usize = caches.iter().map(|cache| cache.len()).sum();
    assert_eq!(pool.spare_slots() + held, pool.slots(), "buffers are missing");
}

/// A device of DPDK's that can be set up and not be started: nobody serves its socket.
pub const NOT_TO_BE_STARTED: &str =
    "net_memif9,role=client,socket=/tmp/natgate-nobody.sock,socket-abstract=no";

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

/// A TCP segment whose flags are these letters: S (SYN), A (ACK).
pub fn tcp(link: (Mac, Mac), from: (Ip, u16), to: (Ip, u16), flags: &str, payload: &[u8]) -> Vec<u8> {
    let mut builder =
        PacketBuilder::ethernet2(link.0, link.1).ipv4(from.0, to.0, 64).tcp(from.1, to.1, 7, 1000);
    for flag in flags.chars() {
        builder = match flag {
            'S' => builder.syn(),
            'A' => builder.ack(8),
            _ => panic!("no flag: {flag}"),
        };
    }
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).expect("a frame");
    frame
}

/// Writes a capture: frames and when they came, in milliseconds.
pub fn write(path: &Path, frames: &[(u64, Vec<u8>)]) {
    let mut writer = PcapWriter::new(File::create(path).expect("a capture")).expect("a capture");
    for (millis, frame) in frames {
        let packet = PcapPacket::new(Duration::from_millis(*millis), frame.len() as u32, frame);
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
    let text = configuration(back_end, &devices[0], &devices[1], "workers = 1", "hugepages = \"off\"");
    let sizes = [6, 100, 1000, 1460];
    let question = |size| tcp((ROUTER.0, WAN), (CLIENT, 5000), (EIP, 80), "A", &vec![size as u8; size]);
    let answer = |size| tcp((WEB.0, LAN), (WEB.1, 8080), (CLIENT, 5000), "A", &vec![size as u8; size]);
    let at_once = |first, others: [Vec<u8>; 4]| {
        [first].into_iter().chain(others).map(|frame| (0, frame)).collect::<Vec<_>>()
    };
    let (wan, lan) = (arp(ROUTER, [203, 0, 113, 2]), arp(WEB, [10, 0, 1, 1]));
    write(&directory.join("wan-in.pcap"), &at_once(wan, sizes.map(question)));
    write(&directory.join("lan-in.pcap"), &at_once(lan, sizes.map(answer)));

    let gateway = Gateway::start(&directory, &text);
    gateway.eventually("not all are forwarded", || gateway.stats()["total"]["forwarded"].as_u64() >= Some(8));
    let log = gateway.stop();
    assert!(log.contains("every packet is accounted for"), "{log}");

    let wanted = |from: (Ip, u16), to: (Ip, u16)| sizes.map(|size| (from, to, vec![size as u8; size]));
    assert_eq!(segments(&directory.join("lan-out.pcap")), wanted((CLIENT, 5000), (WEB.1, 8080)));
    assert_eq!(segments(&directory.join("wan-out.pcap")), wanted((EIP, 80), (CLIENT, 5000)));
}
