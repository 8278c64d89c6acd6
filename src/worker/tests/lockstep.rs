//! The packet path, turn by turn.

use std::sync::Arc;

use super::script::{
    ANSWER, CONSUME, Cable, HAND, HOLD, HUGE, Parts, SEND, SPLIT, Script, TELL, TURN, parts,
};
use crate::base::{DropReason, Generation, Moment, PortIndex, WorkerIndex};
use crate::nic::Cache;
use crate::worker::{LaunchError, Lockstep, WorkerTotals};

struct Bench {
    gateway: Lockstep<Script>,
    cables: Vec<Vec<Cable>>,
    cache: Cache,
    now: u64,
}

impl Bench {
    fn new(parts: Parts) -> Self {
        let Parts { setup, cables, cache } = parts;
        Self { gateway: Lockstep::with_engine(setup).unwrap(), cables, cache, now: 1000 }
    }

    fn send(&mut self, worker: usize, port: usize, orders: &[u8]) {
        let mut frame = [0; 64];
        frame[..orders.len()].copy_from_slice(orders);
        self.cables[worker][port].send(&mut self.cache, &frame);
    }

    fn step(&mut self) {
        self.now += 1;
        self.gateway.step(Moment::from_millis(self.now));
        self.gateway.verify().unwrap();
    }

    fn drain(&mut self, worker: usize, port: usize) -> usize {
        self.cables[worker][port].drain(&mut self.cache)
    }

    fn engine(&self, worker: u16) -> &Script {
        self.gateway.engine(WorkerIndex(worker)).unwrap()
    }

    fn totals(&self, worker: usize) -> WorkerTotals {
        self.gateway.totals()[worker].clone()
    }

    fn drops(&self, worker: usize, reason: DropReason) -> u64 {
        self.totals(worker).counters.drops[reason as usize]
    }

    /// Ends the gateway and checks the accounts: every buffer is in the pool or with the test.
    fn finish(mut self) {
        let own = self.cache.len();
        for cable in self.cables.iter().flatten() {
            cable.drain(&mut self.cache);
        }
        let drained = self.cache.len();
        let ending = self.gateway.finish();
        assert_eq!(ending.missing_slots, drained, "own at first: {own}");
        super::super::finish::conservation(&ending.workers, 0).unwrap();
        assert!(ending.died.is_empty() && ending.unclosed.is_empty());
    }
}

#[test]
fn every_verdict_has_its_place() {
    let mut bench = Bench::new(parts(1, 2, 1024, 64, 16));
    for orders in [[SEND, 1], [CONSUME, 0], [HOLD, 0], [ANSWER, 1], [0, 0]] {
        bench.send(0, 0, &orders);
    }
    bench.step();
    let totals = bench.totals(0);
    assert_eq!((totals.counters.received, totals.counters.forwarded, totals.counters.consumed), (5, 1, 2));
    assert_eq!((totals.counters.held, totals.counters.dropped(), totals.activity.own_sent), (1, 1, 1));
    assert_eq!((totals.ports[0].rx_packets, totals.ports[0].rx_bytes), (5, 5 * 64));
    assert_eq!((totals.ports[1].tx_packets, totals.ports[1].tx_bytes), (2, 64 + 60));
    assert_eq!(totals.activity.batch_sizes[2], 1);
    // The held packet is released by a timer, in a batch without packets.
    bench.step();
    assert_eq!(bench.drain(0, 0), 1);
    assert_eq!(bench.totals(0).counters.forwarded, 2);
    assert_eq!(bench.drain(0, 1), 2);
    bench.finish();
}

#[test]
fn a_port_that_does_not_exist_is_no_way_out() {
    let mut bench = Bench::new(parts(1, 1, 256, 64, 16));
    bench.send(0, 0, &[SEND, 7]);
    bench.send(0, 0, &[ANSWER, 7]);
    bench.step();
    assert_eq!(bench.drops(0, DropReason::NoRoute), 1);
    assert_eq!(bench.totals(0).activity.own_sent, 0);
    bench.finish();
}

#[test]
fn a_full_transmit_queue_drops_and_counts() {
    let mut bench = Bench::new(parts(1, 2, 2048, 10, 16));
    for _ in 0..300 {
        bench.send(0, 0, &[SEND, 1]);
    }
    for _ in 0..5 {
        bench.send(0, 0, &[ANSWER, 1]);
    }
    bench.step();
    bench.step();
    let totals = bench.totals(0);
    assert_eq!(bench.drops(0, DropReason::TransmitFull), 290);
    assert_eq!(totals.activity.own_transmit_full, 5);
    assert_eq!((totals.ports[1].tx_packets, totals.ports[1].tx_bytes), (10, 640));
    assert_eq!(bench.drain(0, 1), 10);
    bench.finish();
}

#[test]
fn more_frames_for_one_port_than_a_burst_are_sent_in_several() {
    let mut bench = Bench::new(parts(1, 2, 4096, 2048, 16));
    for _ in 0..256 {
        bench.send(0, 0, &[SEND, 1]);
        bench.send(0, 1, &[SEND, 1]);
    }
    bench.step();
    assert_eq!(bench.drain(0, 1), 512);
    bench.finish();
}

#[test]
fn without_buffers_frames_are_lost_and_counted() {
    let mut bench = Bench::new(parts(1, 1, 64, 64, 16));
    for _ in 0..32 {
        bench.send(0, 0, &[HOLD, 0]);
        bench.send(0, 0, &[SEND, 0]);
    }
    bench.step();
    assert_eq!(bench.drain(0, 0), 32);
    for _ in 0..32 {
        bench.send(0, 0, &[SPLIT, 0]);
    }
    bench.step();
    assert_eq!(bench.totals(0).activity.own_sent, 32);
    // All 64 buffers lie on the wire now: what was held finds none.
    bench.step();
    assert_eq!((bench.drops(0, DropReason::NoBuffer), bench.totals(0).counters.held), (32, 0));
    assert_eq!(bench.drain(0, 0), 64);
    // Nor do the gateway's own frames, when every buffer carries a packet.
    for _ in 0..64 {
        bench.send(0, 0, &[SPLIT, 0]);
    }
    bench.step();
    assert_eq!(bench.totals(0).activity.own_no_buffer, 64);
    bench.finish();
}

#[test]
fn frames_too_large_for_a_buffer_are_lost_and_counted() {
    let mut bench = Bench::new(parts(1, 1, 256, 64, 16));
    bench.send(0, 0, &[HUGE, 0]);
    bench.step();
    assert_eq!(bench.totals(0).activity.own_no_buffer, 1);
    bench.finish();
}

#[test]
fn a_packet_goes_to_its_owner_and_round_the_hairpin() {
    let mut bench = Bench::new(parts(4, 2, 2048, 64, 16));
    bench.send(0, 0, &[HAND, 3, 0, SEND, 1]);
    bench.send(1, 0, &[HAND, 0, 0, TURN, 2, 0, SEND, 1]);
    bench.send(2, 1, &[TURN, 1, 0, 0, 0, 0, SEND, 0]);
    for _ in 0..3 {
        bench.step();
    }
    assert_eq!((bench.drain(3, 1), bench.drain(2, 1), bench.drain(1, 0)), (1, 1, 1));
    assert_eq!(bench.totals(0).counters.taken_over, 1);
    bench.finish();
}

#[test]
fn no_packet_goes_in_circles() {
    let mut bench = Bench::new(parts(2, 1, 1024, 64, 16));
    bench.send(0, 0, &[HAND, 1, 0, HAND, 0, 0]);
    bench.send(0, 0, &[TURN, 1, 0, 0, 0, 0, TURN, 0, 0]);
    bench.send(0, 0, &[HAND, 0]);
    bench.send(0, 0, &[HAND, 9]);
    for _ in 0..3 {
        bench.step();
    }
    assert_eq!((bench.drops(0, DropReason::HairpinLoop), bench.drops(1, DropReason::HairpinLoop)), (2, 2));
    bench.finish();
}

#[test]
fn a_full_ring_drops_and_counts() {
    let mut bench = Bench::new(parts(4, 1, 2048, 64, 16));
    for _ in 0..100 {
        bench.send(1, 0, &[HAND, 0, 0, SEND, 0]);
    }
    // Worker 0 comes before worker 1, so nothing is taken yet.
    bench.step();
    assert_eq!(bench.drops(1, DropReason::HandoffFull), 84);
    assert_eq!(bench.gateway.waiting(), 16);
    // The rings are drained when the gateway ends.
    bench.finish();
}

#[test]
fn facts_reach_all_other_workers() {
    let mut bench = Bench::new(parts(4, 1, 2048, 64, 16));
    bench.send(2, 0, &[TELL, 9]);
    bench.step();
    bench.step();
    for worker in [0, 1, 3] {
        assert_eq!(bench.engine(worker).learned[0].address, 9);
    }
    assert!(bench.engine(2).learned.is_empty());
    for _ in 0..200 {
        bench.send(2, 0, &[TELL, 9]);
        bench.send(2, 0, &[TELL, 8]);
    }
    bench.gateway.step_one(WorkerIndex(2), Moment::from_millis(5000));
    bench.gateway.step_one(WorkerIndex(2), Moment::from_millis(5000));
    bench.gateway.step_one(WorkerIndex(2), Moment::from_millis(5000));
    // Two batches tell 64 facts each.
    assert_eq!(bench.totals(2).activity.facts_lost, 0);
    for _ in 0..10 {
        bench.step();
    }
    assert_eq!([0, 1, 3].map(|worker| bench.engine(worker).learned.len()), [129; 3]);
    bench.finish();
}

#[test]
fn timers_run_without_traffic() {
    let mut bench = Bench::new(parts(1, 1, 256, 64, 16));
    for _ in 0..10 {
        bench.step();
    }
    assert!(bench.engine(0).empty_batches >= 9);
    bench.finish();
}

#[test]
fn a_snapshot_is_taken_at_the_next_turn_and_freed_here() {
    let mut bench = Bench::new(parts(4, 1, 1024, 64, 16));
    bench.step();
    let first = bench.gateway.snapshot();
    let next = first.edit().finish();
    let seen = Arc::downgrade(&first);
    drop(first);
    bench.gateway.publish(next);
    assert_eq!(bench.gateway.acknowledged(), [Generation(0); 4]);
    for worker in 0..4 {
        bench.gateway.collect();
        assert!(seen.upgrade().is_some(), "worker {worker} may still look at it");
        bench.gateway.step_one(WorkerIndex(worker), Moment::from_millis(3000));
    }
    assert_eq!(bench.gateway.acknowledged(), [Generation(1); 4]);
    assert!(seen.upgrade().is_some(), "no worker frees it");
    bench.gateway.collect();
    assert!(seen.upgrade().is_none(), "the publisher does");
    bench.finish();
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let refused = |change: &dyn Fn(&mut crate::worker::Setup)| {
        let mut setup = parts(2, 2, 256, 8, 8).setup;
        change(&mut setup);
        Lockstep::<Script>::with_engine(setup).unwrap_err()
    };
    assert!(matches!(refused(&|s| s.workers = 0), LaunchError::NoWorkers));
    assert!(matches!(refused(&|s| s.workers = 3), LaunchError::Queues { queues: 2, workers: 3, .. }));
    let swapped = refused(&|s| s.ports.swap(0, 1));
    assert!(matches!(swapped, LaunchError::PortOrder { index: PortIndex(1), position: 0, .. }));
}

#[test]
fn accounts_hold_under_random_traffic() {
    let mut rng = crate::base::Rng::from_seed(42);
    let mut bench = Bench::new(parts(4, 3, 4096, 4, 3));
    for round in 0..300 {
        for _ in 0..rng.below(400) {
            let mut orders = [0; 9];
            for order in orders.chunks_mut(3) {
                order[0] = rng.below(8) as u8;
                order[1] = rng.below(5) as u8;
            }
            if bench.cache.is_empty() && bench.cache.pool().spare_slots() == 0 {
                break;
            }
            let (worker, port) = (rng.below(4) as usize, rng.below(3) as usize);
            bench.send(worker, port, &orders);
        }
        bench.step();
        if round % 3 == 0 {
            for worker in 0..4 {
                for port in 0..3 {
                    bench.drain(worker, port);
                }
            }
        }
    }
    let totals = bench.gateway.totals();
    let dropped = |reason| totals.iter().map(|t| t.counters.drops[reason as usize]).sum::<u64>();
    assert!(dropped(DropReason::TransmitFull) > 0 && dropped(DropReason::HandoffFull) > 0);
    bench.finish();
}
