//! The back end capsule, with virtual devices and without huge pages: rings and the empty device in this process, captures in
//! and out through the real binary, and what is said when something cannot be. Real clients are in `namespaces`.

mod common;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

use common::devices::{
    self, Gateway, NATGATE, NOT_TO_BE_STARTED, assert_whole, configuration, directory, refusal,
};
use natgate::base::PortIndex;
use natgate::nic::crew::Work;
use natgate::nic::dpdk::capsule::Capsule;
use natgate::nic::dpdk::{Dpdk, Hugepages, Options};
use natgate::nic::{Burst, Cache, Frame, Queue};

const SLOTS: usize = 4096;

/// Cores that this process may run on: two if there are two.
fn cores() -> Vec<usize> {
    let all = core_affinity::get_core_ids().expect("the cores of this machine");
    all.iter().map(|core| core.id).take(2).collect()
}

/// A worker's queues of a ring, of a source and of a sink.
type Queues = [Box<dyn Queue>; 3];

/// What a worker does with its queues on a core of capsule's.
fn work([ring, source, sink]: &mut Queues, cache: &mut Cache) {
    let mut burst = Burst::new();
    assert_eq!(ring.receive(cache, &mut burst), 0);
    // A ring gives back the very buffers that were sent, in order, with what was in them, wherever it starts.
    let mut starts = Vec::new();
    for length in 60..60 + 200_usize {
        let mut frame = cache.take().expect("a free buffer");
        assert!(frame.fill(&(0..length).map(|at| at as u8).collect::<Vec<_>>()));
        let (head, len, cut) = (frame.head(), frame.len(), length % 3);
        frame.set_bounds(head + cut, len - cut);
        starts.push(frame.slot_bytes().as_ptr());
        burst.push(frame);
    }
    assert_eq!(ring.transmit(cache, &mut burst), 200);
    assert!(burst.is_empty());
    assert_eq!(ring.receive(cache, &mut burst), 200);
    for (at, (frame, start)) in burst.drain(..).zip(starts).enumerate() {
        let length = 60 + at;
        let cut = length % 3;
        assert_eq!(frame.slot_bytes().as_ptr(), start, "it was copied");
        assert_eq!((frame.port, frame.len()), (PortIndex(0), length - cut));
        assert!(frame.bytes().iter().enumerate().all(|(at, byte)| *byte == (at + cut) as u8));
        cache.give(frame);
    }
    // From one device to another, and some frames dropped on the way.
    for turn in 0..200 {
        let received = source.receive(cache, &mut burst);
        assert_eq!((received, burst.first().map(Frame::len)), (256, Some(64)));
        assert!(burst.iter().all(|frame| frame.port == PortIndex(1)));
        if turn % 3 == 0 {
            burst.drain(..).for_each(|frame| cache.give(frame));
        }
        sink.transmit(cache, &mut burst);
        assert!(burst.is_empty());
    }
    // What a full ring does not take is freed, and counted.
    let mut given = 0;
    while ring.counters().tx_errors == 0 {
        assert!(given < SLOTS as u64, "a ring without an end");
        while !burst.is_full() {
            let mut frame = cache.take().expect("a free buffer");
            assert!(frame.fill(&[7; 60]));
            burst.push(frame);
        }
        given += ring.transmit(cache, &mut burst) as u64;
    }
    let (mut back, lost) = (0, ring.counters().tx_errors);
    while ring.receive(cache, &mut burst) > 0 {
        back += burst.len() as u64;
        // Those that stay in the ring come back when it is closed.
        if back + lost > given / 2 {
            burst.drain(..).for_each(|frame| cache.give(frame));
            break;
        }
        burst.drain(..).for_each(|frame| cache.give(frame));
    }
}

/// capsule is started once in a process, so one test has all that happens inside of this one.
#[test]
fn buffers_go_round_on_capsules_cores_and_come_back() {
    let options = Options { hugepages: Hugepages::Off, ..Options::default() };
    let devices = ["net_ring0", "net_null0,size=64", "net_null1,size=60,copy=1"];
    let error = Capsule::start(&options, &devices, &cores(), SLOTS, 4096).unwrap_err();
    assert!(error.to_string().contains("buffers of 2048 bytes"), "{error}");
    let mut capsule = Capsule::start(&options, &devices, &cores(), SLOTS, 2048).unwrap();
    let error = Dpdk::start(&options, &devices, 8, SLOTS, 2048).unwrap_err();
    assert!(error.to_string().contains("only once"), "{error}");
    let pool = capsule.pool().clone();
    assert_eq!((pool.slots(), pool.spare_slots()), (SLOTS, SLOTS));
    // Only capsule's own threads may take of its buffers.
    assert!(pool.cache().take().is_none());

    let mut of_workers: Vec<Vec<Box<dyn Queue>>> = cores().iter().map(|_| Vec::new()).collect();
    for (index, device) in devices.iter().enumerate() {
        let port = capsule.open(device, PortIndex(index as u16)).unwrap();
        assert!(port.info.mode.contains("by capsule"), "{}", port.info.mode);
        for (worker, queue) in of_workers.iter_mut().zip(port.queues) {
            worker.push(queue);
        }
    }
    let error = capsule.open(devices[0], PortIndex(0)).unwrap_err();
    assert!(error.to_string().contains("capsule was started without net_ring0"), "{error}");

    let (done, ended) = channel();
    let work = of_workers.into_iter().map(|queues| {
        let (done, cache) = (done.clone(), pool.cache());
        let mut queues: Option<(Queues, Cache)> = queues.try_into().ok().map(|queues| (queues, cache));
        let work: Work = Box::new(move || {
            if let Some((mut queues, mut cache)) = queues.take() {
                let panicked =
                    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&mut queues, &mut cache)));
                done.send((std::thread::current().id(), panicked.is_ok(), queues, cache)).unwrap();
            }
            ControlFlow::Break(())
        });
        work
    });
    let work: Vec<_> = work.collect();
    capsule.take_crew().expect("its threads").assign(work).unwrap();
    let ended: Vec<_> = cores()
        .iter()
        .map(|_| ended.recv_timeout(Duration::from_secs(20)).expect("a worker's end"))
        .collect();
    drop(capsule);
    let mut threads: Vec<_> = ended.iter().map(|(thread, ..)| format!("{thread:?}")).collect();
    threads.dedup();
    assert_eq!(threads.len(), cores().len(), "each worker has a thread of its own");
    let mut caches = Vec::new();
    for (_, succeeded, queues, mut cache) in ended {
        assert!(succeeded);
        for mut queue in queues {
            queue.close(&mut cache).unwrap();
            assert_eq!(queue.receive(&mut cache, &mut Burst::new()), 0);
        }
        caches.push(cache);
    }
    assert_whole(&pool, &caches.iter().collect::<Vec<_>>());
}

#[test]
fn a_capture_goes_in_and_out() {
    devices::a_capture_goes_in_and_out("capsule");
}

/// Ends in good order though all cores poll, and answers while they do.
#[test]
fn every_core_polls_and_the_gateway_stops_all_the_same() {
    let directory = directory("capsule-poll");
    let workers = format!("workers = {}", cores().len());
    let text =
        configuration("capsule", "net_null0,size=64", "net_null1,size=64", &workers, "hugepages = \"off\"")
            .replace("idle = \"sleep\"\n", "");
    let gateway = Gateway::start(&directory, &text).ready();
    assert!(gateway.ask(&["stats", "--json"]).status.success(), "{}", gateway.log());
    // A reload is the gateway's to hear, and leaves capsule at work.
    gateway.signal("HUP");
    std::thread::sleep(Duration::from_millis(500));
    assert!(gateway.ask(&["status"]).status.success(), "{}", gateway.log());
    let log = gateway.stop();
    assert!(log.contains("every packet is accounted for"), "{log}");
}

/// The driver of a tap device has buffers in its queues until it is closed. They come back, and its link and its counters are
/// told before.
#[test]
fn a_tap_device_is_watched_and_gives_all_buffers_back() {
    common::need_root!();
    if !Path::new("/dev/net/tun").exists() {
        println!("skipped: there is no /dev/net/tun");
        return;
    }
    let namespace = common::daemon::Namespace::new("capsule-tap");
    let within: Vec<_> = namespace.within().into_iter().chain(NATGATE).collect();
    let text = configuration(
        "capsule",
        "net_tap0,iface=tw",
        "net_tap1,iface=tl",
        "workers = 1",
        "hugepages = \"off\"",
    );
    let gateway = Gateway::start_by(&within, &directory("capsule-tap"), &text).ready();
    let run = |words: &str| {
        let status = namespace.command("ip").args(words.split(' ')).status();
        assert!(status.expect("ip").success(), "ip {words}");
    };
    // The kernel asks for an address on its side: the port counts the frame, and the link is told when it goes.
    run("address add 10.0.1.10/24 dev tl");
    run("route add default via 10.0.1.1");
    let _ = namespace.command("ping").args(["-q", "-c", "1", "-W", "1", "10.0.1.1"]).output();
    let port = || gateway.stats()["ports"][1].take();
    gateway.eventually("no counter of its own", || port()["device"]["rx_good_packets"].as_u64() > Some(0));
    run("link set tl down");
    gateway.eventually("nobody saw the link go", || gateway.log().contains("port lan: its link is down"));
    assert_eq!(port()["link_mbps"], 0);
    let log = gateway.stop();
    assert!(log.contains("every packet is accounted for"), "{log}");
    assert!(!log.contains("ERROR"), "{log}");
}

/// In one line each, with what to do.
#[test]
fn what_is_missing_is_said_with_the_way_out() {
    let null = ["net_null0,size=64", "net_null1,size=64"];
    let small = "hugepages = \"off\"";
    let of = |wan, system, dpdk| configuration("capsule", wan, null[1], system, dpdk);
    for (name, text, words) in [
        (
            "capsule-size",
            of(null[0], "buffer_size = 4096", small),
            ["a buffer size is", "2048 with a capsule port"],
        ),
        (
            "capsule-cores",
            of(null[0], "workers = 200", small),
            ["a core for each worker", "lower system.workers"],
        ),
        (
            "capsule-hugepages",
            of(null[0], "workers = 1", "hugepages = \"require\"\nmemory = 1048576"),
            ["1048576 MiB of huge pages are needed", "dpdk-env/setup hugepages"],
        ),
        (
            "capsule-no-device",
            of("ffff:ff:1f.7", "workers = 1", small),
            ["there is no PCI device ffff:ff:1f.7", "lspci"],
        ),
        (
            "capsule-no-capture",
            of("net_pcap0,rx_pcap=none.pcap,tx_pcap=a.pcap", "workers = 1", small),
            ["capsule does not start", "none.pcap"],
        ),
        (
            "capsule-start",
            of(NOT_TO_BE_STARTED, "workers = 1", small),
            ["capsule does not start", "Failed to connect socket"],
        ),
        (
            "capsule-arguments",
            of(null[0], "workers = 1", "hugepages = \"off\"\narguments = [\"--nonsense\"]"),
            ["capsule does not start", "Invalid"],
        ),
    ] {
        let error = refusal(name, &text);
        for word in words {
            assert!(error.contains(word), "{name}: \"{word}\" is missing in\n{error}");
        }
    }
}
