//! Workers on threads of their own.

use std::sync::Arc;
use std::time::Duration;

use super::script::{CONSUME, HAND, PANIC, Parts, SEND, Script, parts};
use crate::base::time::Clock;
use crate::nic::Crew;
use crate::worker::{Gateway, Idle, LaunchError, OnDeath, Running, Threads};

fn launch(parts: Parts, idle: Idle) -> (Running<Script>, Vec<Vec<super::script::Cable>>, crate::nic::Cache) {
    let threads = Threads { cores: None, idle, clock: Clock::start(), on_death: OnDeath::default() };
    (Gateway::launch_with(parts.setup, threads).unwrap(), parts.cables, parts.cache)
}

/// Waits until it is so; fails after five seconds.
fn wait(what: &str, so: impl FnMut() -> bool) -> Duration {
    let (clock, mut so) = (Clock::start(), so);
    let start = clock.now();
    while !so() {
        assert!(clock.now().since(start) < Duration::from_secs(5), "waited in vain: {what}");
        std::thread::yield_now();
    }
    clock.now().since(start)
}

fn traffic_between_two_workers(idle: Idle) {
    let (gateway, cables, mut cache) = launch(parts(2, 2, 8192, 4096, 1024), idle);
    let mut came = 0;
    for round in 0..200 {
        for n in 0..50 {
            let worker = (round + n) % 2;
            let orders =
                if n % 5 == 0 { [SEND, 1, 0, 0, 0, 0] } else { [HAND, 1 - worker as u8, 0, SEND, 1, 0] };
            cables[worker][0].send(&mut cache, &orders);
        }
        if round % 10 == 0 {
            wait("the frames come out", || {
                came += cables[0][1].drain(&mut cache) + cables[1][1].drain(&mut cache);
                came >= round * 50
            });
        }
    }
    wait("all frames come out", || {
        came += cables[0][1].drain(&mut cache) + cables[1][1].drain(&mut cache);
        came == 10_000
    });
    gateway.check().unwrap();
    wait("the counters are reported", || {
        gateway.totals().iter().map(|t| t.counters.forwarded).sum::<u64>() == 10_000
    });
    let ending = gateway.stop();
    super::super::finish::conservation(&ending.workers, 0).unwrap();
    assert_eq!(ending.missing_slots, cache.len());
    assert_eq!(ending.workers.iter().map(|t| t.counters.handed).sum::<u64>(), 8000);
    assert_eq!(ending.workers[0].ports[0].rx_missed, 5);
}

#[test]
fn traffic_between_two_polling_workers() {
    traffic_between_two_workers(Idle::Poll);
}

#[test]
fn traffic_between_two_workers_that_sleep() {
    traffic_between_two_workers(Idle::Sleep);
}

#[test]
fn a_sleeping_worker_wakes_for_a_frame_and_for_another_worker() {
    let (gateway, cables, mut cache) = launch(parts(2, 1, 1024, 64, 64), Idle::Sleep);
    wait("both sleep", || gateway.totals().iter().all(|t| t.activity.sleeps > 2));
    let mut times = Vec::new();
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(2));
        cables[0][0].send(&mut cache, &[HAND, 1, 0, SEND, 0, 0]);
        times.push(wait("the frame comes out", || cables[1][0].drain(&mut cache) == 1));
    }
    times.sort();
    // Not the median: on a busy machine a thread that was woken waits for its turn.
    assert!(times[4] < Duration::from_millis(3), "first quarter of {times:?}");
    let ratio = gateway.totals()[0].activity.busy_ratio();
    assert!(ratio < 0.5, "mostly idle, not {ratio}");
    assert_eq!(gateway.stop().missing_slots, cache.len());
}

#[test]
fn publication_is_acknowledged_idle_and_busy() {
    for idle in [Idle::Poll, Idle::Sleep] {
        let (gateway, cables, mut cache) = launch(parts(2, 1, 4096, 4096, 64), idle);
        for busy in [false, true] {
            for _ in 0..20 {
                if busy {
                    for _ in 0..100 {
                        cables[0][0].send(&mut cache, &[CONSUME, 0]);
                    }
                }
                let old = Arc::downgrade(&gateway.snapshot());
                let next = gateway.snapshot().edit().finish();
                gateway.publish(next, Duration::from_secs(2)).unwrap();
                assert!(old.upgrade().is_none(), "freed when all have acknowledged");
            }
        }
        assert_eq!(gateway.snapshot().generation().0, 40);
        super::super::finish::conservation(&gateway.stop().workers, 0).unwrap();
    }
}

#[test]
fn a_dead_worker_is_noticed() {
    let threads = Threads { cores: None, idle: Idle::Sleep, clock: Clock::start(), on_death: OnDeath::Mourn };
    let Parts { setup, cables, mut cache, .. } = parts(2, 1, 1024, 64, 64);
    let gateway = Gateway::launch_with::<Script>(setup, threads).unwrap();
    cables[1][0].send(&mut cache, &[PANIC, 0]);
    wait("it is noticed", || gateway.check().is_err());
    let died = gateway.check().unwrap_err();
    assert_eq!((died.worker.0, died.message.as_str()), (1, "as ordered"));
    let next = gateway.snapshot().edit().finish();
    let lagging = gateway.publish(next, Duration::from_millis(50)).unwrap_err();
    assert_eq!(lagging.workers, [crate::base::WorkerIndex(1)]);
    let ending = gateway.stop();
    assert_eq!(ending.died, [died]);
    assert_eq!(ending.workers.len(), 2);
}

#[test]
fn workers_work_on_the_threads_of_a_back_end() {
    let threads =
        || Threads { cores: None, idle: Idle::Sleep, clock: Clock::start(), on_death: OnDeath::Restart };
    let (crew, work) = Crew::new(2);
    let serve = |work: std::sync::mpsc::Receiver<crate::nic::crew::Work>| {
        let serve = move || {
            let mut work = work.recv().expect("work");
            while work().is_continue() {}
        };
        std::thread::spawn(serve)
    };
    let serving: Vec<_> = work.into_iter().map(serve).collect();
    let Parts { setup, cables, mut cache, .. } = parts(2, 1, 4096, 1024, 64);
    let gateway = Gateway::launch_on::<Script>(setup, threads(), Some(crew)).unwrap();
    let mut came = 0;
    for round in 1..=20 {
        for _ in 0..50 {
            cables[0][0].send(&mut cache, &[HAND, 1, 0, SEND, 0, 0]);
        }
        wait("the frames come out", || {
            came += cables[1][0].drain(&mut cache);
            came == round * 50
        });
    }
    // One that dies works on, where it was.
    cables[0][0].send(&mut cache, &[PANIC, 0]);
    wait("it is noticed", || !gateway.incidents().is_empty());
    cables[0][0].send(&mut cache, &[SEND, 0, 0]);
    wait("the frame comes out", || cables[0][0].drain(&mut cache) == 1);
    gateway.check().unwrap();
    let ending = gateway.stop();
    assert_eq!((ending.workers.len(), ending.missing_slots), (2, cache.len()));
    super::super::finish::conservation(&ending.workers, 0).unwrap();
    for thread in serving {
        thread.join().unwrap();
    }

    let (too_small, _work) = Crew::new(1);
    let setup = parts(2, 1, 256, 8, 8).setup;
    let error = Gateway::launch_on::<Script>(setup, threads(), Some(too_small)).unwrap_err();
    assert!(error.to_string().contains("work for 2 of the back end's 1 threads"), "{error}");
}

#[test]
fn a_core_that_does_not_exist_is_an_error() {
    let threads = |cores| Threads {
        cores: Some(cores),
        idle: Idle::Sleep,
        clock: Clock::start(),
        on_death: OnDeath::default(),
    };
    let result = Gateway::launch_with::<Script>(parts(2, 1, 256, 8, 8).setup, threads(vec![0, 1000]));
    assert!(matches!(result.unwrap_err(), LaunchError::Pin { core: 1000, .. }));
    let result = Gateway::launch_with::<Script>(parts(2, 1, 256, 8, 8).setup, threads(vec![0]));
    assert!(matches!(result.unwrap_err(), LaunchError::Cores { cores: 1, workers: 2 }));
}

#[test]
fn dropped_it_stops() {
    let parts = parts(1, 1, 256, 8, 8);
    let pool = Arc::clone(&parts.setup.pool);
    let (gateway, _, _cache) = launch(parts, Idle::Poll);
    drop(gateway);
    assert_eq!(Arc::strong_count(&pool), 2, "only the test holds the pool");
}
