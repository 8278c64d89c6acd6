//! Workers with the real engine on memory ports: sessions whose two directions arrive at different workers, management
//! while packets pass, and the accounts at the end.

use std::ops::ControlFlow;

use crate::gateway::*;
use natgate::base::owner::{owner_of_host, owner_of_port};
use natgate::base::time::Clock;
use natgate::base::{DropReason, Moment, WorkerIndex};
use natgate::nat::{SessionFilter, TraceFilter, Verdict};
use natgate::nic::memory::Far;
use natgate::policy::Prefix;
use natgate::worker::finish::conservation;
use natgate::worker::{Gateway, Idle, Lockstep, OnDeath, Running, Threads, TraceError};

/// Tells one worker where the router and a few hosts are: it tells the others.
fn introduce(far: &mut [Vec<Far>; 2], hosts: u8) {
    assert!(far[OUTSIDE][0].send(&arp((ROUTER, ROUTER_MAC), OUTSIDE_ADDRESS)));
    for n in 2..2 + hosts {
        assert!(far[INSIDE][0].send(&arp(host(n), INSIDE_ADDRESS)));
    }
}

#[test]
fn both_directions_of_a_session_arrive_at_any_worker() {
    const WORKERS: u16 = 4;
    let (setup, mut far) = setup(WORKERS, 1 << 12);
    let mut gateway = Lockstep::new(setup).unwrap();
    let mut now = Moment::from_secs(10);
    let mut settle = |gateway: &mut Lockstep| {
        now = now + std::time::Duration::from_millis(1);
        assert!(gateway.settle(now, 20) < 20, "packets go in circles");
        gateway.verify().unwrap();
    };
    introduce(&mut far, 30);
    settle(&mut gateway);
    for n in 2..32 {
        for queue in &mut far[INSIDE] {
            let frame = udp(host(n).1, INSIDE, (host(n).0, 4000), (SERVER, 53));
            assert!(queue.send(&frame));
        }
    }
    settle(&mut gateway);
    let went_out = datagrams(&mut far[OUTSIDE]);
    assert_eq!(went_out.len(), 30 * usize::from(WORKERS));
    for &(worker, source, destination) in &went_out {
        assert_eq!((source.0, destination), (EIP, (SERVER, 53)));
        assert_eq!(owner_of_port(source.1, WORKERS), worker as u16, "ports are the owner's");
    }
    for (n, &(_, external, _)) in went_out.iter().enumerate() {
        let worker = n % usize::from(WORKERS);
        assert!(far[OUTSIDE][worker].send(&udp(ROUTER_MAC, OUTSIDE, (SERVER, 53), external)));
    }
    settle(&mut gateway);
    let came_back = datagrams(&mut far[INSIDE]);
    assert_eq!(came_back.len(), went_out.len());
    for &(worker, source, destination) in &came_back {
        assert_eq!((source, destination.1), ((SERVER, 53), 4000));
        assert_eq!(owner_of_host(destination.0, WORKERS), worker as u16);
    }
    let totals = gateway.totals();
    assert_eq!(totals.iter().map(|t| t.counters.sessions_created).sum::<u64>(), 30);
    assert!(
        totals.iter().all(|t| t.counters.handed > 0 && t.counters.taken_over > 0),
        "all workers share the work"
    );

    let ending = gateway.finish();
    conservation(&ending.workers, 0).unwrap();
    assert_eq!(ending.missing_slots, held(&mut far));
}

/// A frame's datagram in three fragments.
fn fragments(frame: &[u8], id: u8) -> Vec<Vec<u8>> {
    let (head, payload) = frame.split_at(34);
    let parts: Vec<_> = payload.chunks(16).collect();
    let part = |(n, bytes): (usize, &&[u8])| {
        let mut part = [head, bytes].concat();
        part[14 + 2..14 + 4].copy_from_slice(&(20 + bytes.len() as u16).to_be_bytes());
        part[14 + 5] = id;
        let more = if n + 1 < parts.len() { 0x2000 } else { 0 };
        part[14 + 6..14 + 8].copy_from_slice(&(more | (n * 2) as u16).to_be_bytes());
        part[14 + 10..14 + 12].fill(0);
        let sum = etherparse::checksum::Sum16BitWords::new().add_slice(&part[14..34]).ones_complement();
        part[14 + 10..14 + 12].copy_from_slice(&sum.to_ne_bytes());
        part
    };
    parts.iter().enumerate().map(part).collect()
}

#[test]
fn fragments_arrive_at_any_worker_in_any_order() {
    const WORKERS: u16 = 4;
    let (setup, mut far) = setup(WORKERS, 1 << 12);
    let mut gateway = Lockstep::new(setup).unwrap();
    let now = Moment::from_secs(10);
    let settle = |gateway: &mut Lockstep| {
        assert!(gateway.settle(now, 20) < 20, "packets go in circles");
        gateway.verify().unwrap();
    };
    introduce(&mut far, 30);
    settle(&mut gateway);
    for n in 2..32 {
        assert!(far[INSIDE][0].send(&udp(host(n).1, INSIDE, (host(n).0, 4000), (SERVER, 53))));
    }
    settle(&mut gateway);
    let went_out = datagrams(&mut far[OUTSIDE]);
    assert_eq!(went_out.len(), 30);
    // The last fragment of each reply first, each at another worker.
    for (n, &(_, external, _)) in went_out.iter().enumerate() {
        let parts = fragments(&udp(ROUTER_MAC, OUTSIDE, (SERVER, 53), external), n as u8);
        for (at, part) in parts.iter().enumerate().rev() {
            assert!(far[OUTSIDE][(n + at) % usize::from(WORKERS)].send(part));
            settle(&mut gateway);
        }
    }
    let mut came = std::collections::HashMap::<Vec<u8>, Vec<u8>>::new();
    for (worker, far) in far[INSIDE].iter_mut().enumerate() {
        while let Some(frame) = far.receive() {
            if frame[12..14] == [8, 0] {
                let destination: [u8; 4] = frame[30..34].try_into().unwrap();
                assert_eq!(owner_of_host(u32::from_be_bytes(destination), WORKERS), worker as u16);
                came.entry(destination.to_vec()).or_default().push(frame[21]);
            }
        }
    }
    assert_eq!(came.len(), 30, "every host gets its reply");
    assert!(came.values().all(|offsets| *offsets == [0, 4, 2] || *offsets == [0, 2, 4]), "{came:?}");
    assert!(gateway.totals().iter().all(|t| t.counters.held == 0 && t.counters.handed > 0));
    let ending = gateway.finish();
    conservation(&ending.workers, 0).unwrap();
    assert_eq!(ending.missing_slots, held(&mut far));
}

#[test]
fn floods_are_dropped_and_counted() {
    let (mut setup, mut far) = setup(2, 1 << 12);
    setup.ring = 32;
    let mut gateway = Lockstep::new(setup).unwrap();
    introduce(&mut far, 30);
    let now = Moment::from_secs(10);
    gateway.settle(now, 20);
    for round in 0..100 {
        for n in 2..32 {
            for queue in &mut far[INSIDE] {
                queue.send(&udp(host(n).1, INSIDE, (host(n).0, 4000 + round), (SERVER, 53)));
            }
        }
        if round % 10 == 9 {
            gateway.step(now);
            gateway.verify().unwrap();
        }
    }
    let totals = gateway.totals();
    let dropped = |reason| totals.iter().map(|t| t.counters.drops[reason as usize]).sum::<u64>();
    assert!(dropped(DropReason::HandoffFull) > 0, "the rings are too small for this");
    assert!(dropped(DropReason::TransmitFull) > 0, "nobody has taken the frames");
    let ending = gateway.finish();
    conservation(&ending.workers, 0).unwrap();
    assert_eq!(ending.missing_slots, held(&mut far));
}

fn launch(workers: u16, sessions: usize) -> (Running, [Vec<Far>; 2]) {
    let (setup, mut far) = setup(workers, sessions);
    let threads =
        Threads { cores: None, idle: Idle::Sleep, clock: Clock::start(), on_death: OnDeath::default() };
    let gateway = Gateway::launch(setup, threads).unwrap();
    introduce(&mut far, 50);
    wait("all workers know the neighbours", || {
        gateway.workers().all(|worker| gateway.occupancy(worker).unwrap().neighbours >= 51)
    });
    (gateway, far)
}

#[test]
fn sessions_are_listed_while_packets_pass() {
    const SESSIONS: usize = 3000;
    let (gateway, mut far) = launch(2, 1 << 20);
    let mut out = 0;
    for n in 0..SESSIONS {
        let (address, mac) = host(2 + (n % 50) as u8);
        let frame = udp(mac, INSIDE, (address, 1024 + (n / 50) as u16), (SERVER, 53));
        assert!(far[INSIDE][n % 2].send(&frame));
        if n % 100 == 99 {
            wait("the datagrams come out", || {
                out += datagrams(&mut far[OUTSIDE]).len();
                out == n + 1
            });
        }
    }
    let mut seen = std::collections::HashSet::new();
    let mut pages = 0;
    gateway
        .sessions(&SessionFilter::default(), |rows| {
            pages += 1;
            seen.extend(rows.iter().map(|row| row.inside));
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(seen.len(), SESSIONS);
    assert!(pages >= 4, "{pages} pages");
    let of_one = SessionFilter { inside: Some(Prefix::host(host(7).0)), ..SessionFilter::default() };
    let mut count = 0;
    gateway
        .sessions(&of_one, |rows| {
            count += rows.len();
            assert!(rows.iter().all(|row| row.inside.0 == host(7).0 && row.external.0 == EIP));
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(count, SESSIONS / 50);
    let mut pages = 0;
    let first_page = |_: &[_]| {
        pages += 1;
        ControlFlow::Break(())
    };
    gateway.sessions(&SessionFilter::default(), first_page).unwrap();
    assert_eq!(pages, 1);
    let ending = gateway.stop();
    conservation(&ending.workers, 0).unwrap();
    assert_eq!(ending.missing_slots, held(&mut far));
}

#[test]
fn packets_are_traced_on_all_workers() {
    let (gateway, mut far) = launch(2, 1 << 12);
    let filter = TraceFilter { address: Some(Prefix::host(host(9).0)), ..TraceFilter::default() };
    let mut trace = gateway.trace(filter).unwrap();
    assert_eq!(gateway.trace(filter).unwrap_err(), TraceError::Busy);
    for n in 2..20 {
        for queue in &mut far[INSIDE] {
            queue.send(&udp(host(n).1, INSIDE, (host(n).0, 4000), (SERVER, 53)));
        }
    }
    let mut records = Vec::new();
    wait("three records: at once, handed over, taken over", || {
        records.extend(trace.look().unwrap());
        records.len() >= 3
    });
    assert!(records.iter().all(|record| record.before.source == host(9).0));
    let owner = WorkerIndex(owner_of_host(host(9).0, 2));
    let sent: Vec<_> =
        records.iter().filter(|record| matches!(record.verdict, Verdict::Send { .. })).collect();
    assert_eq!(sent.len(), 2);
    assert!(sent.iter().all(|r| r.worker == owner && r.after.is_some_and(|after| after.source == EIP)));
    drop(trace);
    assert!(gateway.trace(filter).unwrap().look().unwrap().is_empty());
    conservation(&gateway.stop().workers, 0).unwrap();
}
