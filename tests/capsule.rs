//! The back end capsule, with virtual devices and without huge pages: rings and the empty device in this process, captures in
//! and out through the real binary, and what is said when something cannot be. Real clients are in `namespaces`.

mod common;

use std::fs::{self, File};
use std::ops::ControlFlow;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use common::devices::{self, configuration, directory, natgate, refusal};
use natgate::base::PortIndex;
use natgate::nic::crew::Work;
use natgate::nic::dpdk::capsule::Capsule;
use natgate::nic::dpdk::{Dpdk, Hugepages, Options};
use natgate::nic::{Burst, Cache, Frame, Pool, Queue};

const SLOTS: usize = 4096;

/// Cores that this process may run on: two if there are two.
fn cores() -> Vec<usize> {
    let all = core_affinity::get_core_ids().expect("the cores of this machine");
    all.iter().map(|core| core.id).take(2).collect()
}

fn assert_whole(pool: &Pool, caches: &[&Cache]) {
    let held: usize = caches.iter().map(|cache| cache.len()).sum();
    assert_eq!(pool.spare_slots() + held, pool.slots(), "buffers are missing");
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
    fs::write(directory.join("natgate.toml"), text).expect("a configuration");
    let mut command = natgate(&directory, &["run", "--config", "natgate.toml"]);
    let log = File::create(directory.join("log")).expect("a log");
    let mut gateway = command.stdin(Stdio::null()).stderr(log).spawn().expect("natgate");
    let log = || fs::read_to_string(directory.join("log")).unwrap_or_default();
    let is_ready = (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        log().contains("ready;")
    });
    let stats = natgate(&directory, &["stats", "--json"]).env("NATGATE_SOCKET", "natgate.sock").output();
    // A reload is the gateway's to hear, and leaves capsule at work.
    let _ = Command::new("kill").args(["-HUP", &gateway.id().to_string()]).status();
    std::thread::sleep(Duration::from_millis(500));
    let again = natgate(&directory, &["status"]).env("NATGATE_SOCKET", "natgate.sock").output();
    let _ = Command::new("kill").arg(gateway.id().to_string()).status();
    let status = gateway.wait().expect("its end");
    assert!(is_ready && stats.is_ok_and(|stats| stats.status.success()), "{}", log());
    assert!(again.is_ok_and(|status| status.status.success()), "{}", log());
    assert!(log().contains("every packet is accounted for"), "{status}: {}", log());
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
