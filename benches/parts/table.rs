//! The session table beside hash maps for general use, which hold what it holds: both directions of each session, and its
//! deadline.

use std::collections::HashMap as StdMap;
use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use hashbrown::HashMap as BrownMap;
use natgate::base::time::Clock;
use natgate::base::{EipIndex, EntryId, Generation, Moment, Rng, Tick};
use natgate::nat::key::{FlowKey, Hasher};
use natgate::nat::session::{ByteCount, Flow, Record, Session, SessionKind};
use natgate::nat::table::SessionTable;
use natgate::wire::protocol;

use crate::allocations;

/// Keys looked up at once, as in a batch.
const BATCH: usize = 256;
const BORN: Tick = Moment::from_secs(1).tick();
const TIMEOUT: u32 = 3000;

/// Session number `n`: neighbouring hosts, some peers.
fn session(n: u32) -> Session {
    let flow = Flow {
        kind: SessionKind::Snat,
        protocol: protocol::UDP,
        tenant: 1,
        inside: (0x0a00_0000 + n / 4, 20_000 + (n % 4) as u16),
        external: (0x6440_0000 + n / 50_000, (n % 50_000) as u16 + 1024),
        peer: (0xc612_0000 + n % 977, 443),
        eip: EipIndex(n / 50_000),
        entry: EntryId(1),
    };
    Session::new(&flow, Generation(1), BORN)
}

fn record() -> Record {
    Record {
        created: BORN.0,
        entry: 1,
        gateway: 0,
        mapping: 0,
        timeout_transitory: TIMEOUT,
        timeout_established: TIMEOUT,
        settled_out: ByteCount::default(),
        settled_in: ByteCount::default(),
    }
}

/// A flow in the order that hash maps want.
#[derive(Clone, Copy, Hash, PartialEq, Eq)]
struct Key(u32, u32, u16, u16, u16, u8);

impl From<FlowKey> for Key {
    fn from(k: FlowKey) -> Self {
        Self(k.source, k.destination, k.source_port, k.destination_port, k.tenant, k.protocol)
    }
}

/// What is compared.
trait Table {
    const NAME: &'static str;
    fn with_room(sessions: usize) -> Self;
    fn insert(&mut self, session: Session);
    /// How many of the flows are there.
    fn hits(&self, keys: &[FlowKey]) -> usize;
    /// Ends all sessions that are due; how many.
    fn expire(&mut self, now: Tick) -> usize;
}

impl Table for SessionTable {
    const NAME: &'static str = "natgate";

    fn with_room(sessions: usize) -> Self {
        Self::new(sessions, Hasher::new(&mut Rng::from_seed(1))).expect("memory")
    }

    fn insert(&mut self, session: Session) {
        assert!(Self::insert(self, &session, &record()).is_some());
    }

    /// In stages, as the engine does it.
    fn hits(&self, keys: &[FlowKey]) -> usize {
        let mut lanes = [(0u64, 0u32); BATCH];
        for (lane, key) in lanes.iter_mut().zip(keys) {
            lane.0 = self.hash(key);
            self.prefetch_bucket(lane.0);
        }
        for lane in lanes.iter_mut().take(keys.len()) {
            lane.1 = self.prefetch_session(lane.0);
        }
        let found =
            |(lane, key): &(&(u64, u32), &FlowKey)| self.is(lane.1, key) || self.find(lane.0, key).is_some();
        lanes.iter().zip(keys).filter(found).count()
    }

    fn expire(&mut self, now: Tick) -> usize {
        let mut ended = 0;
        // The sweep goes round all slots within a second.
        for tick in 0..20 {
            let mut budget = usize::MAX;
            while let Some(slot) = self.next_expired(now.plus(tick), &mut budget) {
                self.remove(slot);
                ended += 1;
            }
        }
        ended
    }
}

/// The session table one would write with hash maps.
macro_rules! mapped {
    ($table:ident, $map:ident, $name:literal) => {
        struct $table {
            index: $map<Key, u32>,
            sessions: Vec<Option<(Session, u32)>>,
            free: Vec<u32>,
        }

        impl Table for $table {
            const NAME: &'static str = $name;

            fn with_room(sessions: usize) -> Self {
                Self {
                    index: $map::with_capacity(2 * sessions),
                    sessions: vec![None; sessions],
                    free: (0..sessions as u32).rev().collect(),
                }
            }

            fn insert(&mut self, session: Session) {
                let slot = self.free.pop().expect("room");
                self.sessions[slot as usize] = Some((session, session.last_seen + TIMEOUT));
                let before = self.index.insert(session.outward_key().into(), slot);
                assert!(before.or(self.index.insert(session.inward_key().into(), slot)).is_none());
            }

            fn hits(&self, keys: &[FlowKey]) -> usize {
                let session = |key: &FlowKey| {
                    let slot = *self.index.get(&Key::from(*key))?;
                    self.sessions.get(slot as usize)?.as_ref().map(|(session, _)| session.has(key))
                };
                keys.iter().filter(|key| session(key) == Some(true)).count()
            }

            fn expire(&mut self, now: Tick) -> usize {
                let mut ended = 0;
                for (slot, place) in self.sessions.iter_mut().enumerate() {
                    if let Some((session, _)) = place.take_if(|(_, deadline)| *deadline <= now.0) {
                        self.index.remove(&Key::from(session.outward_key()));
                        self.index.remove(&Key::from(session.inward_key()));
                        self.free.push(slot as u32);
                        ended += 1;
                    }
                }
                ended
            }
        }
    };
}

mapped!(Brown, BrownMap, "hashbrown");
mapped!(Std, StdMap, "std");

/// Batches of keys at random: of sessions that are there, or of none.
fn batches(sessions: u32, hit: bool) -> Vec<[FlowKey; BATCH]> {
    let mut rng = Rng::from_seed(7);
    let mut key = || {
        let n = rng.below(sessions) + if hit { 0 } else { sessions };
        if rng.below(2) == 0 { session(n).outward_key() } else { session(n).inward_key() }
    };
    (0..256).map(|_| std::array::from_fn(|_| key())).collect()
}

fn filled<T: Table>(sessions: u32) -> T {
    let mut table = T::with_room(sessions as usize);
    (0..sessions).for_each(|n| table.insert(session(n)));
    table
}

fn look_ups<T: Table>(group: &mut BenchmarkGroup<'_, WallTime>, sessions: u32) {
    group.throughput(Throughput::Elements(BATCH as u64));
    let table = filled::<T>(sessions);
    for (name, hit) in [("hit", true), ("miss", false)] {
        let batches = batches(sessions, hit);
        assert_eq!(table.hits(&batches[0]), if hit { BATCH } else { 0 });
        let mut next = batches.iter().cycle();
        group.bench_function(format!("{name}, {sessions} sessions, {}", T::NAME), |b| {
            b.iter(|| black_box(table.hits(next.next().expect("endless"))));
        });
    }
}

fn comings_and_goings<T: Table>(group: &mut BenchmarkGroup<'_, WallTime>, sessions: u32) {
    group.throughput(Throughput::Elements(u64::from(sessions)));
    let clock = Clock::start();
    let mut table = filled::<T>(sessions);
    let late = BORN.plus(2 * TIMEOUT);
    assert_eq!(table.expire(late), sessions as usize);
    // The sweep's clock does not go back; each round is later than the one before.
    let mut round = 1;
    let mut rounds = |iterations: u64, of_insertion: bool| {
        let mut total = Duration::ZERO;
        for _ in 0..iterations {
            round += 1;
            let start = clock.now();
            (0..sessions).for_each(|n| table.insert(session(n)));
            let middle = clock.now();
            assert_eq!(table.expire(late.plus(round * 100)), sessions as usize);
            total += if of_insertion { middle.since(start) } else { clock.now().since(middle) };
        }
        total
    };
    allocations::report(&format!("insert and expire {sessions} sessions, {}", T::NAME), || rounds(1, true));
    group.bench_function(format!("insert, {sessions} sessions, {}", T::NAME), |b| {
        b.iter_custom(|iterations| rounds(iterations, true));
    });
    group.bench_function(format!("expire, {sessions} sessions, {}", T::NAME), |b| {
        b.iter_custom(|iterations| rounds(iterations, false));
    });
}

pub fn all(c: &mut Criterion) {
    let mut group = c.benchmark_group("table");
    for sessions in [65_536, 1_048_576] {
        look_ups::<SessionTable>(&mut group, sessions);
        look_ups::<Brown>(&mut group, sessions);
        look_ups::<Std>(&mut group, sessions);
    }
    comings_and_goings::<SessionTable>(&mut group, 65_536);
    comings_and_goings::<Brown>(&mut group, 65_536);
    comings_and_goings::<Std>(&mut group, 65_536);
    group.finish();
}
