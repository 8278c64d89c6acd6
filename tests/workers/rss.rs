//! Gateways behind simulated NICs that distribute frames by RSS: packets come to the worker that owns their session, and where
//! they do not, they are handed over and nothing is lost.

use std::sync::Arc;
use std::time::Duration;

use crate::gateway::*;
use natgate::base::rss::{IndirectionTable, OwnedBy, Program, Rss};
use natgate::base::toeplitz::{MICROSOFT_KEY, SYMMETRIC_KEY};
use natgate::base::{Moment, Rng};
use natgate::nic::memory::Far;
use natgate::worker::Lockstep;
use natgate::worker::finish::conservation;

const HOSTS: u8 = 200;

/// A gateway between two NICs.
struct Bench {
    gateway: Lockstep,
    far: [Vec<Far>; 2],
    inside: Rss,
    outside: Arc<Rss>,
    now: Moment,
}

impl Bench {
    /// The NIC inside brings packets to their owners. That outside does as `outside` says; the gateway knows that unless the
    /// owners are found by it.
    fn new(workers: u16, outside: Rss) -> Self {
        let (mut setup, far) = setup(workers, 1 << 11);
        let outside = Arc::new(outside);
        if !outside.brings_home(OwnedBy::DestinationPort, workers) {
            setup.ports[OUTSIDE].rss = Some(Arc::clone(&outside));
        }
        let gateway = Lockstep::new(setup).unwrap();
        let inside = programmed(OwnedBy::Source, workers, 128);
        let mut bench = Self { gateway, far, inside, outside, now: Moment::from_secs(10) };
        assert!(bench.far[OUTSIDE][0].send(&arp((ROUTER, ROUTER_MAC), OUTSIDE_ADDRESS)));
        for n in 2..2 + HOSTS {
            assert!(bench.far[INSIDE][0].send(&arp(host(n), INSIDE_ADDRESS)));
            // One batch tells the other workers only of so many neighbours.
            if n % 30 == 0 {
                bench.settle();
            }
        }
        bench.settle();
        bench
    }

    fn settle(&mut self) {
        self.now = self.now + Duration::from_millis(1);
        assert!(self.gateway.settle(self.now, 50) < 50, "packets go in circles");
        self.gateway.verify().unwrap();
    }

    /// Datagrams of hosts to a peer, by the NIC inside; the external endpoints that they left with.
    fn send(&mut self, port: u16, peer: End) -> Vec<End> {
        for n in 2..2 + HOSTS {
            let (address, mac) = host(n);
            let queue = self.inside.queue((address, port), peer);
            let frame = udp(mac, INSIDE, (address, port), peer);
            assert!(self.far[INSIDE][usize::from(queue)].send(&frame));
        }
        self.settle();
        let out = datagrams(&mut self.far[OUTSIDE]);
        assert_eq!(out.len(), usize::from(HOSTS), "some did not leave");
        out.into_iter().map(|(_, external, to)| check(external, to, peer)).collect()
    }

    /// Answers, by the NIC outside. All of them arrive.
    fn answer(&mut self, externals: &[End], peer: End) {
        for external in externals {
            let queue = self.outside.queue(peer, *external);
            assert!(self.far[OUTSIDE][usize::from(queue)].send(&udp(ROUTER_MAC, OUTSIDE, peer, *external)));
        }
        self.settle();
        let mut hosts: Vec<_> =
            datagrams(&mut self.far[INSIDE]).into_iter().map(|(_, _, destination)| destination.0).collect();
        hosts.sort_unstable();
        hosts.dedup();
        assert_eq!(hosts.len(), usize::from(HOSTS), "some answers did not arrive");
    }

    fn handed(&self) -> u64 {
        self.gateway.totals().iter().map(|totals| totals.counters.handed).sum()
    }

    fn sessions(&self) -> u64 {
        let all = self.gateway.totals();
        all.iter().map(|t| t.counters.sessions_created - t.counters.sessions_removed).sum()
    }

    fn finish(mut self) {
        let ending = self.gateway.finish();
        conservation(&ending.workers, 0).unwrap();
        assert_eq!(ending.missing_slots, held(&mut self.far));
    }
}

fn check(external: End, to: End, peer: End) -> End {
    assert_eq!((external.0, to), (EIP, peer));
    external
}

fn programmed(by: OwnedBy, workers: u16, len: usize) -> Rss {
    let program = Program::new(by, workers, len).unwrap();
    Rss::new(&program.key, IndirectionTable::new(&program.table))
}

const PEERS: [End; 4] = [(SERVER, 53), (0x0101_0101, 443), (0xc633_6407, 40_000), (0x5db8_d822, 7)];

#[test]
fn nothing_is_handed_over_behind_a_nic_that_finds_the_owners() {
    for (workers, len) in [
        (2, 64),
        (2, 128),
        (3, 128),
        (4, 64),
        (5, 512),
        (8, 128),
        (12, 128),
        (16, 512),
        (31, 256),
        (48, 128),
        (64, 64),
        (64, 2048),
    ] {
        let mut bench = Bench::new(workers, programmed(OwnedBy::DestinationPort, workers, len));
        // Each inside endpoint sends to several peers, which its one mapping serves.
        for peer in PEERS {
            let externals = bench.send(4000, peer);
            bench.answer(&externals, peer);
        }
        assert_eq!(bench.sessions(), u64::from(HOSTS) * PEERS.len() as u64);
        assert_eq!(bench.handed(), 0, "{workers} workers, {len} entries");
        bench.finish();
    }
}

/// Keys that NICs have, and one of the gateway's choice.
fn keys() -> [[u8; 40]; 3] {
    let mut rng = Rng::from_seed(77);
    [MICROSOFT_KEY, SYMMETRIC_KEY, [0; 40].map(|_: u8| rng.next_u64() as u8)]
}

#[test]
fn a_first_peer_answers_to_the_owner_behind_any_nic_whose_hash_is_known() {
    for (workers, len) in [(2, 128), (3, 64), (4, 128), (7, 512), (8, 64), (16, 128), (32, 512), (64, 512)] {
        for key in keys() {
            let mut bench = Bench::new(workers, Rss::new(&key, IndirectionTable::round_robin(len, workers)));
            let rounds = 4;
            let mut first = Vec::new();
            for (round, peer) in (0..rounds).zip(PEERS) {
                let externals = bench.send(4000 + round, peer);
                bench.answer(&externals, peer);
                first.push((4000 + round, externals));
            }
            let handed = bench.handed();
            let sent = u64::from(HOSTS) * u64::from(rounds);
            // The same mappings, and peers that they were not made for: chance decides, and for all answers of a peer alike where
            // the number of workers is a power of two, as the hash is linear.
            for ((port, _), peer) in first.iter().zip(PEERS.iter().cycle().skip(1)) {
                let externals = bench.send(*port, *peer);
                bench.answer(&externals, *peer);
            }
            let second = bench.handed() - handed;
            println!(
                "{workers} workers, {len} entries, key {:02x}{:02x}..: handed over of {sent} answers: {handed} of first peers, \
                 {second} of second ones",
                key[0], key[1]
            );
            assert_eq!(handed, 0, "{workers} workers, {len} entries, key {:02x?}", &key[..2]);
            assert_eq!(bench.sessions(), sent * 2);
            bench.finish();
        }
    }
}

#[test]
fn a_changed_indirection_table_loses_no_session() {
    const WORKERS: u16 = 4;
    let by_owner = programmed(OwnedBy::DestinationPort, WORKERS, 128);
    let by_flow = Rss::new(&MICROSOFT_KEY, IndirectionTable::round_robin(128, WORKERS));
    for (outside, follows) in [(by_owner, false), (by_flow, true)] {
        let mut bench = Bench::new(WORKERS, outside);
        let peer = PEERS[0];
        let externals = bench.send(4000, peer);
        bench.answer(&externals, peer);
        assert_eq!(bench.handed(), 0);
        let sessions = bench.sessions();
        let as_it_was = bench.outside.table.queues();
        // Each entry another queue; and as if all queues but one were gone with a link.
        let moved: Vec<_> = as_it_was.iter().map(|queue| (queue + 1) % WORKERS).collect();
        for table in [moved, vec![2; 128]] {
            let before = bench.handed();
            bench.outside.table.set(&table);
            bench.answer(&externals, peer);
            assert!(bench.handed() > before, "nobody noticed");
            assert_eq!(bench.sessions(), sessions, "sessions were lost or made anew");
        }
        if follows {
            // Where the gateway knows the table, new sessions follow it.
            let moved: Vec<_> = as_it_was.iter().map(|queue| (queue + 3) % WORKERS).collect();
            bench.outside.table.set(&moved);
            let before = bench.handed();
            let externals = bench.send(5000, peer);
            bench.answer(&externals, peer);
            assert_eq!(bench.handed(), before);
        }
        bench.outside.table.set(&as_it_was);
        let before = bench.handed();
        bench.answer(&externals, peer);
        assert_eq!(bench.handed(), before, "all is as it was");
        bench.finish();
    }
}
