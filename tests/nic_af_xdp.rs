//! AF_XDP ports on veth pairs, with kernels at their far ends. Each test makes namespaces of its own and runs itself
//! again inside.

mod common;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use common::{Transcript, need_root};
use natgate::base::{Checksum, PortIndex};
use natgate::nic::af_xdp::{self, Attach, Claims, Options, Owner, Prefix, Share, Umem, ZeroCopy};
use natgate::nic::{Burst, Cache, Frame, Mac, Pool, Port};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Set for the process that runs inside the namespaces.
const INSIDE: &str = "NG_XDP_INSIDE";
/// The far ends' namespace.
const FAR: &str = "NG_XDP_FAR";
/// Steps of a millisecond after which a wait has failed.
const PATIENCE: u32 = 5000;

// ---- harness -------------------------------------------------------------------------------------------------------

struct Namespace(String);

impl Namespace {
    fn new(name: String) -> Self {
        run(&format!("ip netns add {name}"));
        let namespace = Self(name);
        namespace.run("sysctl -qw net.ipv6.conf.default.disable_ipv6=1");
        namespace
    }

    fn run(&self, command: &str) {
        run(&format!("ip netns exec {} {command}", self.0));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn shell(command: &str) -> Command {
    let mut words = command.split_whitespace();
    let mut process = Command::new(words.next().unwrap());
    process.args(words);
    process
}

fn run(command: &str) {
    let output = shell(command).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

fn says(command: &str) -> String {
    String::from_utf8(shell(command).output().unwrap().stdout).unwrap()
}

/// Runs `body` in a namespace that holds the near ends `a0` and `b0` of two veth pairs; `a1` and `b1` are in another.
/// `near` and `far` are commands run there first.
fn inside(test: &str, queues: u32, near: &[&str], far: &[&str], body: fn()) {
    if std::env::var(INSIDE).is_ok() {
        return body();
    }
    need_root!();
    let users = std::fs::read_to_string("/proc/self/uid_map").unwrap();
    if users.split_whitespace().nth(2) != Some("4294967295") {
        println!("skipped: XDP programs need root outside a user namespace");
        return;
    }
    let short: String = test.chars().filter(char::is_ascii_lowercase).take(12).collect();
    let id = format!("ng-xdp-{}-{short}", std::process::id());
    let (near_ns, far_ns) = (Namespace::new(format!("{id}-n")), Namespace::new(format!("{id}-f")));
    for pair in ["a", "b"] {
        near_ns.run(&format!(
            "ip link add {pair}0 numrxqueues {queues} numtxqueues {queues} type veth peer name {pair}1 \
             numrxqueues {queues} numtxqueues {queues} netns {}",
            far_ns.0
        ));
        near_ns.run(&format!("ip link set {pair}0 up"));
        far_ns.run(&format!("ip link set {pair}1 up"));
    }
    for (commands, namespace) in [(near, &near_ns), (far, &far_ns)] {
        for command in commands {
            namespace.run(command);
        }
    }
    let transcript = Transcript::new(test);
    let mut child = transcript.of(&mut again(&near_ns.0, test, &far_ns.0)).spawn().unwrap();
    let mut steps = 0;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if steps == 60_000 {
            child.kill().unwrap();
        }
        steps += 1;
        sleep(Duration::from_millis(1));
    };
    assert!(status.success(), "{test} failed inside its namespace");
}

fn again(namespace: &str, test: &str, far: &str) -> Command {
    let exe = std::env::current_exe().unwrap();
    let mut command = Command::new("ip");
    command
        .args(["netns", "exec", namespace, exe.to_str().unwrap(), "--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .env(FAR, far);
    command
}

/// Starts a command at the far ends.
fn far(command: &str) -> Child {
    let namespace = std::env::var(FAR).unwrap();
    shell(&format!("ip netns exec {namespace} {command}")).stdout(Stdio::piped()).spawn().unwrap()
}

/// Steps until `done` says so.
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..PATIENCE {
        if done() {
            return;
        }
        sleep(Duration::from_millis(1));
    }
    panic!("{what}: not within {PATIENCE} ms");
}

fn whole(pool: &Pool, cache: &Cache) -> bool {
    pool.spare_slots() + cache.len() == pool.slots()
}

fn small() -> Options {
    Options { ring: 256, ..Options::default() }
}

fn close(port: Port, cache: &mut Cache) {
    let mut port = port;
    for queue in &mut port.queues {
        queue.close(cache).unwrap();
    }
}

struct Rig {
    pool: Arc<Pool>,
    umem: Arc<Umem>,
    cache: Cache,
}

impl Rig {
    fn new() -> Self {
        let pool = Pool::new(4096, 2048).unwrap();
        Self { umem: Umem::new(&pool), cache: pool.cache(), pool }
    }

    fn open(&self, device: &str, index: u16, queues: usize, options: &Options) -> Port {
        let port = af_xdp::open(device, PortIndex(index), queues, &self.umem, options).unwrap();
        println!("{}: {}", port.info.device, port.info.mode);
        port
    }

    fn receive(&mut self, port: &mut Port, queue: usize) -> Burst {
        let mut burst = Burst::new();
        let count = port.queues[queue].receive(&mut self.cache, &mut burst);
        assert_eq!(count, burst.len());
        burst
    }

    fn send(&mut self, port: &mut Port, bytes: &[u8]) {
        let mut frame = self.cache.take().unwrap();
        assert!(frame.fill(bytes));
        self.send_frame(port, frame);
    }

    fn send_frame(&mut self, port: &mut Port, frame: Frame) {
        let mut burst = Burst::new();
        burst.push(frame);
        assert_eq!(port.queues[0].transmit(&mut self.cache, &mut burst), 1);
    }

    /// Sends on what `from` received, in the slots in which it was received.
    fn forward(&mut self, from: &mut Port, to: &mut Port) -> usize {
        let mut burst = Burst::new();
        let count = from.queues[0].receive(&mut self.cache, &mut burst);
        assert_eq!(to.queues[0].transmit(&mut self.cache, &mut burst), count);
        count
    }

    /// Answers ARP and echo requests for any address, until the ping ends; `true` if it succeeded.
    fn answer(&mut self, port: &mut Port, mut ping: Child) -> bool {
        let mac = port.info.mac;
        for _ in 0..PATIENCE {
            for queue in 0..port.queues.len() {
                for mut frame in self.receive(port, queue) {
                    if respond(frame.bytes_mut(), mac) {
                        self.send_frame(port, frame);
                    } else {
                        self.cache.give(frame);
                    }
                }
            }
            if let Some(status) = ping.try_wait().unwrap() {
                return status.success();
            }
            sleep(Duration::from_millis(1));
        }
        ping.kill().unwrap();
        false
    }

    fn close(mut self, ports: impl IntoIterator<Item = Port>) {
        for port in ports {
            close(port, &mut self.cache);
        }
        assert!(whole(&self.pool, &self.cache), "slots are missing");
    }
}

/// Turns an ARP or echo request round. `false` if it is neither.
fn respond(frame: &mut [u8], mac: Mac) -> bool {
    let (ethernet, rest) = frame.split_at_mut(14);
    let is_arp = ethernet[12..14] == [8, 6] && rest[6..8] == [0, 1];
    let is_echo = ethernet[12..14] == [8, 0] && rest[9] == 1 && rest[20] == 8;
    if !is_arp && !is_echo {
        return false;
    }
    let sender: Mac = ethernet[6..12].try_into().unwrap();
    ethernet[..6].copy_from_slice(&sender);
    ethernet[6..12].copy_from_slice(&mac);
    if is_arp {
        let (asker, asked) =
            (<[u8; 10]>::try_from(&rest[8..18]).unwrap(), <[u8; 4]>::try_from(&rest[24..28]).unwrap());
        rest[7] = 2;
        rest[8..14].copy_from_slice(&mac);
        rest[14..18].copy_from_slice(&asked);
        rest[18..28].copy_from_slice(&asker);
    } else {
        let (source, destination) =
            (<[u8; 4]>::try_from(&rest[12..16]).unwrap(), <[u8; 4]>::try_from(&rest[16..20]).unwrap());
        rest[12..16].copy_from_slice(&destination);
        rest[16..20].copy_from_slice(&source);
        // Type 8 becomes 0: the ones' complement sum grows by 0x0800.
        rest[20] = 0;
        let sum = u32::from(u16::from_be_bytes([rest[22], rest[23]])) + 0x0800;
        let sum = (sum & 0xffff) + (sum >> 16);
        rest[22..24].copy_from_slice(&(sum as u16).to_be_bytes());
    }
    true
}

/// An untagged or tagged IPv4 frame without payload.
fn packet(destination: Mac, vlan: Option<u16>, to: Ipv4Addr) -> Vec<u8> {
    let mut bytes = destination.to_vec();
    bytes.extend([2, 0, 0, 0, 0, 9]);
    if let Some(vlan) = vlan {
        bytes.extend([0x81, 0]);
        bytes.extend(vlan.to_be_bytes());
    }
    bytes.extend([8, 0, 0x45, 0, 0, 20, 0, 0, 0, 0, 64, 253, 0, 0, 192, 0, 2, 1]);
    bytes.extend(to.octets());
    bytes.resize(64, 0);
    bytes
}

// ---- tests ---------------------------------------------------------------------------------------------------------

#[test]
fn a_kernel_pings_through_the_port() {
    inside("a_kernel_pings_through_the_port", 1, &[], &["ip addr add 10.0.1.2/24 dev a1"], || {
        let mut rig = Rig::new();
        let mut port = rig.open("a0", 3, 1, &small());
        assert_eq!(port.info.mode, "af_xdp, native, copy (veth does no zero-copy), 1 queue");
        assert_eq!(port.info.mtu, 1500);
        assert!(rig.answer(&mut port, far("ping -c 5 -i 0.05 -W 1 10.0.1.9")));
        rig.close([port]);
    });
}

#[test]
fn generic_mode_carries_frames_too() {
    inside("generic_mode_carries_frames_too", 1, &[], &["ip addr add 10.0.1.2/24 dev a1"], || {
        let mut rig = Rig::new();
        let mut port = rig.open("a0", 0, 1, &Options { attach: Attach::Generic, ..small() });
        assert!(port.info.mode.starts_with("af_xdp, generic (as asked for), copy"), "{}", port.info.mode);
        assert!(rig.answer(&mut port, far("ping -c 5 -i 0.05 -W 1 10.0.1.9")));
        rig.close([port]);
    });
}

#[test]
fn frames_of_a_local_kernel_are_flagged_and_wake_a_sleeper() {
    let mac = "02:00:00:00:00:77";
    let neighbour = format!("ip neigh add 10.0.1.9 lladdr {mac} dev a1");
    let far_setup = ["ip addr add 10.0.1.2/24 dev a1", neighbour.as_str()];
    inside("frames_of_a_local_kernel_are_flagged_and_wake_a_sleeper", 1, &[], &far_setup, || {
        let mut rig = Rig::new();
        let mut port = rig.open("a0", 3, 1, &small());
        let readable = |port: &Port, millis: i64| {
            let fd = port.queues[0].wait_fd().unwrap();
            let timeout = Timespec { tv_sec: 0, tv_nsec: millis * 1_000_000 };
            poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&timeout)).unwrap() == 1
        };
        assert!(!readable(&port, 0));
        let namespace = std::env::var(FAR).unwrap();
        let status = Command::new("ip")
            .args(["netns", "exec", &namespace, "bash", "-c", "echo -n hello > /dev/udp/10.0.1.9/7"])
            .status()
            .unwrap();
        assert!(status.success());
        assert!(readable(&port, 900), "nothing to read");
        let mut found = false;
        for frame in rig.receive(&mut port, 0) {
            if frame.bytes().ends_with(b"hello") {
                // The address is not the port's own: promiscuous mode let it in.
                assert_eq!(frame.bytes()[..6], [2, 0, 0, 0, 0, 0x77]);
                assert_eq!(frame.port, PortIndex(3));
                assert_eq!(frame.checksum, Checksum::MaybePartial);
                found = true;
            }
            rig.cache.give(frame);
        }
        assert!(found);
        rig.close([port]);
    });
}

#[test]
fn two_ports_forward_in_one_memory() {
    inside("two_ports_forward_in_one_memory", 1, &[], &["ip addr add 10.0.1.2/24 dev a1"], || {
        // The far end of `b` is a port too: what the kernel sends into `a` comes out there, and the answer goes back.
        let mut rig = Rig::new();
        let namespace = std::env::var(FAR).unwrap();
        run(&format!("ip netns exec {namespace} ip link set b1 netns {}", std::process::id()));
        run("ip link set b1 up");
        let mut a = rig.open("a0", 0, 1, &small());
        let mut b = rig.open("b0", 1, 1, &small());
        let mut end = rig.open("b1", 2, 1, &small());
        let mut ping = far("ping -c 20 -i 0.02 -W 1 10.0.1.9");
        let mut forwarded = 0;
        let mut success = None;
        for _ in 0..PATIENCE {
            for mut frame in rig.receive(&mut end, 0) {
                if respond(frame.bytes_mut(), end.info.mac) {
                    rig.send_frame(&mut end, frame);
                } else {
                    rig.cache.give(frame);
                }
            }
            forwarded += rig.forward(&mut a, &mut b) + rig.forward(&mut b, &mut a);
            success = ping.try_wait().unwrap();
            if success.is_some() {
                break;
            }
            sleep(Duration::from_millis(1));
        }
        assert!(success.is_some_and(|status| status.success()));
        assert!(forwarded >= 40, "{forwarded}");
        rig.close([a, b, end]);
    });
}

#[test]
fn bursts_larger_than_a_kick_leave_whole() {
    inside("bursts_larger_than_a_kick_leave_whole", 1, &[], &[], || {
        let mut rig = Rig::new();
        let namespace = std::env::var(FAR).unwrap();
        run(&format!("ip netns exec {namespace} ip link set a1 netns {}", std::process::id()));
        run("ip link set a1 up");
        let mut sender = rig.open("a0", 0, 1, &small());
        let mut receiver = rig.open("a1", 1, 1, &small());
        let bytes = packet([2, 0, 0, 0, 0, 1], None, Ipv4Addr::new(203, 0, 113, 1));
        let (mut sent, mut received) = (0_u16, 0);
        for _ in 0..20 {
            let mut burst = Burst::new();
            for _ in 0..200 {
                let mut frame = rig.cache.take().unwrap();
                assert!(frame.fill(&bytes));
                frame.bytes_mut()[62..].copy_from_slice(&sent.to_be_bytes());
                sent += 1;
                burst.push(frame);
            }
            assert_eq!(sender.queues[0].transmit(&mut rig.cache, &mut burst), 200);
            eventually("all frames of the burst", || {
                for frame in rig.receive(&mut receiver, 0) {
                    assert_eq!(u16::from_be_bytes([frame.bytes()[62], frame.bytes()[63]]), received, "order");
                    received += 1;
                    rig.cache.give(frame);
                }
                received == sent
            });
        }
        assert_eq!(sender.queues[0].counters().tx_errors, 0);
        assert_eq!(receiver.queues[0].counters().rx_missed, 0);
        // Frames that nobody fetches overflow the receive ring, and are counted, not lost silently.
        for _ in 0..3 {
            let mut burst = Burst::new();
            for _ in 0..200 {
                let mut frame = rig.cache.take().unwrap();
                assert!(frame.fill(&bytes));
                burst.push(frame);
            }
            sender.queues[0].transmit(&mut rig.cache, &mut burst);
            sleep(Duration::from_millis(20));
        }
        let (missed, refused) =
            (receiver.queues[0].counters().rx_missed, sender.queues[0].counters().tx_errors);
        assert_eq!(missed + refused, 600 - 256, "{missed} missed, {refused} refused");
        // Frames shorter than an Ethernet header are refused and their slots kept.
        rig.send(&mut sender, &[0; 13]);
        assert_eq!(sender.queues[0].counters().tx_errors, refused + 1);
        rig.close([sender, receiver]);
    });
}

#[test]
fn slots_may_be_used_again_once_sent() {
    inside("slots_may_be_used_again_once_sent", 1, &[], &[], || {
        let mut rig = Rig::new();
        let namespace = std::env::var(FAR).unwrap();
        run(&format!("ip netns exec {namespace} ip link set a1 netns {}", std::process::id()));
        run("ip link set a1 address 02:00:00:00:00:01");
        run("ip addr add 10.0.1.2/24 dev a1");
        run("ip link set a1 up");
        let mut port = rig.open("a0", 0, 1, &small());
        let socket = UdpSocket::bind("10.0.1.2:9").unwrap();
        // Datagrams wait in the kernel's socket while the slots that they were sent from carry others.
        for number in 0..32_u8 {
            let mut bytes = packet([2, 0, 0, 0, 0, 1], None, Ipv4Addr::new(10, 0, 1, 2));
            let payload = [number; 1000];
            bytes.truncate(34);
            bytes[26..30].copy_from_slice(&[10, 0, 1, 7]);
            bytes[16..18].copy_from_slice(&1028_u16.to_be_bytes());
            bytes[23] = 17;
            let sum: u32 =
                (14..34).step_by(2).map(|i| u32::from(u16::from_be_bytes([bytes[i], bytes[i + 1]]))).sum();
            let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
            bytes[24..26].copy_from_slice(&sum.to_be_bytes());
            bytes.extend([0, 9, 0, 9]);
            bytes.extend(1008_u16.to_be_bytes());
            bytes.extend([0, 0]);
            bytes.extend(payload);
            rig.send(&mut port, &bytes);
            sleep(Duration::from_millis(2));
            let mut burst = Burst::new();
            port.queues[0].transmit(&mut rig.cache, &mut burst);
        }
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        for number in 0..32_u8 {
            let mut payload = [0; 2000];
            assert_eq!(socket.recv(&mut payload).unwrap(), 1000);
            assert_eq!(payload[..1000], [number; 1000], "datagram {number}");
        }
        rig.close([port]);
    });
}

#[test]
fn a_device_that_goes_away_costs_no_slots() {
    inside("a_device_that_goes_away_costs_no_slots", 1, &[], &[], || {
        let mut rig = Rig::new();
        let mut a = rig.open("a0", 0, 1, &small());
        let b = rig.open("b0", 1, 1, &small());
        run("ip link del a0");
        let bytes = packet([2, 0, 0, 0, 0, 1], None, Ipv4Addr::new(203, 0, 113, 1));
        for _ in 0..3 {
            rig.send(&mut a, &bytes);
            assert!(rig.receive(&mut a, 0).is_empty());
        }
        // What shared its memory is not disturbed, and what is opened later finds the memory all the same.
        close(b, &mut rig.cache);
        let b = rig.open("b0", 1, 1, &small());
        rig.close([a, b]);
    });
}

#[test]
fn each_worker_has_a_queue() {
    let far_setup =
        ["ip addr add 10.0.1.2/24 dev a1", "ip neigh add 10.0.1.9 lladdr 02:00:00:00:00:77 dev a1"];
    inside("each_worker_has_a_queue", 2, &[], &far_setup, || {
        let mut rig = Rig::new();
        for (queues, hint) in [(1, "ethtool -L a0 rx 1 tx 1"), (3, "ethtool -L a0 rx 3 tx 3")] {
            let error =
                af_xdp::open("a0", PortIndex(0), queues, &rig.umem, &small()).unwrap_err().to_string();
            assert!(error.contains("has 2 receive and 2 transmit queues"), "{error}");
            assert!(error.contains(hint), "{error}");
        }
        let mut port = rig.open("a0", 0, 2, &small());
        assert!(port.info.mode.ends_with("2 queues"));
        let namespace = std::env::var(FAR).unwrap();
        let script = "for port in $(seq 1 64); do echo -n x > /dev/udp/10.0.1.9/$port; done";
        let mut sender =
            Command::new("ip").args(["netns", "exec", &namespace, "bash", "-c", script]).spawn().unwrap();
        let mut counts = [0, 0];
        eventually("64 datagrams on two queues", || {
            for (queue, count) in counts.iter_mut().enumerate() {
                for frame in rig.receive(&mut port, queue) {
                    *count += usize::from(frame.bytes()[23] == 17);
                    rig.cache.give(frame);
                }
            }
            counts[0] + counts[1] == 64
        });
        assert!(counts.iter().all(|&count| count > 0), "{counts:?}");
        assert!(sender.wait().unwrap().success());
        rig.close([port]);
    });
}

#[test]
fn the_kernel_keeps_its_addresses_on_a_shared_port() {
    let near = ["ip addr add 10.0.1.1/24 dev a0", "ip link set lo up"];
    let far_setup = ["ip addr add 10.0.1.2/24 dev a1", "ip route add 198.51.100.0/24 via 10.0.1.9"];
    inside("the_kernel_keeps_its_addresses_on_a_shared_port", 1, &near, &far_setup, || {
        let mut rig = Rig::new();
        let claims = Claims::new().unwrap();
        let eip = Prefix::host(Ipv4Addr::new(10, 0, 1, 9));
        claims.set(eip, Owner::Gateway).unwrap();
        let share = Share::Kernel(Arc::clone(&claims));
        let mut port = rig.open("a0", 0, 1, &Options { share, ..small() });
        assert!(port.info.mode.ends_with("shared with the kernel"));

        // Pings and TCP to the kernel: none of it reaches the socket.
        let kernel_answers = || {
            assert!(far("ping -c 3 -i 0.05 -W 1 10.0.1.1").wait().unwrap().success());
            let listener = TcpListener::bind("10.0.1.1:7000").unwrap();
            let namespace = std::env::var(FAR).unwrap();
            let script =
                "exec 3<>/dev/tcp/10.0.1.1/7000; echo ssh >&3; read answer <&3; test \"$answer\" = ok";
            let mut client = Command::new("ip")
                .args(["netns", "exec", &namespace, "timeout", "5", "bash", "-c", script])
                .spawn()
                .unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4];
            stream.read_exact(&mut request).unwrap();
            assert_eq!(&request, b"ssh\n");
            stream.write_all(b"ok\n").unwrap();
            assert!(client.wait().unwrap().success());
        };
        kernel_answers();
        assert_eq!(rig.receive(&mut port, 0).len(), 0);

        // The claimed address is the gateway's, ARP included.
        assert!(rig.answer(&mut port, far("ping -c 3 -i 0.05 -W 1 10.0.1.9")));
        // Other destinations are not, although the frames come to the same port.
        assert!(!rig.answer(&mut port, far("ping -c 1 -W 1 198.51.100.1")));
        // As on a VPC's port: everything is the gateway's but the kernel's own address.
        let all = Prefix { vlan: 0, address: Ipv4Addr::UNSPECIFIED, length: 0 };
        let own = Prefix::host(Ipv4Addr::new(10, 0, 1, 1));
        claims.replace([(all, Owner::Gateway), (own, Owner::Kernel)]).unwrap();
        assert!(rig.answer(&mut port, far("ping -c 3 -i 0.05 -W 1 198.51.100.1")));
        kernel_answers();
        // And taken back while running.
        assert!(claims.remove(all).unwrap());
        assert!(!claims.remove(eip).unwrap());
        assert!(!rig.answer(&mut port, far("ping -c 1 -W 1 198.51.100.1")));
        rig.close([port]);
    });
}

#[test]
fn claims_tell_vlans_apart() {
    inside("claims_tell_vlans_apart", 1, &[], &[], || {
        let mut rig = Rig::new();
        let namespace = std::env::var(FAR).unwrap();
        run(&format!("ip netns exec {namespace} ip link set a1 netns {}", std::process::id()));
        run("ip link set a1 up");
        let claims = Claims::new().unwrap();
        let vpc = Prefix { vlan: 5, address: Ipv4Addr::new(10, 0, 0, 0), length: 8 };
        claims.set(vpc, Owner::Gateway).unwrap();
        let mut sender = rig.open("a1", 0, 1, &small());
        let mut port = rig.open("a0", 1, 1, &Options { share: Share::Kernel(claims), ..small() });
        let inside = Ipv4Addr::new(10, 1, 2, 3);
        let mac = port.info.mac;
        let mut multicast = mac;
        multicast[0] |= 1;
        let mine = packet(mac, Some(0x6005), inside);
        for bytes in [
            packet(mac, None, inside),
            packet(mac, Some(6), inside),
            packet(mac, Some(5), Ipv4Addr::new(11, 0, 0, 1)),
            packet(multicast, Some(5), inside),
            mine[..30].to_vec(),
            mine.clone(),
        ] {
            rig.send(&mut sender, &bytes);
        }
        // Frames keep their order: when the last one is there, the others have been judged.
        let mut received = Vec::new();
        eventually("the frame of the VLAN", || {
            for frame in rig.receive(&mut port, 0) {
                received.push(frame.bytes().to_vec());
                rig.cache.give(frame);
            }
            received.last() == Some(&mine)
        });
        assert_eq!(received.len(), 1);
        rig.close([sender, port]);
    });
}

#[test]
fn a_closed_port_is_as_it_was_and_opens_again_at_once() {
    inside("a_closed_port_is_as_it_was_and_opens_again_at_once", 1, &[], &[], || {
        let before = says("ip -d link show dev a0");
        let offloads = says("ethtool -k a0");
        assert!(before.contains("promiscuity 0") && !before.contains("prog/xdp"), "{before}");
        let mut rig = Rig::new();
        for _ in 0..5 {
            let mut port = rig.open("a0", 0, 1, &small());
            let during = says("ip -d link show dev a0");
            assert!(during.contains("promiscuity 1") && during.contains("prog/xdp"), "{during}");
            assert!(says("ethtool -k a0").contains("rx-vlan-offload: off"));
            // Frames in all places that a slot can be in.
            let bytes = packet([2, 0, 0, 0, 0, 1], None, Ipv4Addr::new(203, 0, 113, 1));
            rig.send(&mut port, &bytes);
            assert!(!whole(&rig.pool, &rig.cache));
            close(port, &mut rig.cache);
            assert!(whole(&rig.pool, &rig.cache), "slots are missing");
            assert_eq!(says("ip -d link show dev a0"), before);
            assert_eq!(says("ethtool -k a0"), offloads);
        }
    });
}

#[test]
fn a_killed_process_leaves_nothing_on_the_port() {
    const VICTIM: &str = "NG_XDP_VICTIM";
    inside("a_killed_process_leaves_nothing_on_the_port", 1, &[], &[], || {
        let rig = Rig::new();
        if std::env::var(VICTIM).is_ok() {
            let _port = rig.open("a0", 0, 1, &small());
            sleep(Duration::from_secs(30));
            return;
        }
        let exe = std::env::current_exe().unwrap();
        let mut victim = Command::new(exe)
            .args(["--exact", "a_killed_process_leaves_nothing_on_the_port"])
            .env(VICTIM, "1")
            .spawn()
            .unwrap();
        eventually("the program is attached", || says("ip -d link show dev a0").contains("prog/xdp"));
        sleep(Duration::from_millis(100));
        let error = af_xdp::open("a0", PortIndex(0), 1, &rig.umem, &small()).unwrap_err().to_string();
        assert!(error.contains("another XDP program is attached to `a0`"), "{error}");
        victim.kill().unwrap();
        victim.wait().unwrap();
        eventually("the program has gone", || {
            let link = says("ip -d link show dev a0");
            !link.contains("prog/xdp") && link.contains("promiscuity 0")
        });
        let port = rig.open("a0", 0, 1, &small());
        rig.close([port]);
    });
}

#[test]
fn what_cannot_work_is_refused_with_the_reason() {
    inside("what_cannot_work_is_refused_with_the_reason", 1, &["ip link set b0 down"], &[], || {
        let refusal = |device: &str, pool: &Arc<Pool>, options: &Options| {
            let umem = Umem::new(pool);
            let error = af_xdp::open(device, PortIndex(0), 1, &umem, options).unwrap_err().to_string();
            assert_eq!(pool.spare_slots(), pool.slots());
            error
        };
        let pool = Pool::new(4096, 2048).unwrap();
        assert_eq!(refusal("ng-none", &pool, &small()), "there is no device `ng-none`");
        run("ip link set lo up");
        assert_eq!(
            refusal("lo", &pool, &small()),
            "`lo` has an MTU of 65536, but a slot of 2048 bytes holds 1774: `ip link set dev lo mtu 1774`, or larger \
             slots"
        );
        run("ip link set lo mtu 1500");
        assert_eq!(refusal("lo", &pool, &small()), "`lo` is not an Ethernet device");
        assert_eq!(refusal("b0", &pool, &small()), "`b0` is down: `ip link set dev b0 up`");
        run("ip link set a0 mtu 1775");
        let error = refusal("a0", &pool, &small());
        assert!(error.contains("an MTU of 1775") && error.contains("mtu 1774"), "{error}");
        run("ip link set a0 mtu 1774");
        let error = refusal("a0", &pool, &Options { zero_copy: ZeroCopy::Require, ..small() });
        assert_eq!(error, "veth does no zero-copy");
        let error = refusal("a0", &pool, &Options { ring: 4096, ..Options::default() });
        assert!(error.contains("the packet pool has 4096 slots"), "{error}");
        let error = refusal("a0", &pool, &Options { ring: 100, ..Options::default() });
        assert!(error.contains("a power of two, not 100"), "{error}");
        let error = refusal("a0", &Pool::new(256, 8192).unwrap(), &small());
        assert!(error.contains("2048 or 4096 bytes, not 8192"), "{error}");
    });
}
