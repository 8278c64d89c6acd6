//! Nothing is allocated or freed on a worker's thread once it works: not for packets, sessions, handovers, floods, new
//! configurations, counters or questions.

mod gateway;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use gateway::*;
use natgate::base::time::Clock;
use natgate::nat::{CaptureFilter, SessionFilter, TraceFilter};
use natgate::worker::finish::conservation;
use natgate::worker::{Gateway, Idle, OnDeath, Threads};

/// Calls of the allocator, to give or to take, by threads other than the test's own.
static CALLS: AtomicU64 = AtomicU64::new(0);
/// Whether calls are counted.
static WATCHED: AtomicBool = AtomicBool::new(false);

thread_local! {
    static IS_MANAGEMENT: Cell<bool> = const { Cell::new(false) };
}

fn count() {
    if WATCHED.load(Ordering::Relaxed) && !IS_MANAGEMENT.get() {
        CALLS.fetch_add(1, Ordering::Relaxed);
    }
}

struct Counting;

#[expect(unsafe_code, reason = "an allocator is unsafe to write; this one only counts and passes on")]
// SAFETY: every method passes its arguments to the system's allocator unchanged and returns what that returns.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Calls of the allocator by other threads while `act` runs.
fn calls(act: impl FnOnce()) -> u64 {
    let before = CALLS.load(Ordering::Relaxed);
    WATCHED.store(true, Ordering::SeqCst);
    act();
    WATCHED.store(false, Ordering::SeqCst);
    CALLS.load(Ordering::Relaxed) - before
}

#[test]
fn a_worker_neither_allocates_nor_frees() {
    IS_MANAGEMENT.set(true);
    let seen = calls(|| {
        let other = std::thread::spawn(|| std::hint::black_box(vec![1_u8, 2, 3]));
        drop(other.join().unwrap());
    });
    assert!(seen > 0, "the count sees other threads");
    for idle in [Idle::Poll, Idle::Sleep] {
        let (setup, mut far) = setup(2, 1 << 14);
        let gateway = Gateway::launch(
            setup,
            Threads { cores: None, idle, clock: Clock::start(), on_death: OnDeath::default() },
        )
        .unwrap();
        // The first turns are part of starting.
        wait("both work", || gateway.totals().iter().all(|t| t.activity.idle_turns > 0));
        let during = calls(|| {
            far[OUTSIDE][0].send(&arp((ROUTER, ROUTER_MAC), OUTSIDE_ADDRESS));
            for n in 2..42 {
                far[INSIDE][1].send(&arp(host(n), INSIDE_ADDRESS));
            }
            wait("all workers know the neighbours", || {
                gateway.workers().all(|worker| gateway.occupancy(worker).unwrap().neighbours >= 41)
            });
            let mut trace = gateway.trace(TraceFilter::default()).unwrap();
            let mut capture = gateway.capture(CaptureFilter::default()).unwrap();
            let (mut captured, mut bytes) = (0_u64, Vec::new());
            for round in 0..50 {
                let [outside, inside] = &mut far;
                for n in 2..42 {
                    for (outside, inside) in outside.iter_mut().zip(inside.iter_mut()) {
                        let (address, mac) = host(n);
                        inside.send(&udp(mac, INSIDE, (address, 4000 + round), (SERVER, 53)));
                        // An EIP that nobody has, and a port without a mapping.
                        outside.send(&udp(ROUTER_MAC, OUTSIDE, (SERVER, 53), (EIP + 1, 9)));
                        outside.send(&udp(ROUTER_MAC, OUTSIDE, (SERVER, 53), (EIP, 5000)));
                    }
                }
                for (worker, source, destination) in datagrams(&mut far[OUTSIDE]) {
                    far[OUTSIDE][1 - worker].send(&udp(ROUTER_MAC, OUTSIDE, destination, source));
                }
                datagrams(&mut far[INSIDE]);
                trace.look().unwrap();
                // Read for a while only: then its rings run over.
                if round < 25 {
                    let _ = capture.read(&mut bytes, |record, frame| {
                        assert_eq!((frame.len(), record.kept), (record.length as usize, record.length));
                        captured += 1;
                        ControlFlow::Continue(())
                    });
                }
                let next = gateway.snapshot().edit().finish();
                gateway.publish(next, Duration::from_secs(2)).unwrap();
            }
            drop(trace);
            assert!(captured > 1000, "{captured} captured");
            drop(capture);
            let mut rows = 0;
            let count = |page: &[_]| {
                rows += page.len();
                ControlFlow::Continue(())
            };
            gateway.sessions(&SessionFilter::default(), count).unwrap();
            assert!(rows >= 1000, "{rows} sessions");
            std::thread::sleep(Duration::from_millis(50));
        });
        let totals = gateway.totals();
        assert!(totals.iter().all(|t| t.counters.handed > 100 && t.counters.forwarded > 100), "{totals:?}");
        assert_eq!(during, 0, "calls of the allocator on the workers' threads, {idle:?}");
        let ending = gateway.stop();
        conservation(&ending.workers, 0).unwrap();
        assert_eq!(ending.missing_slots, held(&mut far));
    }
}
