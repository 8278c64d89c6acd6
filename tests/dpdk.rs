//! The back end on DPDK, with virtual devices and without huge pages: rings and the empty device in this process, captures in
//! and out through the real binary, and what is said when something cannot be. Real clients are in `namespaces`.

mod common;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::devices::{self, Gateway, NATGATE, NOT_TO_BE_STARTED, assert_whole, directory, natgate, refusal};
use natgate::base::PortIndex;
use natgate::nic::dpdk::{Dpdk, Hugepages, Options, PortOptions};
use natgate::nic::{Burst, Cache, Queue};

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
    let mut port = dpdk.open("net_ring0", PortIndex(3), 2, PortOptions::default()).unwrap();
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
        dpdk.open(device, index, 1, PortOptions::default()).unwrap().queues.remove(0)
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
        (NOT_TO_BE_STARTED, 1, None, "starting it fails"),
    ] {
        let options = PortOptions { mtu, ..PortOptions::default() };
        let error = dpdk.open(device, PortIndex(0), queues, options).unwrap_err().to_string();
        assert!(error.contains(words) && !error.contains('\n'), "{device}: {error}");
    }
    assert_whole(pool, &[&cache, &other]);
}

/// A gateway on two devices; `system` and `dpdk` stand in its tables of those names.
fn configuration(wan: &str, lan: &str, system: &str, dpdk: &str) -> String {
    devices::configuration("dpdk", wan, lan, system, dpdk)
}

#[test]
fn a_capture_goes_in_and_out() {
    devices::a_capture_goes_in_and_out("dpdk");
}

const SNAT: &str = "[[snat]]\ngateway = \"gw1\"\nsource = \"vpc\"\neips = [\"203.0.113.16\"]\n";

/// The packet generator as both neighbours of a gateway, on these devices for a second.
fn generate(directory: &Path, lan: &str, wan: &str) -> Output {
    let mut generator =
        natgate(directory, &["pktgen", "--backend", "dpdk", "--send", lan, "--receive", wan, "--json"]);
    generator.args(["--gateway", "10.0.1.1", "--source", "10.0.1.128/25"]);
    generator.args(["--destination", "198.51.100.0/24", "--answer", "203.0.113.1"]);
    generator.args(["--flows", "100", "--both-ways", "--rate", "20k", "--seconds", "1"]);
    generator.output().expect("natgate pktgen")
}

/// That both neighbours had their packets. A busy machine may lose some, but not many.
fn assert_came_back(output: &Output, log: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}\n{log}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a report");
    let count = |name: &str| report[name].as_u64().unwrap_or_else(|| panic!("no {name} in {report}"));
    assert!(count("sent") > 1000 && count("back") > 1000, "{report}\n{log}");
    assert!(count("back") * 10 > count("sent") * 9, "{report}\n{log}");
}

/// Another process on shared memory: the packet generator as both neighbours of the gateway.
#[test]
fn packets_pass_over_shared_memory() {
    let _exclusive = common::exclusive();
    let directory = directory("memif");
    let memif = |number, role, name: &str| {
        format!(
            "net_memif{number},role={role},id={number},socket={}/{name}.sock,socket-abstract=no,rsize=10,bsize=2048",
            directory.display()
        )
    };
    let text = configuration(
        &memif(0, "server", "wan"),
        &memif(1, "server", "lan"),
        "workers = 1",
        "hugepages = \"off\"",
    );
    let gateway = Gateway::start(&directory, &(text + SNAT)).ready();
    let output = generate(&directory, &memif(1, "client", "lan"), &memif(0, "client", "wan"));
    // The gateway may not outlive its peer for long: DPDK's driver unmaps rings that are being polled.
    let log = gateway.stop();
    assert_came_back(&output, &log);
}

/// What DPDK's own tool answers of a gateway; none if the machine does not have it.
fn telemetry(questions: &[&str]) -> Option<Result<String, String>> {
    let mut tool = Command::new("timeout");
    tool.args(["20", "dpdk-telemetry.py", "-f", "natgate"]).stdin(Stdio::piped());
    let tool = tool.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("timeout");
    let mut words = tool.stdin.as_ref().expect("its input");
    writeln!(words, "{}\nquit", questions.join("\n")).expect("it listens");
    let output = tool.wait_with_output().expect("its end");
    let [text, error] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    match output.status.code() {
        Some(0) => Some(Ok(text.split_whitespace().collect())),
        Some(127) => None,
        _ => Some(Err(format!("{text}{error}"))),
    }
}

/// The socket is there with ordinary pages, too; and without the key there is none.
#[test]
fn dpdks_own_tools_see_a_gateway() {
    common::need_root!();
    let _exclusive = common::exclusive();
    let directory = directory("telemetry");
    let questions = ["/ethdev/list", "/ethdev/link_status,0", "/mempool/list"];
    let start = |dpdk: &str| {
        let text = configuration("net_null0,size=64", "net_null1,size=64", "workers = 1", dpdk);
        Gateway::start(&directory, &text).ready()
    };
    let gateway = start("hugepages = \"off\"\ntelemetry = true");
    let Some(answers) = telemetry(&questions) else {
        println!("skipped: there is no dpdk-telemetry.py");
        return;
    };
    let log = gateway.stop();
    let answers = answers.unwrap_or_else(|error| panic!("{error}\n{log}"));
    for answer in [r#"{"/ethdev/list":[0,1]}"#, r#""status":"UP""#, r#"{"/mempool/list":["natgate"]}"#] {
        assert!(answers.contains(answer), "no {answer} in {answers}");
    }
    assert!(log.contains("every packet is accounted for"), "{log}");
    let gateway = start("hugepages = \"off\"");
    let answers = telemetry(&questions);
    gateway.stop();
    let is_answered =
        |answers: Result<String, String>| answers.is_ok_and(|answers| answers.contains("/ethdev/list"));
    assert!(!answers.is_some_and(is_answered), "it was not asked for");
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
    let gateway = Gateway::start(&directory, &text).ready();
    let answers = telemetry(&["/ethdev/list"]);
    let log = gateway.stop();
    if let Some(answers) = answers {
        let answers = answers.unwrap_or_else(|error| panic!("{error}\n{log}"));
        assert!(answers.contains(r#"{"/ethdev/list":[0,1]}"#), "{answers}");
    }
    assert!(log.contains("pages: Huge") && log.contains("every packet is accounted for"), "{log}");
    assert!(!log.contains("WARN"), "{log}");
}

/// DPDK does not begin twice once it has come to its memory: what is told is why it failed first.
#[test]
fn why_huge_pages_cannot_be_had_is_said_though_ordinary_ones_are_tried() {
    common::need_root!();
    let _exclusive = common::exclusive();
    let pages = HugePages(directory("huge-pages-short").join("state"));
    if !pages.setup(&["hugepages", "--mib", "256"]) {
        println!("skipped: this machine gives no 256 MiB of huge pages");
        return;
    }
    let text = configuration(
        "net_null0,size=64",
        "net_null1,size=64",
        "workers = 1",
        "arguments = [\"--socket-mem=65536\"]",
    );
    let error = refusal("huge-pages-refused", &text);
    // DPDK itself says more, before.
    let error = error.lines().last().unwrap_or_default();
    assert!(error.contains("DPDK does not start") && error.contains("Cannot init memory"), "{error}");
    assert!(!error.contains("already"), "{error}");
}

/// Three network namespaces, which go with the value.
struct Namespaces([String; 3]);

impl Namespaces {
    fn new() -> Self {
        let names = ["a", "b", "c"].map(|name| format!("natgate-dpdk-{}-{name}", std::process::id()));
        for name in &names {
            run(&["ip", "netns", "add", name]);
        }
        Self(names)
    }

    /// A command in one of them, for at most half a minute.
    fn command(&self, which: usize, arguments: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0[which], "timeout", "30"]).args(arguments);
        command
    }

    /// Runs a shell command in one of them; what it printed.
    fn shell(&self, which: usize, command: &str) -> Result<String, String> {
        let output = self.command(which, &["bash", "-c", command]).output().expect("ip netns exec");
        let text =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        if output.status.success() { Ok(text) } else { Err(format!("{command}: {text}")) }
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.0 {
            let _ = Command::new("ip").args(["netns", "delete", name]).status();
        }
    }
}

fn run(arguments: &[&str]) {
    let status = Command::new(arguments[0]).args(&arguments[1..]).status().expect("a command");
    assert!(status.success(), "{arguments:?}");
}

/// A pair of devices `NAME0` in the first namespace and `NAME1` in another. DPDK splits no super-frames of a local sender.
fn pair(spaces: &Namespaces, name: char, other: usize) {
    let (here, there) = (format!("{name}0"), format!("{name}1"));
    let [near, far] = [&spaces.0[0], &spaces.0[other]];
    run(&["ip", "link", "add", &here, "netns", near, "type", "veth", "peer", "name", &there, "netns", far]);
    spaces.shell(0, &format!("ip link set {here} up")).unwrap();
    spaces
        .shell(
            other,
            &format!("ip link set lo up; ip link set {there} up; ethtool -K {there} tso off gso off"),
        )
        .unwrap();
}

/// A megabyte from a server on the Internet to a client of the VPC: the server sees the EIP.
fn download(spaces: &Namespaces, client: usize, server: usize) {
    let serve = "import socket; s = socket.create_server(('203.0.113.1', 80)); c, a = s.accept(); \
                 c.sendall(b'x' * 1000000); c.close(); print(a[0])";
    let mut serving = spaces.command(server, &["python3", "-c", serve]);
    let serving = serving.stdout(Stdio::piped()).spawn().expect("python3");
    let get = "import socket, time\n\
               for n in range(50):\n \
                try: s = socket.create_connection(('203.0.113.1', 80), 5); break\n \
                except ConnectionRefusedError: time.sleep(0.1)\n\
               print(sum(iter(lambda: len(s.recv(65536)), 0)))";
    let got = spaces.shell(client, &format!("python3 -c \"{get}\""));
    let served = serving.wait_with_output().expect("its end");
    assert_eq!(got.unwrap().trim(), "1000000");
    assert_eq!(String::from_utf8_lossy(&served.stdout).trim(), "203.0.113.16", "the server sees the EIP");
}

/// DPDK's own driver for XDP sockets, on both sides.
#[test]
fn a_client_reaches_the_internet_by_dpdks_xdp_sockets() {
    common::need_root!();
    let _exclusive = common::exclusive();
    let spaces = Namespaces::new();
    pair(&spaces, 'w', 1);
    pair(&spaces, 'l', 2);
    spaces.shell(1, "ip addr add 203.0.113.1/24 dev w1").unwrap();
    spaces.shell(2, "ip addr add 10.0.1.10/24 dev l1; ip route add default via 10.0.1.1").unwrap();
    let devices = ["net_af_xdp0,iface=w0", "net_af_xdp1,iface=l0"];
    let text = configuration(devices[0], devices[1], "workers = 1", "hugepages = \"off\"");
    let within: Vec<_> = ["ip", "netns", "exec", &spaces.0[0]].into_iter().chain(NATGATE).collect();
    let gateway = Gateway::start_by(&within, &directory("xdp"), &(text + SNAT)).ready();
    let answered = spaces.shell(2, "ping -c 3 -i 0.2 -W 2 203.0.113.1");
    answered.unwrap_or_else(|error| panic!("{error}\n{}\n{}", gateway.stats(), gateway.log()));
    download(&spaces, 2, 1);
    let log = gateway.stop();
    // The driver (DPDK 22.11) forgets the buffers that wait for frames.
    let ends = ["every packet is accounted for", "buffers did not come back to the pool"];
    assert!(ends.iter().any(|end| log.contains(end)), "{log}");
    // It has given the devices back as they were.
    let links = spaces.shell(0, "ip link show w0; ip link show l0").unwrap();
    assert!(!links.contains("xdp") && !links.contains("PROMISC"), "{links}");
}

/// The kernel itself is a host of the VPC, behind a tap device. What the gateway counts is what DPDK's ports count, and a link
/// that goes and comes back is said.
#[test]
fn a_kernel_behind_a_tap_reaches_the_internet() {
    common::need_root!();
    if !Path::new("/dev/net/tun").exists() {
        println!("skipped: there is no /dev/net/tun");
        return;
    }
    let _exclusive = common::exclusive();
    let directory = directory("tap");
    let spaces = Namespaces::new();
    pair(&spaces, 'w', 1);
    spaces.shell(0, "ip link set lo up").unwrap();
    spaces.shell(1, "ip addr add 203.0.113.1/24 dev w1").unwrap();
    let text =
        configuration("net_af_packet0,iface=w0", "net_tap0,iface=tl0", "workers = 1", "hugepages = \"off\"")
            .replace("device = \"net_tap0", "promiscuous = true\ndevice = \"net_tap0");
    let within: Vec<_> = ["ip", "netns", "exec", &spaces.0[0]].into_iter().chain(NATGATE).collect();
    let gateway = Gateway::start_by(&within, &directory, &(text + SNAT)).ready();
    let device = spaces.shell(0, "ip -d link show tl0").unwrap();
    assert!(
        device.contains("PROMISC") && gateway.log().contains(", promiscuous"),
        "{device}\n{}",
        gateway.log()
    );
    // DPDK has given it the port's own address.
    spaces
        .shell(
            0,
            "ip link set tl0 address 02:00:00:00:99:01; ip addr add 10.0.1.10/24 dev tl0; ip link set tl0 up; \
             ip route add default via 10.0.1.1",
        )
        .unwrap();
    spaces
        .shell(0, "ping -c 3 -i 0.2 -W 2 203.0.113.1")
        .unwrap_or_else(|error| panic!("{error}\n{}", gateway.log()));
    download(&spaces, 0, 1);
    // What the ports' own counters say is what the gateway says, once nothing passes any more.
    let adds_up = |port: &serde_json::Value| {
        let device = |name: &str| port["device"][name].as_u64().unwrap_or(0);
        let own = |name: &str| port[name].as_u64().unwrap_or(0);
        own("rx_packets") > 100
            && own("rx_packets") + own("rx_errors") - device("rx_errors") == device("rx_good_packets")
            && own("tx_packets") == device("tx_good_packets") + device("tx_errors")
    };
    gateway.eventually("the counters do not add up", || {
        let stats = gateway.stats();
        stats["ports"].as_array().is_some_and(|ports| ports.len() == 2 && ports.iter().all(adds_up))
    });
    let says = |what: &str| gateway.eventually(what, || gateway.log().contains(what));
    spaces.shell(0, "ip link set tl0 down").unwrap();
    says("port lan: its link is down");
    assert_eq!(gateway.stats()["ports"][1]["link_mbps"], 0);
    spaces.shell(0, "ip link set tl0 up").unwrap();
    says("port lan: its link is up");
    let log = gateway.stop();
    assert!(log.contains("every packet is accounted for"), "{log}");
}

/// As a virtual machine would: the generator's two network devices are virtio, the gateway serves them as a host does.
#[test]
fn packets_pass_between_virtio_and_vhost() {
    common::need_root!();
    let _exclusive = common::exclusive();
    let directory = directory("vhost");
    let pages = HugePages(directory.join("state"));
    if !pages.setup(&["hugepages", "--mib", "512"]) {
        println!("skipped: this machine gives no 512 MiB of huge pages");
        return;
    }
    let vhost = |number: usize, name: &str| {
        format!("net_vhost{number},iface={}/{name}.sock,queues=1", directory.display())
    };
    let text = configuration(&vhost(0, "wan"), &vhost(1, "lan"), "workers = 1", "hugepages = \"off\"");
    let gateway = Gateway::start(&directory, &(text + SNAT)).ready();
    let virtio = |number: usize, name: &str| {
        format!("net_virtio_user{number},path={}/{name}.sock,queues=1,queue_size=1024", directory.display())
    };
    let output = generate(&directory, &virtio(0, "lan"), &virtio(1, "wan"));
    // The peer is gone: the gateway says so and goes on.
    gateway.eventually("nobody saw the peer go", || gateway.log().contains("port lan: its link is down"));
    let log = gateway.stop();
    assert_came_back(&output, &log);
    assert!(log.contains("every packet is accounted for"), "{log}");
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
            "start",
            configuration(NOT_TO_BE_STARTED, null[1], "workers = 1", small),
            ["port \"wan\": starting it fails", "Failed to connect socket"],
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
