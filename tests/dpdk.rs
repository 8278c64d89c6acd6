//! The back end on DPDK, with virtual devices and without huge pages: rings and the empty device in this process, captures in
//! and out through the real binary, and what is said when something cannot be. Real clients are in `namespaces`.

mod common;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use etherparse::{NetHeaders, PacketBuilder, PacketHeaders, TransportHeader};
use natgate::base::PortIndex;
use natgate::nic::dpdk::{Dpdk, Hugepages, Options};
use natgate::nic::{Burst, Cache, Pool, Queue};
use pcap_file::pcap::{PcapPacket, PcapReader, PcapWriter};

type Mac = [u8; 6];
type Ip = [u8; 4];

/// The addresses that `net_pcap` gives its devices, in the order in which they are made.
const WAN: Mac = [2, 0x70, 0x63, 0x61, 0x70, 0];
const LAN: Mac = [2, 0x70, 0x63, 0x61, 0x70, 1];
const ROUTER: (Mac, Ip) = ([2, 0, 0, 0, 2, 1], [203, 0, 113, 1]);
const WEB: (Mac, Ip) = ([2, 0, 0, 0, 2, 2], [10, 0, 1, 10]);
const CLIENT: Ip = [198, 51, 100, 10];
const EIP: Ip = [203, 0, 113, 16];

fn assert_whole(pool: &Pool, caches: &[&Cache]) {
    let held: usize = caches.iter().map(|cache| cache.len()).sum();
    assert_eq!(pool.spare_slots() + held, pool.slots(), "buffers are missing");
}

fn frame(cache: &mut Cache, bytes: &[u8]) -> natgate::nic::Frame {
    let mut frame = cache.take().expect("a free buffer");
    assert!(frame.fill(bytes));
    frame
}

/// DPDK is started once in a process, so one test has all that happens inside of this one.
#[test]
fn buffers_go_round_and_come_back() {
    const SLOTS: usize = 4096;
    let options = Options { hugepages: Hugepages::Off, ..Options::default() };
    let devices = ["net_ring0", "net_null0,size=64", "net_null1,size=60,copy=1"];
    let dpdk = Dpdk::start(&options, &devices, 8, SLOTS, 2048).unwrap();
    let error = Dpdk::start(&options, &devices, 8, SLOTS, 2048).unwrap_err();
    assert!(error.to_string().contains("only once"), "{error}");
    let pool = dpdk.pool();
    assert_eq!(pool.slots(), SLOTS);
    assert!(pool.slot_size() >= 2048);
    let mut cache = pool.cache();

    // A pool gives each buffer once, until it has no more, and takes all of them back.
    let mut taken = Vec::new();
    while let Some(frame) = cache.take() {
        taken.push(frame);
    }
    assert_eq!(taken.len(), SLOTS);
    let mut starts: Vec<_> = taken.iter().map(|frame| frame.slot_bytes().as_ptr()).collect();
    starts.sort_unstable();
    let size = pool.slot_size();
    assert!(starts.windows(2).all(|pair| pair[1] as usize - pair[0] as usize >= size), "buffers overlap");
    for frame in taken {
        cache.give(frame);
    }
    assert_whole(pool, &[&cache]);

    // A ring gives back the very buffers that were sent, in order, with what was in them. Each queue is a ring.
    let mut port = dpdk.open("net_ring0", PortIndex(3), 2, None).unwrap();
    assert_eq!(port.info.device, "net_ring0");
    let mut burst = Burst::new();
    for (number, queue) in port.queues.iter_mut().enumerate() {
        let mut starts = Vec::new();
        for length in 60..60 + 200_usize {
            let bytes: Vec<_> = (0..length).map(|at| (at + number) as u8).collect();
            let frame = frame(&mut cache, &bytes);
            starts.push(frame.slot_bytes().as_ptr());
            burst.push(frame);
        }
        assert_eq!(queue.transmit(&mut cache, &mut burst), 200);
        assert!(burst.is_empty());
        assert_eq!(queue.receive(&mut cache, &mut burst), 200);
        for (at, (frame, start)) in burst.drain(..).zip(starts).enumerate() {
            assert_eq!(frame.slot_bytes().as_ptr(), start, "it was copied");
            assert_eq!(frame.port, PortIndex(3));
            assert_eq!(frame.len(), 60 + at);
            assert!(frame.bytes().iter().enumerate().all(|(at, byte)| *byte == (at + number) as u8));
            cache.give(frame);
        }
        assert_eq!(queue.receive(&mut cache, &mut burst), 0);
    }
    // What is full takes no more, and what it did not take is still there.
    let queue = &mut port.queues[0];
    let mut sent = 0;
    loop {
        while burst.len() < 200 {
            burst.push(frame(&mut cache, &[7; 60]));
        }
        let taken = queue.transmit(&mut cache, &mut burst);
        assert_eq!(burst.len(), 200 - taken);
        sent += taken;
        if taken < 200 {
            break;
        }
        assert!(sent < SLOTS, "a ring without an end");
    }
    burst.drain(..).for_each(|frame| cache.give(frame));
    // A port that is closed while frames lie in its rings loses none of their buffers.
    assert!(sent > 500 && pool.spare_slots() + cache.len() == SLOTS - sent);
    for mut queue in port.queues {
        queue.close(&mut cache).unwrap();
        assert_eq!(queue.receive(&mut cache, &mut burst), 0);
    }
    assert_whole(pool, &[&cache]);

    // A worker's thread, with a cache of DPDK's own: from one device to another, and some frames dropped on the way.
    let ports = ["net_null0,size=64", "net_null1,size=60,copy=1"].map(|device| {
        let index = PortIndex(0);
        dpdk.open(device, index, 1, None).unwrap().queues.remove(0)
    });
    let own = pool.cache();
    let work = move || {
        let (mut cache, mut burst, [mut from, mut to]) = (own, Burst::new(), ports);
        for turn in 0..200 {
            let received = from.receive(&mut cache, &mut burst);
            assert_eq!((received, burst.first().map(natgate::nic::Frame::len)), (256, Some(64)));
            if turn % 3 == 0 {
                burst.drain(..).for_each(|frame| cache.give(frame));
            }
            to.transmit(&mut cache, &mut burst);
            assert!(burst.is_empty());
        }
        from.close(&mut cache).unwrap();
        to.close(&mut cache).unwrap();
        cache
    };
    let other = std::thread::spawn(work).join().unwrap();
    assert_whole(pool, &[&cache, &other]);

    // What cannot be opened says why, and leaves nothing behind.
    for (device, queues, mtu, words) in [
        ("net_null2,size=64", 2000, None, "there must be one for each of the 2000 workers"),
        ("net_null3,size=64", 1, Some(9000), "raise system.buffer_size"),
        ("net_nothing0", 1, None, "DPDK does not make the device net_nothing0"),
        ("net_af_packet0,iface=ng-none", 1, None, "there is no device `ng-none`"),
    ] {
        let error = dpdk.open(device, PortIndex(0), queues, mtu).unwrap_err().to_string();
        assert!(error.contains(words) && !error.contains('\n'), "{device}: {error}");
    }
    assert_whole(pool, &[&cache, &other]);
}

/// An empty directory for one test.
fn directory(test: &str) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("dpdk-{test}"));
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).expect("a directory");
    directory
}

/// natgate, for at most half a minute.
fn natgate(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.arg("30").arg(env!("CARGO_BIN_EXE_natgate")).args(arguments).current_dir(directory);
    command
}

const REST: &str = r#"
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

/// A gateway on two devices; `more` stands in its tables `[system]` and `[dpdk]`.
fn configuration(wan: &str, lan: &str, system: &str, dpdk: &str) -> String {
    let port =
        |name, device| format!("[[port]]\nname = \"{name}\"\nbackend = \"dpdk\"\ndevice = \"{device}\"\n");
    format!(
        "[system]\nsessions = 1024\ncontrol = \"natgate.sock\"\nidle = \"sleep\"\n{system}\n[dpdk]\n{dpdk}\n{}{}{REST}",
        port("wan", wan),
        port("lan", lan)
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

fn tcp(link: (Mac, Mac), from: (Ip, u16), to: (Ip, u16), payload: &[u8]) -> Vec<u8> {
    let builder =
        PacketBuilder::ethernet2(link.0, link.1).ipv4(from.0, to.0, 64).tcp(from.1, to.1, 7, 1000).ack(8);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).expect("a frame");
    frame
}

fn write(path: &Path, frames: &[Vec<u8>]) {
    let mut writer = PcapWriter::new(File::create(path).expect("a capture")).expect("a capture");
    for frame in frames {
        let packet = PcapPacket::new(Duration::ZERO, frame.len() as u32, frame);
        writer.write_packet(&packet).expect("a frame");
    }
}

/// A TCP segment: from, to, payload.
type Segment = ((Ip, u16), (Ip, u16), Vec<u8>);

/// The TCP segments of a capture. Their checksums are right.
fn segments(path: &Path) -> Vec<Segment> {
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

#[test]
fn a_capture_goes_in_and_out() {
    let directory = directory("capture");
    let devices =
        ["wan", "lan"].map(|name| format!("net_pcap_{name},rx_pcap={name}-in.pcap,tx_pcap={name}-out.pcap"));
    fs::write(
        directory.join("natgate.toml"),
        configuration(&devices[0], &devices[1], "workers = 1", "hugepages = \"off\""),
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

/// Another process on shared memory: the packet generator as both neighbours of the gateway.
#[test]
fn packets_pass_over_shared_memory() {
    const RATE: &str = "20k";
    let _exclusive = common::exclusive();
    let directory = directory("memif");
    let memif = |number, role, name: &str| {
        format!(
            "net_memif{number},role={role},id={number},socket={}/{name}.sock,socket-abstract=no,rsize=10,bsize=2048",
            directory.display()
        )
    };
    let snat = "[[snat]]\ngateway = \"gw1\"\nsource = \"vpc\"\neips = [\"203.0.113.16\"]\n";
    let text = configuration(
        &memif(0, "server", "wan"),
        &memif(1, "server", "lan"),
        "workers = 1",
        "hugepages = \"off\"",
    ) + snat;
    fs::write(directory.join("natgate.toml"), text).expect("a configuration");
    let log = File::create(directory.join("log")).expect("a log");
    let mut command = natgate(&directory, &["run", "--config", "natgate.toml"]);
    let mut gateway = command.stdin(Stdio::null()).stderr(log).spawn().expect("natgate");
    let log = || fs::read_to_string(directory.join("log")).unwrap_or_default();
    let is_ready = (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        log().contains("ready;")
    });
    assert!(is_ready, "{}", log());
    let (lan, wan) = (memif(1, "client", "lan"), memif(0, "client", "wan"));
    let mut generator =
        natgate(&directory, &["pktgen", "--backend", "dpdk", "--send", &lan, "--receive", &wan]);
    generator.args([
        "--gateway",
        "10.0.1.1",
        "--source",
        "10.0.1.128/25",
        "--destination",
        "198.51.100.0/24",
    ]);
    generator.args([
        "--answer",
        "203.0.113.1",
        "--flows",
        "100",
        "--both-ways",
        "--rate",
        RATE,
        "--seconds",
        "1",
    ]);
    let output = generator.arg("--json").output().expect("natgate pktgen");
    // The gateway may not outlive its peer: DPDK's driver unmaps rings that are being polled.
    let _ = Command::new("kill").arg(gateway.id().to_string()).status();
    let _ = gateway.wait();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}\n{}", log());
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a report");
    let count = |name: &str| report[name].as_u64().unwrap_or_else(|| panic!("no {name} in {report}"));
    assert!(count("sent") > 1000 && count("back") > 1000, "{report}");
    // A busy machine may lose some, but not many.
    assert!(count("back") * 10 > count("sent") * 9, "{report}");
}

/// Huge pages for a test, by the script that operators use, which takes them back.
struct HugePages(PathBuf);

impl HugePages {
    fn setup(&self, arguments: &[&str]) -> bool {
        let mut setup = Command::new(common::repository().join("dpdk-env/setup"));
        setup.args(arguments).env("DPDK_ENV_STATE", &self.0);
        setup.output().expect("dpdk-env/setup").status.success()
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        self.setup(&["undo"]);
    }
}

#[test]
fn huge_pages_are_used_and_given_back() {
    common::need_root!();
    let _exclusive = common::exclusive();
    let directory = directory("huge-pages");
    let pages = HugePages(directory.join("state"));
    if !pages.setup(&["hugepages", "--mib", "256"]) {
        println!("skipped: this machine gives no 256 MiB of huge pages");
        return;
    }
    let devices = ["net_null0,size=64", "net_null1,size=64"];
    let text =
        configuration(devices[0], devices[1], "workers = 1", "hugepages = \"require\"\ntelemetry = true");
    fs::write(directory.join("natgate.toml"), text).expect("a configuration");
    let mut command = natgate(&directory, &["run", "--config", "natgate.toml"]);
    let log = File::create(directory.join("log")).expect("a log");
    let mut gateway = command.stdin(Stdio::null()).stderr(log).spawn().expect("natgate");
    let log = || fs::read_to_string(directory.join("log")).unwrap_or_default();
    let is_ready = (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        log().contains("ready;")
    });
    let _ = Command::new("kill").arg(gateway.id().to_string()).status();
    gateway.wait().expect("its end");
    let log = log();
    assert!(
        is_ready && log.contains("pages: Huge") && log.contains("every packet is accounted for"),
        "{log}"
    );
    assert!(!log.contains("WARN"), "{log}");
}

fn refusal(name: &str, configuration: &str) -> String {
    let directory = directory(name);
    fs::write(directory.join("natgate.toml"), configuration).expect("a configuration");
    let Output { status, stderr, .. } =
        natgate(&directory, &["run", "--config", "natgate.toml"]).output().expect("natgate");
    let text = String::from_utf8_lossy(&stderr).into_owned();
    assert!(!status.success() && status.code() != Some(124), "{status}: {text}");
    // The log comes before it.
    text.lines().filter(|line| !line.starts_with('[')).collect::<Vec<_>>().join("\n")
}

/// In one line each, with what to do.
#[test]
fn what_is_missing_is_said_with_the_way_out() {
    let null = ["net_null0,size=64", "net_null1,size=64"];
    let small = "hugepages = \"off\"";
    for (name, text, words) in [
        (
            "hugepages",
            configuration(null[0], null[1], "workers = 1", "hugepages = \"require\"\nmemory = 1048576"),
            ["1048576 MiB of huge pages are needed", "dpdk-env/setup hugepages"],
        ),
        (
            "no-device",
            configuration("ffff:ff:1f.7", null[1], "workers = 1", small),
            ["there is no PCI device ffff:ff:1f.7", "lspci"],
        ),
        (
            "queues",
            configuration("net_pcap0,tx_pcap=a.pcap", null[1], "workers = 2", small),
            ["port \"wan\": it has 1 queues", "one for each of the 2 workers"],
        ),
        (
            "arguments",
            configuration(
                null[0],
                null[1],
                "workers = 1",
                "hugepages = \"off\"\narguments = [\"--nonsense\"]",
            ),
            ["DPDK does not start", "Invalid"],
        ),
        (
            "memory",
            configuration(
                null[0],
                null[1],
                "workers = 1\nbuffers = \"1M\"",
                "hugepages = \"off\"\nmemory = 64",
            ),
            ["no memory for 1000000 packet buffers", "raise dpdk.memory"],
        ),
        (
            "taken",
            configuration("net_pcap0,rx_pcap=none.pcap,tx_pcap=a.pcap", null[1], "workers = 1", small),
            ["port \"wan\"", "none.pcap"],
        ),
    ] {
        let error = refusal(name, &text);
        for word in words {
            assert!(error.contains(word), "{name}: \"{word}\" is missing in\n{error}");
        }
        let line = error.lines().find(|line| line.contains(words[0])).unwrap_or_default();
        assert!(line.contains(words[1]), "{name} takes more than one line:\n{error}");
    }
}
