//! AF_PACKET ports on veth pairs, with kernels or other ports at their far ends.

mod common;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use common::need_root;
use common::veth::{again, eventually, far, far_namespace, fetch, inside, run, wrapped};
use etherparse::{IpNumber, Ipv4Header, PacketBuilder, SlicedPacket, TransportSlice};
use natgate::base::owner::{owner_of_host, owner_of_port};
use natgate::base::{Checksum, PortIndex};
use natgate::nic::af_packet::{self, Options, Steering};
use natgate::nic::{Burst, Cache, Frame, Pool, Port, PortCounters};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

macro_rules! namespaces {
    ($test:ident, $body:expr) => {
        #[test]
        fn $test() {
            need_root!();
            inside("ng-pkt", stringify!($test), $body);
        }
    };
}

/// Ports, and what is needed to use them.
struct Rig {
    pool: Arc<Pool>,
    cache: Cache,
}

impl Rig {
    fn new(slots: usize) -> Self {
        let pool = Pool::new(slots, 2048).unwrap();
        Self { cache: pool.cache(), pool }
    }

    fn open(&self, device: &str, queues: usize, options: &Options) -> Port {
        let port = af_packet::open(device, PortIndex(7), queues, &self.pool, options).unwrap();
        println!("{}: {}", port.info.device, port.info.mode);
        port
    }

    fn receive(&mut self, port: &mut Port, queue: usize) -> Burst {
        let mut burst = Burst::new();
        let count = port.queues[queue].receive(&mut self.cache, &mut burst);
        assert_eq!(count, burst.len());
        burst
    }

    /// Frames that arrive at the first queue, until `enough`.
    fn frames(&mut self, port: &mut Port, mut enough: impl FnMut(&[Received]) -> bool) -> Vec<Received> {
        let mut frames = Vec::new();
        eventually("frames", || {
            for frame in self.receive(port, 0) {
                assert_eq!(frame.port, PortIndex(7));
                frames.push((frame.bytes().to_vec(), frame.checksum));
                self.cache.give(frame);
            }
            enough(&frames)
        });
        frames
    }

    fn send(&mut self, port: &mut Port, bytes: &[u8]) {
        let mut frame = self.cache.take().unwrap();
        assert!(frame.fill(bytes));
        let mut burst = Burst::new();
        burst.push(frame);
        assert_eq!(port.queues[0].transmit(&mut self.cache, &mut burst), 1);
    }

    fn close(mut self, ports: impl IntoIterator<Item = Port>) {
        for mut port in ports {
            for queue in &mut port.queues {
                queue.close(&mut self.cache).unwrap();
            }
        }
        assert_eq!(self.pool.spare_slots() + self.cache.len(), self.pool.slots(), "slots are missing");
    }
}

type Received = (Vec<u8>, Checksum);

fn small() -> Options {
    Options { ring: 256, ..Options::default() }
}

fn ip(host: u8) -> [u8; 4] {
    [10, 0, 0, host]
}

fn udp(source: [u8; 4], port: u16, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let mut bytes = Vec::new();
    builder.ipv4(source, [192, 0, 2, 1], 9).udp(4000, port).write(&mut bytes, payload).unwrap();
    bytes
}

fn tagged(bytes: &[u8], tags: &[[u8; 4]]) -> Vec<u8> {
    [&bytes[..12], tags.as_flattened(), &bytes[12..]].concat()
}

/// Computes the transport checksum by other code than the project's: the one in the frame, and the right one.
fn checksums(bytes: &[u8]) -> Option<(u16, u16)> {
    let parsed = SlicedPacket::from_ethernet(bytes).unwrap();
    let Some(etherparse::NetSlice::Ipv4(net)) = parsed.net else { return None };
    let header = net.header().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum());
    match parsed.transport? {
        TransportSlice::Tcp(tcp) => {
            Some((tcp.checksum(), tcp.to_header().calc_checksum_ipv4(&header, tcp.payload()).unwrap()))
        }
        TransportSlice::Udp(udp) => {
            Some((udp.checksum(), udp.to_header().calc_checksum_ipv4(&header, udp.payload()).unwrap()))
        }
        _ => None,
    }
}

/// The folded sum of the pseudo-header, which a kernel leaves in the checksum's place.
fn pseudo_header(bytes: &[u8]) -> u16 {
    let header = Ipv4Header::from_slice(&bytes[14..]).unwrap().0;
    let len = bytes.len() - 34;
    let mut sum = u32::from(header.protocol.0) + len as u32;
    for pair in bytes[26..34].chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn wait(mut child: Child) {
    eventually("the end of a process", || match child.try_wait().unwrap() {
        None => false,
        Some(status) => {
            assert!(status.success());
            true
        }
    });
}

namespaces!(frames_go_both_ways, |_| {
    fetch("a");
    let mut rig = Rig::new(1024);
    let (mut near, mut far) = (rig.open("a0", 1, &small()), rig.open("a1", 1, &small()));
    assert!(near.info.mode.starts_with("af_packet"));
    assert_eq!(near.info.mtu, 1500);
    let mac = run("cat /sys/class/net/a0/address");
    let own: Vec<String> = near.info.mac.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(own.join(":"), mac.trim());

    // Addressed to nobody: promiscuous mode lets them in. Order and bytes are kept, nobody hears himself.
    let sent: Vec<_> = (0..1000_u16).map(|i| udp(ip(1), i, &vec![i as u8; usize::from(i)])).collect();
    for (i, bytes) in sent.iter().enumerate() {
        rig.send(&mut near, bytes);
        if i % 100 == 99 {
            let part: Vec<_> = rig
                .frames(&mut far, |frames| frames.len() == 100)
                .into_iter()
                .map(|(bytes, checksum)| {
                    assert_eq!(checksum, Checksum::Unverified);
                    bytes
                })
                .collect();
            assert!(part == sent[i - 99..=i]);
        }
    }
    assert!(rig.receive(&mut near, 0).is_empty());
    rig.send(&mut far, &sent[5]);
    assert_eq!(rig.frames(&mut near, |frames| frames.len() == 1)[0].0, sent[5]);
    // The longest and the shortest frame, and those beyond.
    let longest = udp(ip(1), 1, &[7; 1472]);
    rig.send(&mut near, &longest);
    rig.send(&mut near, &udp(ip(1), 1, &[7; 1490]));
    rig.send(&mut near, &[0; 13]);
    assert_eq!(rig.frames(&mut far, |frames| frames.len() == 1)[0].0, longest);
    assert_eq!(near.queues[0].counters(), PortCounters { tx_errors: 2, ..PortCounters::default() });
    assert_eq!(far.queues[0].counters(), PortCounters::default());
    rig.close([near, far]);
});

namespaces!(a_sleeping_worker_is_woken, |_| {
    fetch("a");
    let mut rig = Rig::new(1024);
    let (mut near, far) = (rig.open("a0", 1, &small()), rig.open("a1", 1, &small()));
    let ready = |port: &Port, milliseconds: i64| {
        let fd = port.queues[0].wait_fd().unwrap();
        let time = Timespec { tv_sec: 0, tv_nsec: milliseconds * 1_000_000 };
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        poll(&mut fds, Some(&time)).unwrap() == 1
    };
    assert!(!ready(&far, 20));
    rig.send(&mut near, &udp(ip(1), 1, b"wake up"));
    assert!(ready(&far, 900));
    let mut far = far;
    rig.frames(&mut far, |frames| frames.len() == 1);
    assert!(!ready(&far, 20));
    rig.close([near, far]);
});

namespaces!(a_full_ring_misses_frames_and_counts_them, |_| {
    fetch("a");
    let mut rig = Rig::new(1024);
    let options = Options { ring: 64, ..Options::default() };
    let (mut near, mut far) = (rig.open("a0", 1, &small()), rig.open("a1", 1, &options));
    for i in 0..200 {
        rig.send(&mut near, &udp(ip(1), i, b"one of many"));
    }
    eventually("the missed frames", || far.queues[0].counters().rx_missed == 200 - 64);
    assert_eq!(rig.frames(&mut far, |frames| frames.len() == 64)[0].0, udp(ip(1), 0, b"one of many"));
    assert_eq!(far.queues[0].counters().rx_missed, 200 - 64);
    // Without packet buffers frames wait in the ring.
    rig.send(&mut near, &udp(ip(1), 1, b"waits"));
    let all: Vec<Frame> = std::iter::from_fn(|| rig.cache.take()).collect();
    eventually("the device", || {
        let mut burst = Burst::new();
        assert_eq!(far.queues[0].receive(&mut rig.cache, &mut burst), 0);
        far.queues[0].wait_fd().is_some()
    });
    for frame in all {
        rig.cache.give(frame);
    }
    rig.frames(&mut far, |frames| frames.len() == 1);
    rig.close([near, far]);
});

namespaces!(vlan_tags_are_put_back, |_| {
    fetch("a");
    let mut rig = Rig::new(1024);
    let (mut near, mut far) = (rig.open("a0", 1, &small()), rig.open("a1", 1, &small()));
    let plain = udp(ip(1), 1, &[1; 1472]);
    let frames = [
        tagged(&plain, &[[0x81, 0, 0x60, 5]]),
        tagged(&plain[..1400], &[[0x88, 0xa8, 0, 9]]),
        tagged(&plain[..1400], &[[0x88, 0xa8, 0, 9], [0x81, 0, 0, 5]]),
        tagged(&plain, &[[0x81, 0, 0, 0]]),
        plain,
    ];
    for frame in &frames {
        rig.send(&mut near, frame);
    }
    let received = rig.frames(&mut far, |received| received.len() == frames.len());
    assert!(received.into_iter().map(|(bytes, _)| bytes).eq(frames));
    rig.close([near, far]);
});

namespaces!(an_unfinished_checksum_is_told, |_| {
    let mut rig = Rig::new(1024);
    let mut port = rig.open("a0", 1, &small());
    run(&format!("ip -n {} neigh add 10.0.0.9 lladdr 02:00:00:00:00:09 dev a1", far_namespace("a")));
    let send =
        "echo -n datagram > /dev/udp/10.0.0.9/7; timeout 0.2 bash -c 'echo > /dev/tcp/10.0.0.9/7'; true";
    let unfinished = |rig: &mut Rig, port: &mut Port, protocol: IpNumber| {
        let frames = rig.frames(port, |frames| frames.iter().any(|(bytes, _)| bytes[23] == protocol.0));
        frames.into_iter().find(|(bytes, _)| bytes[23] == protocol.0).unwrap()
    };
    let sender = far("a", &["bash", "-c", send]);
    for protocol in [IpNumber::UDP, IpNumber::TCP] {
        let (bytes, checksum) = unfinished(&mut rig, &mut port, protocol);
        assert_eq!(checksum, Checksum::Partial);
        assert_eq!(checksums(&bytes).unwrap().0, pseudo_header(&bytes));
    }
    wait(sender);
    // With the offload turned off the kernel computes them itself.
    run(&format!("ip netns exec {} ethtool -K a1 tx off", far_namespace("a")));
    while !rig.receive(&mut port, 0).into_iter().map(|frame| rig.cache.give(frame)).count() == 0 {}
    let sender = far("a", &["bash", "-c", "echo -n datagram > /dev/udp/10.0.0.9/8"]);
    let frames = rig.frames(&mut port, |frames| frames.iter().any(|(bytes, _)| bytes[37] == 8));
    let (bytes, checksum) = frames.into_iter().find(|(bytes, _)| bytes[37] == 8).unwrap();
    assert_eq!(checksum, Checksum::Unverified);
    let (have, right) = checksums(&bytes).unwrap();
    assert_eq!(have, right);
    wait(sender);
    rig.close([port]);
});

/// Bytes of a bulk transfer.
const BULK: usize = 30_000_000;

fn pattern(at: usize) -> u8 {
    (at * 31 + at / 65_521) as u8
}

namespaces!(super_frames_of_a_bulk_sender_are_split, |role| {
    if role == "serve" {
        let listener = TcpListener::bind("10.0.0.2:5000").unwrap();
        let mut stream = listener.accept().unwrap().0;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        assert!(bytes.iter().copied().eq((0..BULK).map(pattern)));
        stream.write_all(b"thanks").unwrap();
        return;
    }
    if role == "send" {
        let bytes: Vec<u8> = (0..BULK).map(pattern).collect();
        let address = "10.0.0.2:5000".parse().unwrap();
        let mut stream = None;
        eventually("a connection", || {
            stream = TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok();
            stream.is_some()
        });
        let mut stream = stream.unwrap();
        stream.write_all(&bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "thanks");
        return;
    }
    // The two ports are a cable between the far ends. What is sent must be complete, so what is unfinished is completed.
    let test = "super_frames_of_a_bulk_sender_are_split";
    let mut rig = Rig::new(256);
    let mut ports = [rig.open("a0", 1, &Options::default()), rig.open("b0", 1, &Options::default())];
    let mut children = vec![again("b", test, "serve"), again("a", test, "send")];
    let (mut segments, mut longest) = (0, 0);
    let mut forward = |rig: &mut Rig, ports: &mut [Port; 2], from: usize| {
        let mut burst = rig.receive(&mut ports[from], 0);
        for frame in &mut burst {
            let bytes = frame.bytes();
            longest = longest.max(bytes.len());
            let Some((have, right)) = checksums(bytes) else { continue };
            match frame.checksum {
                Checksum::Verified => {
                    segments += 1;
                    assert_eq!(have, right);
                }
                Checksum::Partial => {
                    assert_eq!(have, pseudo_header(bytes));
                    let field = if bytes[23] == 6 { 50 } else { 40 };
                    frame.bytes_mut()[field..field + 2].copy_from_slice(&right.to_be_bytes());
                }
                other => panic!("{other:?}"),
            }
        }
        while !burst.is_empty() {
            ports[1 - from].queues[0].transmit(&mut rig.cache, &mut burst);
        }
    };
    let mut turns = 0_u64;
    while !children.is_empty() {
        forward(&mut rig, &mut ports, 0);
        forward(&mut rig, &mut ports, 1);
        turns += 1;
        if turns.is_multiple_of(1024) {
            children.retain_mut(|child| match child.try_wait().unwrap() {
                None => true,
                Some(status) => {
                    assert!(status.success());
                    false
                }
            });
        }
    }
    println!("{segments} segments, {:?} {:?}", ports[0].queues[0].counters(), ports[1].queues[0].counters());
    assert_eq!(longest, 1514);
    assert!(segments > BULK / 1448 / 2, "{segments}");
    assert_eq!(ports[0].queues[0].counters().rx_errors, 0);
    rig.close(ports);
});

namespaces!(super_frames_of_udp_and_vlans_are_split, |_| {
    let mut rig = Rig::new(1024);
    let mut port = rig.open("a0", 1, &small());
    run(&format!("ip -n {} neigh add 10.0.0.9 lladdr 02:00:00:00:00:09 dev a1", far_namespace("a")));
    let script = "import socket\n\
                  s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
                  s.setsockopt(17, 103, 1000)\n\
                  s.sendto(bytes(i % 251 for i in range(20500)), ('10.0.0.9', 7))\n\
                  s.sendto(bytes(i % 251 for i in range(1500)), ('10.0.0.9', 8))";
    let sender = far("a", &["python3", "-c", script]);
    let is_datagram = |bytes: &[u8], port| bytes[23] == 17 && bytes[37] == port;
    let mut frames =
        rig.frames(&mut port, |all| all.iter().filter(|(bytes, _)| is_datagram(bytes, 8)).count() == 2);
    wait(sender);
    frames.retain(|(bytes, _)| is_datagram(bytes, 7) || is_datagram(bytes, 8));
    assert_eq!(frames.len(), 21 + 2);
    let mut payload = Vec::new();
    for (bytes, checksum) in &frames {
        assert_eq!(*checksum, Checksum::Verified);
        let (have, right) = checksums(bytes).unwrap();
        assert_eq!(have, right);
        payload.extend_from_slice(&bytes[42..]);
        assert!(bytes.len() == 1042 || bytes.len() == 542);
    }
    assert!((0..20500).chain(0..1500).map(|i| (i % 251) as u8).eq(payload));
    assert_eq!(port.queues[0].counters(), PortCounters::default());
    rig.close([port]);
});

/// Opens `a0` with several queues, sends frames to it and checks which queue each came to.
fn steer(queues: usize, steering: Steering, frames: &[(Vec<u8>, u16)]) {
    let mut rig = Rig::new(4096);
    let mut sender = rig.open("a1", 1, &Options::default());
    let mut port = rig.open("a0", queues, &Options { steering, ..Options::default() });
    assert!(port.info.mode.contains(&format!("{queues} queues steered by")), "{}", port.info.mode);
    for (frame, _) in frames {
        rig.send(&mut sender, frame);
    }
    let mut received = vec![Vec::new(); queues];
    eventually("all frames", || {
        for (queue, received) in received.iter_mut().enumerate() {
            for frame in rig.receive(&mut port, queue) {
                received.push(frame.bytes().to_vec());
                rig.cache.give(frame);
            }
        }
        received.iter().map(Vec::len).sum::<usize>() >= frames.len()
    });
    for (queue, received) in received.into_iter().enumerate() {
        let expected =
            frames.iter().filter(|(_, owner)| usize::from(*owner) == queue).map(|(bytes, _)| bytes);
        assert!(received.iter().eq(expected), "queue {queue} of {queues}");
        assert!(!received.is_empty());
    }
    rig.close([sender, port]);
}

namespaces!(a_packet_comes_to_the_queue_of_its_owner, |_| {
    fetch("a");
    let mut arp = vec![0xff; 12];
    arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    arp.resize(60, 7);
    for queues in [2, 3] {
        let owner = |host: [u8; 4]| owner_of_host(u32::from(Ipv4Addr::from(host)), queues);
        let mut frames = Vec::new();
        for host in (0..200_u8).map(|i| [10, 1, i, i.wrapping_mul(3)]) {
            frames.push((udp(host, 53, b"question"), owner(host)));
            frames.push((tagged(&udp(host, 53, b"question"), &[[0x81, 0, 0, 5]]), owner(host)));
        }
        frames.push((arp.clone(), 0));
        frames.push((tagged(&arp, &[[0x81, 0, 0, 5]]), 0));
        steer(queues.into(), Steering::InsideSource, &frames);

        let mut frames = Vec::new();
        for port in (0..3000).step_by(7) {
            frames.push((udp(ip(9), port, b"answer"), owner_of_port(port, queues)));
            frames.push((
                tagged(&udp(ip(9), port, b"answer"), &[[0x81, 0, 0, 5]]),
                owner_of_port(port, queues),
            ));
            let builder = || PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(ip(9), ip(8), 9);
            let mut bytes = Vec::new();
            builder().tcp(443, port, 1, 1).write(&mut bytes, b"answer").unwrap();
            frames.push((bytes, owner_of_port(port, queues)));
            let mut bytes = Vec::new();
            builder().icmpv4_echo_reply(port, 1).write(&mut bytes, b"answer").unwrap();
            frames.push((bytes, owner_of_port(port, queues)));
            let mut fragment = udp(ip(9), port, b"answer");
            fragment[20] = 0x20;
            frames.push((fragment, 0));
        }
        frames.push((arp.clone(), 0));
        steer(queues.into(), Steering::OutsidePort, &frames);
    }
});

namespaces!(the_flow_hash_spreads_and_every_frame_comes_once, |_| {
    fetch("a");
    let mut rig = Rig::new(4096);
    let mut sender = rig.open("a1", 1, &Options::default());
    // Two ports on one device: each is a group of its own and receives everything.
    let mut ports = [rig.open("a0", 2, &Options::default()), rig.open("a0", 2, &Options::default())];
    for port in 0..500 {
        rig.send(&mut sender, &udp(ip(1), port, b"flow"));
    }
    for port in &mut ports {
        let mut counts = [0, 0];
        eventually("500 frames", || {
            for (queue, count) in counts.iter_mut().enumerate() {
                for frame in rig.receive(port, queue) {
                    *count += 1;
                    rig.cache.give(frame);
                }
            }
            counts[0] + counts[1] >= 500
        });
        assert!(counts[0] + counts[1] == 500 && counts[0] > 100 && counts[1] > 100, "{counts:?}");
    }
    let [first, second] = ports;
    rig.close([sender, first, second]);
});

namespaces!(a_closed_port_is_as_it_was, |_| {
    let state = || (run("ethtool -k a0"), run("ip -d link show dev a0"));
    run("ethtool -K a0 gro on");
    let before = state();
    assert!(before.0.contains("generic-receive-offload: on") && before.1.contains("promiscuity 0"));
    for _ in 0..3 {
        let rig = Rig::new(1024);
        let port = rig.open("a0", 2, &small());
        let during = state();
        assert!(during.0.contains("generic-receive-offload: off"), "{}", during.0);
        assert!(during.1.contains("promiscuity 1"), "{}", during.1);
        rig.close([port]);
        assert_eq!(state(), before);
    }
    run("ethtool -K a0 gro off");
    let before = state();
    let rig = Rig::new(1024);
    let port = rig.open("a0", 1, &small());
    rig.close([port]);
    assert_eq!(state(), before);
});

namespaces!(a_device_may_go_down_and_up_again, |_| {
    fetch("a");
    let mut rig = Rig::new(1024);
    let (mut near, mut far) = (rig.open("a0", 1, &small()), rig.open("a1", 2, &small()));
    let frame = udp(ip(1), 1, b"before and after");
    run("ip link set a0 down");
    for _ in 0..10 {
        rig.send(&mut near, &frame);
    }
    assert_eq!(near.queues[0].counters().tx_errors, 10);
    run("ip link set a1 down");
    run("ip link set a1 up");
    run("ip link set a0 up");
    // A poll error that nobody takes would keep a worker awake for ever.
    far.queues[0].counters();
    let fd = far.queues[0].wait_fd().unwrap();
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    assert_eq!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 1 })).unwrap(), 0);
    for i in 0..50 {
        rig.send(&mut near, &udp(ip(1), i, b"before and after"));
    }
    let mut count = 0;
    eventually("frames after the pause", || {
        for queue in 0..2 {
            for received in rig.receive(&mut far, queue) {
                count += usize::from(received.bytes().ends_with(b"after"));
                rig.cache.give(received);
            }
        }
        count == 50
    });
    rig.close([near, far]);
});

namespaces!(jumbo_frames_are_counted_or_received, |_| {
    fetch("a");
    for device in ["a0", "a1"] {
        run(&format!("ip link set {device} mtu 9000"));
    }
    let large = Rig { pool: Pool::new(64, 16384).unwrap(), cache: Pool::new(64, 16384).unwrap().cache() };
    let mut large = Rig { cache: large.pool.cache(), ..large };
    let mut rig = Rig::new(1024);
    let mut sender = large.open("a1", 1, &small());
    let mut port = rig.open("a0", 1, &small());
    assert_eq!((sender.info.mtu, port.info.mtu), (9000, 2048 - 256 - 18));
    let mut receiver = large.open("a0", 1, &small());
    let (jumbo, most, after) =
        (udp(ip(1), 1, &[7; 8000]), udp(ip(1), 1, &[7; 1774 - 28]), udp(ip(1), 1, b"after"));
    for frame in [&jumbo, &most, &after] {
        large.send(&mut sender, frame);
    }
    let bytes = |frames: Vec<Received>| frames.into_iter().map(|(bytes, _)| bytes).collect::<Vec<_>>();
    let received = bytes(rig.frames(&mut port, |frames| frames.len() == 2));
    assert!(received == [most.clone(), after.clone()]);
    assert_eq!(port.queues[0].counters(), PortCounters { rx_errors: 1, ..PortCounters::default() });
    let received = bytes(large.frames(&mut receiver, |frames| frames.len() == 3));
    assert!(received == [jumbo, most, after]);
    rig.close([port]);
    large.close([sender, receiver]);
});

namespaces!(what_cannot_work_is_refused_with_the_reason, |role| {
    let test = "what_cannot_work_is_refused_with_the_reason";
    let refusal = |device: &str, queues: usize, options: &Options| {
        let pool = Pool::new(64, 2048).unwrap();
        af_packet::open(device, PortIndex(0), queues, &pool, options).unwrap_err().to_string()
    };
    if role == "unprivileged" {
        let error = refusal("a0", 1, &small());
        assert!(error.contains("`a0` are not permitted") && error.contains("CAP_NET_RAW"), "{error}");
        return;
    }
    assert_eq!(refusal("ng-none", 1, &small()), "there is no device `ng-none`");
    run("ip link set lo up");
    assert_eq!(refusal("lo", 1, &small()), "`lo` is not an Ethernet device");
    run("ip link set b0 down");
    assert_eq!(refusal("b0", 1, &small()), "`b0` is down: `ip link set dev b0 up`");
    let error = refusal("a0", 1, &Options { ring: 100, ..small() });
    assert_eq!(error, "a ring has 64 to 65536 slots, a power of two, not 100");
    assert_eq!(refusal("a0", 0, &small()), "a port cannot have 0 queues");
    wrapped(&["setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw"], test, "unprivileged");
});
