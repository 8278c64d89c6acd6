//! Protocols that are known for trouble with NAT, by real programs that speak them, and what scanners see.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common;
use crate::configuration::{base, dnat};
use crate::gateway::{Gateway, socket};
use crate::lab::{Background, Lab, wait_for};
use crate::with_all_back_ends;

with_all_back_ends! { sftp tftp stun sip quic wireguard many_requests scanners }

/// A file that is not all the same.
fn original(lab: &Lab) -> PathBuf {
    let path = lab.directory().join("original");
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
    fs::write(&path, content).expect("a file");
    path
}

#[track_caller]
fn same(lab: &Lab, copy: &Path) {
    let wanted = fs::read(lab.directory().join("original")).expect("a file");
    let copied = fs::read(copy).expect("a copy");
    assert!(copied == wanted, "{}: {} bytes", copy.display(), copied.len());
    fs::remove_file(copy).expect("a copy");
}

fn sftp(back_end: &str) {
    let lab = Lab::new();
    original(&lab);
    let directory = lab.directory().display().to_string();
    // Whoever logs in has a home of his own, and no other's keys.
    let keys = format!(
        "dropbearkey -t ed25519 -f host >/dev/null 2>&1 && ssh-keygen -q -t ed25519 -N '' -f client && mkdir -p home/.ssh && \
         cp client.pub home/.ssh/authorized_keys && chmod -R go= home && printf 'root::0:0::{directory}/home:/bin/sh\\n' >passwd"
    );
    lab.run("gw", &keys);
    for host in ["server", "app"] {
        let command = "mount --bind passwd /etc/passwd && exec dropbear -F -E -s -m -r host -P ''";
        lab.serve(host, command, 22);
    }
    let gateway = Gateway::start(&lab, &base(back_end, &socket(&lab)));
    for (host, address) in [("web", "198.51.100.20"), ("client", "203.0.113.17")] {
        let sftp = "sftp -q -b - -i client -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR";
        lab.run(
            host,
            &format!(
                "printf 'put original {directory}/up\\nget {directory}/up down\\n' | {sftp} root@{address}"
            ),
        );
        same(&lab, &lab.directory().join("up"));
        same(&lab, &lab.directory().join("down"));
    }
    gateway.finish();
}

/// A TFTP server answers from another port than it was asked at (RFC 1350).
fn tftp(back_end: &str) {
    let lab = Lab::new();
    let original = original(&lab);
    let command = format!(
        "exec dnsmasq --keep-in-foreground --no-resolv --no-hosts --port=5353 --user=root --pid-file= --conf-file=/dev/null \
         --enable-tftp --tftp-root={}",
        original.parent().expect("a directory").display()
    );
    for host in ["server", "app"] {
        lab.serve(host, &command, 5353);
    }
    let gateway = Gateway::start(&lab, &base(back_end, &socket(&lab)));
    for (host, address) in [("web", "198.51.100.20"), ("client", "203.0.113.17"), ("web", "203.0.113.17")] {
        lab.run(
            host,
            &format!("curl -sS --fail --max-time 25 --tftp-blksize 1400 -o down tftp://{address}/original"),
        );
        same(&lab, &lab.directory().join("down"));
    }
    gateway.finish();
}

/// What the discovery of NAT behaviour finds (RFC 5780): a server with two addresses answers from the one that it is asked to.
fn stun(back_end: &str) {
    let lab = Lab::new();
    lab.run("server", "ip address add 198.51.100.21/24 dev eth0");
    let server = lab.spawn(
        "server",
        "exec turnserver -n --no-auth --listening-ip 198.51.100.20 --listening-ip 198.51.100.21 --listening-port 3478 --no-tls \
         --no-dtls --no-tcp --no-cli --log-file stdout --simple-log --pidfile turn.pid --userdb turn.db",
    );
    server.says("DB connection success");
    let gateway = Gateway::start(&lab, &base(back_end, &socket(&lab)));
    let found = lab.run("web", "turnutils_natdiscovery -m -f -H 198.51.100.20");
    for behaviour in
        ["NAT with Endpoint Independent Mapping!", "NAT with Endpoint Independent Filtering!", "Hairpinning"]
    {
        assert!(found.contains(behaviour), "\"{behaviour}\" was not found:\n{found}");
    }
    assert!(!found.contains("timeout"), "something was lost:\n{found}");
    // A host with an EIP of its own is translated, too, and keeps its ports.
    let found = lab.run("app", "turnutils_natdiscovery -m -f 198.51.100.20");
    for behaviour in ["Endpoint Independent Mapping!", "Endpoint Independent Filtering!", "203.0.113.17:"] {
        assert!(found.contains(behaviour), "\"{behaviour}\" was not found:\n{found}");
    }
    drop(server);
    gateway.finish();
}

/// Calls in both directions whose answers go where the requests came from (RFC 3581).
fn sip(back_end: &str) {
    let lab = Lab::new();
    let configuration =
        base(back_end, &socket(&lab)) + &dnat("sip", "gw1", 16, "5060", "10.0.1.10", "5060", "UDP");
    let gateway = Gateway::start(&lab, &configuration);
    for (caller, from, callee, at, address) in [
        ("app", "10.0.1.20", "server", "198.51.100.20", "198.51.100.20"),
        ("web", "10.0.1.10", "server", "198.51.100.20", "198.51.100.20"),
        ("client", "198.51.100.10", "web", "10.0.1.10", "203.0.113.16"),
        ("app", "10.0.1.20", "web", "10.0.1.10", "203.0.113.16"),
    ] {
        // From the port of another program, where there is one on the host.
        let answering = lab.spawn(callee, &format!("exec sipp -sn uas -nostdin -i {at} -p 5060 -m 10"));
        let listens =
            "for n in {1..100}; do ss -Hlun 'sport = :5060' | grep -q . && exit; sleep 0.1; done; false";
        lab.run(callee, listens);
        let report = lab.run(
            caller,
            &format!(
                "sipp -sn uac {address}:5060 -nostdin -i {from} -p 5080 -m 10 -r 20 -d 300 -timeout 20s"
            ),
        );
        assert!(!report.contains("Aborted"), "{report}");
        answering.finish(10).unwrap_or_else(|error| panic!("{caller} calls {callee}: {error}"));
    }
    gateway.finish();
}

/// A client goes on from another port in the middle of a connection (RFC 9000 §9).
fn quic(back_end: &str) {
    let python = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../quic/bin/python");
    let is_there = Command::new(&python).args(["-c", "import aioquic"]).output();
    if !is_there.is_ok_and(|output| output.status.success()) {
        println!("skipped: {} with aioquic is not there; scripts/test makes it", python.display());
        return;
    }
    let lab = Lab::new();
    lab.run(
        "gw",
        "openssl req -x509 -newkey rsa:2048 -nodes -keyout key -out certificate -subj /CN=test -days 1",
    );
    let script = common::repository().join("tests/namespaces/quic.py");
    let quic = format!("{} {}", python.display(), script.display());
    let servers =
        [("server", "198.51.100.20"), ("web", "10.0.1.10"), ("app", "10.0.1.20")].map(|(host, at)| {
            let server = lab.spawn(host, &format!("exec {quic} serve {at} 4433 certificate key"));
            server.says("ready");
            server
        });
    let configuration =
        base(back_end, &socket(&lab)) + &dnat("quic", "gw1", 16, "4433", "10.0.1.10", "4433", "UDP");
    let gateway = Gateway::start(&lab, &configuration);
    for (host, address, server) in [
        ("web", "198.51.100.20", &servers[0]),
        ("client", "203.0.113.16", &servers[1]),
        ("client", "203.0.113.17", &servers[2]),
        ("app", "203.0.113.16", &servers[1]),
    ] {
        let before = server.output().matches("peer ").count();
        let report = lab.run(host, &format!("{quic} ask {address} 4433"));
        assert_eq!(report, "before True\nafter True\n", "{host} {address}");
        let peers = server.output().matches("peer ").count() - before;
        assert!(peers >= 2, "the server saw no other port of {host}: {}", server.output());
    }
    drop(servers);
    gateway.finish();
}

/// A tunnel of WireGuard's, whose control socket lies in a directory of its own.
struct Tunnel {
    process: Background,
    host: &'static str,
}

impl Tunnel {
    fn new(lab: &Lab, host: &'static str, address: &str, port: u16) -> Self {
        let command = "mount -t tmpfs none /run && exec env WG_PROCESS_FOREGROUND=1 LOG_LEVEL=error wireguard-go -f wg0";
        let tunnel = Self { process: lab.spawn(host, command), host };
        assert!(wait_for(100, || tunnel.attempt(lab, "wg show wg0").is_ok()), "{}", tunnel.process.output());
        lab.run(host, &format!("wg genkey >{host}.key && wg pubkey <{host}.key >{host}.pub"));
        let key = lab.directory().join(format!("{host}.key"));
        tunnel.run(lab, &format!("wg set wg0 private-key {} listen-port {port}", key.display()));
        lab.run(host, &format!("ip address add {address}/24 dev wg0 && ip link set wg0 up"));
        tunnel
    }

    fn attempt(&self, lab: &Lab, command: &str) -> Result<String, String> {
        lab.attempt(self.host, &format!("nsenter --target {} --mount {command}", self.process.process()))
    }

    fn run(&self, lab: &Lab, command: &str) -> String {
        self.attempt(lab, command).unwrap_or_else(|error| panic!("{error}"))
    }

    fn meet(&self, lab: &Lab, other: &Self, arguments: &str) {
        let key = fs::read_to_string(lab.directory().join(format!("{}.pub", other.host))).expect("a key");
        self.run(lab, &format!("wg set wg0 peer {} allowed-ips 192.168.77.0/24 {arguments}", key.trim()));
    }
}

/// A tunnel that a private host begins, and one to it by a DNAT entry; the private end goes on from another port.
fn wireguard(back_end: &str) {
    if !Path::new("/dev/net/tun").exists() {
        println!("skipped: without /dev/net/tun there are no tunnels");
        return;
    }
    let lab = Lab::new();
    let configuration =
        base(back_end, &socket(&lab)) + &dnat("tunnel", "gw1", 16, "51820", "10.0.1.10", "51820", "UDP");
    let gateway = Gateway::start(&lab, &configuration);
    let ping = |host: &str, address: &str| {
        // The ends of the tunnel are processes, which on a busy machine lose packets themselves: they have three tries.
        let mut report = String::new();
        let all_came = (0..3).any(|_| {
            report = lab.run(host, &format!("ping -q -c 20 -i 0.01 -W 2 -s 1300 {address}"));
            report.contains("20 received, 0% packet loss")
        });
        assert!(all_came, "{host}: {report}");
    };
    for begins in ["web", "server"] {
        let web = Tunnel::new(&lab, "web", "192.168.77.2", 51_820);
        let server = Tunnel::new(&lab, "server", "192.168.77.1", 51_820);
        if begins == "web" {
            web.meet(&lab, &server, "endpoint 198.51.100.20:51820");
            server.meet(&lab, &web, "");
            ping("web", "192.168.77.1");
            ping("server", "192.168.77.2");
        } else {
            server.meet(&lab, &web, "endpoint 203.0.113.16:51820");
            web.meet(&lab, &server, "");
            ping("server", "192.168.77.2");
        }
        // Now it leaves by the SNAT entry, from a port that the peer has not seen, and takes the tunnel along.
        let endpoint = || server.run(&lab, "wg show wg0 endpoints");
        let before = endpoint();
        web.run(&lab, "wg set wg0 listen-port 40001");
        ping("web", "192.168.77.1");
        ping("server", "192.168.77.2");
        assert_ne!(endpoint(), before);
    }
    gateway.finish();
}

/// Many short requests, many at once.
fn many_requests(back_end: &str) {
    let lab = Lab::new();
    lab.web_server("web", &[8080]);
    lab.web_server("server", &[80]);
    let gateway = Gateway::start(&lab, &base(back_end, &socket(&lab)));
    for (host, address) in [("client", "203.0.113.16"), ("web", "198.51.100.20")] {
        let report = lab.run(host, &format!("wrk -t 2 -c 64 -d 2s --timeout 10s http://{address}/"));
        assert!(!report.contains("Socket errors") && !report.contains("Non-2xx"), "{host}: {report}");
        let requests = report.split(" requests in").next().and_then(|text| text.split_whitespace().last());
        assert!(requests.and_then(|count| count.parse().ok()) > Some(200_u32), "{host}: {report}");
    }
    gateway.finish();
}

/// What scanners see: what an entry leads to, and nothing else.
fn scanners(back_end: &str) {
    let lab = Lab::new();
    lab.web_server("web", &[8080]);
    lab.web_server("server", &[80]);
    let gateway = Gateway::start(&lab, &base(back_end, &socket(&lab)));
    let scan = |host: &str, arguments: &str| {
        lab.run(host, &format!("nmap -n -Pn -oG - --max-retries 2 --host-timeout 25s {arguments}"))
    };
    // Segments that open a connection, whole connections, segments in the middle of one; datagrams that nobody takes.
    for (host, arguments, expected) in [
        ("client", "-sS -p 80,81,8000 203.0.113.16", ["80/open/tcp", "81/filtered/tcp", "8000/closed/tcp"]),
        ("client", "-sT -p 80,81,8000 203.0.113.16", ["80/open/tcp", "81/filtered/tcp", "8000/closed/tcp"]),
        ("client", "-sA -p 80,81,8000 203.0.113.16", ["80/unfiltered", "81/filtered/tcp", "8000/unfiltered"]),
        ("web", "-sS -p 80,81,82 198.51.100.20", ["80/open/tcp", "81/closed/tcp", "82/closed/tcp"]),
        ("web", "-sT -p 80,81,82 198.51.100.20", ["80/open/tcp", "81/closed/tcp", "82/closed/tcp"]),
        ("web", "-sU -p 67,68,69 198.51.100.20", ["67/closed/udp", "68/closed/udp", "69/closed/udp"]),
        ("client", "-sU -p 67,68,69 203.0.113.17", ["67/closed/udp", "68/closed/udp", "69/closed/udp"]),
    ] {
        let report = scan(host, arguments);
        for words in expected {
            assert!(report.contains(words), "{host}: {arguments}: \"{words}\" is missing in\n{report}");
        }
    }
    // Single segments, pings in parts, and odd flags; parts that split the header of TCP are not let through (RFC 1858).
    let hping =
        |arguments: &str| lab.attempt("client", &format!("hping3 -q -c 5 -i u20000 {arguments} 2>&1"));
    for arguments in ["-S -p 80 203.0.113.16", "-1 203.0.113.17", "-1 -d 1000 -f -m 128 203.0.113.17"] {
        let report = hping(arguments).unwrap_or_else(|error| panic!("{error}"));
        assert!(report.contains("5 packets transmitted, 5 packets received"), "{arguments}: {report}");
    }
    // For DPDK's driver of kernel devices the kernel puts the parts together, and natgate sees whole segments.
    if !matches!(back_end, "dpdk" | "capsule") {
        let before = gateway.total("/drops/fragment-tiny");
        let split = hping("-S -p 80 -d 64 -f 203.0.113.16");
        assert!(matches!(&split, Err(report) if report.contains(" 0 packets received")), "{split:?}");
        assert!(gateway.total("/drops/fragment-tiny") > before);
    }
    let _ = hping("-F -P -U -p 80 203.0.113.16");
    lab.page("client", "http://203.0.113.16/", &["of web"]);
    gateway.finish();
}
