//! The packet path allocates nothing: a counting allocator looks on while an engine meets packets of every kind, makes
//! sessions, ends them, learns neighbours and follows another configuration.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use natgate::base::{Checksum, Moment, PortIndex, Rng, WorkerIndex};
use natgate::nat::{BATCH, Engine, EngineConfig, NeighbourFact, Output, Verdict};
use natgate::policy::Snapshot;
use natgate::wire::{Arrival, Packet as Buffered};

use self::support::codec::{self, Arp, Link};
use self::support::config::{Compiler, gateway_mac, host_mac};
use self::support::{Config, Packet, Side, TestNet, entry, ip};

thread_local! {
    /// Allocations and reallocations of this thread.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

#[expect(unsafe_code, reason = "an allocator is unsafe to write; this one only counts and passes on")]
// SAFETY: every method passes its arguments to the system's allocator unchanged and returns what that returns.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations while `act` runs.
fn allocations(act: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    act();
    ALLOCATIONS.get() - before
}

const HEADROOM: usize = 128;

/// An engine, and everything else that has to be there before the counting begins.
struct Rig {
    engine: Engine,
    snapshot: std::sync::Arc<Snapshot>,
    now: Moment,
    output: Output,
    buffers: Vec<Vec<u8>>,
}

impl Rig {
    fn new(config: &Config, workers: u16) -> Self {
        let config_of_engine = EngineConfig {
            worker: WorkerIndex(0),
            workers,
            sessions: 4096,
            neighbours: 256,
            snat_eips: 16,
            distributions: std::sync::Arc::default(),
            rng: Rng::from_seed(1),
        };
        Self {
            engine: Engine::new(config_of_engine).expect("memory for an engine"),
            snapshot: Compiler::default().compile(config),
            now: Moment::from_secs(1),
            output: Output::default(),
            buffers: vec![vec![0; 4096]; BATCH],
        }
    }

    /// Processes a batch of these frames and asserts that nothing was allocated meanwhile.
    #[track_caller]
    fn process(&mut self, frames: &[(u16, Vec<u8>)], arrival: Arrival) {
        for (buffer, (_, frame)) in self.buffers.iter_mut().zip(frames) {
            buffer[HEADROOM..HEADROOM + frame.len()].copy_from_slice(frame);
        }
        let mut batch: Vec<_> = self
            .buffers
            .iter_mut()
            .zip(frames)
            .map(|(buffer, (port, frame))| {
                let port = PortIndex(*port);
                Buffered::new(buffer, HEADROOM, frame.len(), port, Checksum::MaybePartial).arrived(arrival)
            })
            .collect();
        let Self { engine, snapshot, now, output, .. } = self;
        let count = allocations(|| engine.process(&mut batch, snapshot, *now, output));
        assert_eq!(count, 0, "{arrival:?}: {:?}", self.output.verdicts);
        assert_eq!(self.engine.counters().balance(), 0);
    }

    /// The same without frames, after some time.
    #[track_caller]
    fn wait(&mut self, duration: Duration) {
        self.now = self.now + duration;
        for _ in 0..8 {
            self.process(&[], Arrival::Wire);
        }
    }
}

fn frames_of(net: &TestNet, packets: &[(Side, Packet)]) -> Vec<(u16, Vec<u8>)> {
    let frame =
        |(side, packet): &(Side, Packet)| (net.config().link(*side).port, net.frame_of(*side, packet));
    packets.iter().map(frame).collect()
}

/// ARP answers of all hosts that the packets of `packets` may go to.
fn arp_answers(config: &Config) -> Vec<(u16, Vec<u8>)> {
    let hosts = ["10.0.0.2", "10.0.0.3", "10.0.0.4", "203.0.113.1"];
    let answer = |host: &str| {
        let host = ip(host);
        let side = if host.octets()[0] == 10 { Side::Vpc(0) } else { Side::Outside };
        let own = config.link(side);
        let (mac, gateway) = (host_mac(side, host), gateway_mac(side));
        let arp = Arp { request: false, sender: (mac, host), target: (gateway, own.address) };
        (own.port, codec::arp_frame(Link { dst: gateway, src: mac, vlan: own.vlan }, &arp))
    };
    hosts.map(answer).to_vec()
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(vec![0_u8; 100]))), 1);
    assert_eq!(allocations(|| ()), 0);
}

#[test]
fn every_kind_of_packet() {
    let config = entry::config();
    let net = TestNet::new(&config);
    let frames = frames_of(&net, &entry::samples());
    for workers in [1, 4] {
        for arrival in [Arrival::Wire, Arrival::Handed, Arrival::Hairpin] {
            let mut rig = Rig::new(&config, workers);
            // With nobody's Ethernet address known, then with all, then with sessions, then again when all has expired.
            rig.process(&frames, arrival);
            rig.process(&arp_answers(&config), Arrival::Wire);
            rig.process(&frames, arrival);
            rig.process(&frames, arrival);
            rig.wait(Duration::from_secs(3));
            rig.wait(Duration::from_secs(400));
            rig.wait(Duration::from_secs(8000));
            rig.process(&frames, arrival);
        }
    }
}

#[test]
fn broken_frames() {
    let config = entry::config();
    let net = TestNet::new(&config);
    let mut rig = Rig::new(&config, 2);
    for (port, frame) in frames_of(&net, &entry::samples()) {
        let cut: Vec<_> = (0..frame.len().min(BATCH)).map(|len| (port, frame[..len].to_vec())).collect();
        rig.process(&cut, Arrival::Wire);
        for byte in 12..frame.len().min(60) {
            let mut changed = frame.clone();
            changed[byte] ^= 0xff;
            entry::fix_header(&mut changed);
            rig.process(&[(port, changed)], Arrival::Wire);
        }
    }
}

#[test]
fn fragments() {
    let config = entry::config();
    let net = TestNet::new(&config);
    for (workers, arrival) in [(1, Arrival::Wire), (2, Arrival::Fragment), (2, Arrival::Wire)] {
        let mut rig = Rig::new(&config, workers);
        rig.process(&arp_answers(&config), Arrival::Wire);
        for (side, mut packet) in entry::samples() {
            let parts = |packet: &Packet| {
                packet.fragments(24).into_iter().map(|part| (side, part)).take(BATCH).collect::<Vec<_>>()
            };
            rig.process(&frames_of(&net, &parts(&packet)), arrival);
            // Those that wait for the first one, and those that wait in vain.
            packet.ip.id = 0x4321;
            let mut reversed = parts(&packet);
            reversed.reverse();
            rig.process(&frames_of(&net, &reversed), arrival);
            packet.ip.id = 0x4322;
            rig.process(&frames_of(&net, &parts(&packet)[1..]), arrival);
        }
        rig.wait(Duration::from_secs(3));
        rig.wait(Duration::from_mins(1));
    }
}

/// A full table of sessions made, used, refused when there is no more room, and expired.
#[test]
fn a_full_table_of_sessions() {
    let config = entry::config();
    let net = TestNet::new(&config);
    let mut rig = Rig::new(&config, 1);
    rig.process(&arp_answers(&config), Arrival::Wire);
    for round in 0..20 {
        let packets: Vec<_> = (0..BATCH as u16)
            .map(|n| {
                let from = (ip("10.0.0.4"), 10_000 + round * BATCH as u16 + n);
                (Side::Vpc(0), Packet::udp(from, (ip("198.51.100.1"), 53), b"query"))
            })
            .collect();
        rig.process(&frames_of(&net, &packets), Arrival::Wire);
    }
    assert!(rig.engine.counters().sessions_created >= 3000, "{:?}", rig.engine.counters());
    for _ in 0..20 {
        rig.wait(Duration::from_secs(400));
    }
    let counters = rig.engine.counters();
    assert_eq!(counters.sessions_created, counters.sessions_removed);
}

#[test]
fn another_configuration_and_other_workers() {
    let config = entry::config();
    let net = TestNet::new(&config);
    let frames = frames_of(&net, &entry::samples());
    let mut rig = Rig::new(&config, 1);
    let mut compiler = Compiler::default();
    rig.snapshot = compiler.compile(&config);
    rig.process(&arp_answers(&config), Arrival::Wire);
    rig.process(&frames, Arrival::Wire);
    rig.snapshot = compiler.compile(&config.clone().any_port("203.0.113.21", "10.0.0.4"));
    rig.process(&frames, Arrival::Wire);
    rig.snapshot = compiler.compile(&Config::new().vpc(20));
    rig.process(&frames, Arrival::Wire);
    rig.snapshot = compiler.compile(&config);
    rig.process(&frames, Arrival::Wire);

    let fact =
        NeighbourFact { interface: natgate::base::InterfaceIndex(0), address: 1, mac: [2, 0, 0, 0, 0, 1] };
    let Rig { engine, snapshot, now, .. } = &mut rig;
    let mut output = Output::default();
    assert_eq!(allocations(|| engine.learn(fact, snapshot, *now, &mut output)), 0);
    let sent = rig.output.verdicts.iter().find(|verdict| matches!(verdict, Verdict::Send { .. })).copied();
    let sent = sent.expect("a packet that was sent");
    let engine = &mut rig.engine;
    assert_eq!(allocations(|| engine.undo(sent, natgate::base::DropReason::TransmitFull)), 0);
    assert_eq!(engine.counters().balance(), 0);
}
