//! The private hosts that carry most of late, in a table of fixed size, with what they have carried.
//!
//! A host has a set of eight rows. While others have them all, what it carries weighs against the lightest of them, whose row it
//! takes once it outweighs it (the count of frequent items by Misra and Gries, within each set). Weights halve with each
//! minute, so that a host that fell silent gives way however much it once carried.

use crate::base::Tick;
use crate::nat::carried::Carried;
use crate::nat::hosts::HostKey;
use crate::nat::key::Hashed;

/// Sets of the table, a power of two.
const SETS: usize = 256;
/// Rows of a set.
const WAYS: usize = 8;
/// Rows of the table: private hosts of which one worker counts what they carry, at most.
pub const TALKERS: usize = SETS * WAYS;
/// After so many ticks a weight is half of what it was.
const HALF_LIFE: u32 = (60 * 1_000_000_000 / Tick::NANOS) as u32;

/// What a private host has carried since it came to be in the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Talker {
    /// Its VPC as a tenant number; in a free row zero.
    pub tenant: u16,
    /// Its address.
    pub address: u32,
    /// Its SNAT sessions at the moment.
    pub sessions: u32,
    /// Bytes of late: those of a minute ago count half.
    pub weight: u64,
    /// Bytes of IP packets from it to the Internet side.
    pub bytes_out: u64,
    /// Bytes of IP packets to it.
    pub bytes_in: u64,
    /// IP packets from it.
    pub packets_out: u64,
    /// IP packets to it.
    pub packets_in: u64,
}

impl Talker {
    /// Adds what another worker has counted of the same host.
    pub fn add(&mut self, other: &Self) {
        self.sessions += other.sessions;
        self.weight += other.weight;
        self.bytes_out += other.bytes_out;
        self.bytes_in += other.bytes_in;
        self.packets_out += other.packets_out;
        self.packets_in += other.packets_in;
    }

    fn is(&self, host: HostKey) -> bool {
        (self.tenant, self.address) == (host.tenant, host.address)
    }

    fn carried(&mut self, out: Carried, into: Carried) {
        self.weight += u64::from(out.bytes()) + u64::from(into.bytes());
        self.bytes_out += u64::from(out.bytes());
        self.bytes_in += u64::from(into.bytes());
        self.packets_out += u64::from(out.packets());
        self.packets_in += u64::from(into.packets());
    }
}

/// The rows that a host may have.
#[derive(Clone, Debug, Default)]
struct Set {
    /// Up to when the weights have been halved.
    halved: Tick,
    rows: [Talker; WAYS],
}

impl Set {
    fn halvings(&self, now: Tick) -> u32 {
        now.since(self.halved) / HALF_LIFE
    }

    fn carried(&mut self, host: HostKey, out: Carried, into: Carried, now: Tick) {
        let halvings = self.halvings(now);
        if halvings > 0 {
            self.halved = self.halved.plus(halvings * HALF_LIFE);
            self.rows.iter_mut().for_each(|row| row.weight = halved(row.weight, halvings));
        }
        if let Some(row) = self.rows.iter_mut().find(|row| row.is(host)) {
            row.carried(out, into);
            return;
        }
        let Some(lightest) = self.rows.iter_mut().min_by_key(|row| (row.tenant != 0, row.weight)) else {
            return;
        };
        let weight = u64::from(out.bytes()) + u64::from(into.bytes());
        if lightest.tenant != 0 && weight <= lightest.weight {
            lightest.weight -= weight;
            return;
        }
        *lightest = Talker { tenant: host.tenant, address: host.address, ..Talker::default() };
        lightest.carried(out, into);
    }
}

fn halved(weight: u64, times: u32) -> u64 {
    weight.checked_shr(times).unwrap_or(0)
}

/// The busiest private hosts of one worker.
#[derive(Clone, Debug)]
pub(super) struct Talkers {
    sets: Vec<Set>,
}

impl Default for Talkers {
    fn default() -> Self {
        Self { sets: vec![Set::default(); SETS] }
    }
}

impl Talkers {
    /// A session of a host carried something.
    pub(super) fn carried(&mut self, host: &Hashed<HostKey>, out: Carried, into: Carried, now: Tick) {
        if let Some(set) = self.sets.get_mut(host.hash as usize & (SETS - 1)) {
            set.carried(host.key, out, into, now);
        }
    }

    /// The rows in use from number `from` on, `most` rows at the most.
    pub(super) fn rows(&self, from: usize, most: usize, now: Tick) -> impl Iterator<Item = Talker> {
        let sets = self.sets.iter();
        let all = sets.flat_map(move |set| set.rows.iter().map(move |row| (row, set.halvings(now))));
        let some = all.skip(from).take(most).filter(|(row, _)| row.tenant != 0);
        some.map(|(row, halvings)| Talker { weight: halved(row.weight, halvings), ..*row })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn host(number: u32) -> HostKey {
        HostKey { tenant: 1, address: number }
    }

    const fn hashed(number: u32, hash: u64) -> Hashed<HostKey> {
        Hashed { key: host(number), hash }
    }

    fn packets(count: usize, bytes: u16) -> Carried {
        let mut carried = Carried::default();
        (0..count).for_each(|_| assert!(!carried.count(bytes)));
        carried
    }

    #[test]
    fn hosts_that_carry_most_are_found_among_many_and_counted_whole() {
        let mut set = Set::default();
        let (large, small) = (packets(100, 1500), packets(1, 60));
        for round in 0..200 {
            for busy in 0..4 {
                set.carried(host(busy), large, small, Tick(round));
            }
            for other in 0..50 {
                set.carried(host(1000 + round * 50 + other), small, Carried::default(), Tick(round));
            }
        }
        for busy in 0..4 {
            let row = set.rows.iter().find(|row| row.is(host(busy))).expect("a row");
            assert_eq!((row.bytes_out, row.packets_out), (200 * 150_000, 200 * 100));
            assert_eq!((row.bytes_in, row.packets_in), (200 * 60, 200));
        }
    }

    #[test]
    fn a_host_that_is_silent_gives_way() {
        let mut talkers = Talkers::default();
        let hour = HALF_LIFE * 60;
        for number in 0..WAYS as u32 {
            for _ in 0..1000 {
                talkers.carried(&hashed(number, 7), packets(200, 1500), Carried::default(), Tick(0));
            }
        }
        let newcomer = hashed(99, 7);
        talkers.carried(&newcomer, packets(1, 60), Carried::default(), Tick(1));
        let found = |talkers: &Talkers, now| {
            let rows: Vec<_> = talkers.rows(0, TALKERS, now).collect();
            assert_eq!(rows.len(), WAYS);
            rows.iter().find(|row| row.is(host(99))).copied()
        };
        assert_eq!(found(&talkers, Tick(1)), None);
        assert!(talkers.rows(0, TALKERS, Tick(hour)).all(|row| row.weight < 60));
        talkers.carried(&newcomer, packets(1, 60), Carried::default(), Tick(hour));
        let row = found(&talkers, Tick(hour)).expect("it took a row");
        assert_eq!((row.weight, row.bytes_out, row.packets_out), (60, 60, 1));
    }

    #[test]
    fn rows_are_listed_piece_by_piece() {
        let mut talkers = Talkers::default();
        for number in 0..1000 {
            talkers.carried(&hashed(number, u64::from(number)), packets(1, 60), Carried::default(), Tick(0));
        }
        let pieces = (0..TALKERS).step_by(100).flat_map(|from| talkers.rows(from, 100, Tick(0)));
        let mut hosts: Vec<_> = pieces.map(|row| row.address).collect();
        hosts.sort_unstable();
        assert!(hosts.into_iter().eq(0..1000));
    }
}
