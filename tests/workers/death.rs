//! A worker that dies of a defect works on: its queues are polled again, DNAT goes on, the others never stop, and every frame and
//! every buffer is accounted for.

use std::sync::Arc;
use std::time::Duration;

use crate::gateway::fragile::{AFTER, BEFORE, Fragile};
use crate::gateway::*;
use natgate::base::time::Clock;
use natgate::base::{DropReason, EipIndex, EntryId, GatewayIndex, InterfaceIndex, VpcIndex, WorkerIndex};
use natgate::nat::SessionFilter;
use natgate::nic::memory::Far;
use natgate::policy::eip::{HostOneToOne, OneToOne};
use natgate::policy::{Eip, Host, Snapshot, Timeouts};
use natgate::worker::finish::conservation;
use natgate::worker::{Gateway, Idle, OnDeath, Running, Threads};

/// The EIP that a host has to itself.
const OWN: u32 = EIP + 1;
const SERVED: u8 = 40;

/// The usual gateway, and an EIP that is one private host's.
fn configuration() -> Arc<Snapshot> {
    let (id, timeouts) = (EntryId(2), Timeouts::default());
    let (served, _) = host(SERVED);
    let mut edit = snapshot().edit();
    let mut eip = Eip::new(EipIndex(1), OWN, InterfaceIndex(0));
    eip.gateway = Some(GatewayIndex(0));
    eip.any_port = Some(OneToOne { id, vpc: VpcIndex(0), host: served, timeouts });
    edit.put_eip(eip);
    let own = HostOneToOne { id, eip: EipIndex(1), address: OWN, timeouts };
    edit.put_host(VpcIndex(0), served, Some(Host::new(Some(own), Vec::new())));
    edit.finish()
}

fn start(idle: Idle, on_death: OnDeath) -> (Running<Fragile>, [Vec<Far>; 2]) {
    let (setup, mut far) = setup(2, 1 << 14);
    let setup = natgate::worker::Setup { snapshot: configuration(), ..setup };
    let threads = Threads { cores: None, idle, clock: Clock::start(), on_death };
    let gateway = Gateway::launch_with::<Fragile>(setup, threads).unwrap();
    wait("all workers know the neighbours", || {
        introduce(&mut far);
        gateway.workers().all(|worker| gateway.occupancy(worker).unwrap().neighbours >= 41)
    });
    (gateway, far)
}

/// What hosts and routers say when they are asked.
fn introduce(far: &mut [Vec<Far>; 2]) {
    for queue in &mut far[OUTSIDE] {
        queue.send(&arp((ROUTER, ROUTER_MAC), OUTSIDE_ADDRESS));
    }
    for queue in &mut far[INSIDE] {
        for n in 2..42 {
            queue.send(&arp(host(n), INSIDE_ADDRESS));
        }
    }
}

fn inbound(port: u16) -> Vec<u8> {
    udp(ROUTER_MAC, OUTSIDE, (SERVER, 53), (OWN, port))
}

/// Datagrams of the one-to-one entry that came out, by the worker that sent them.
fn served(far: &mut [Vec<Far>; 2]) -> [u64; 2] {
    let mut count = [0; 2];
    for (worker, _, (address, _)) in datagrams(&mut far[INSIDE]) {
        count[worker] += u64::from(address == host(SERVED).0);
    }
    count
}

fn sessions(gateway: &Running<Fragile>) -> [usize; 2] {
    let mut count = [0; 2];
    let each = |rows: &[natgate::nat::SessionRow]| {
        for row in rows {
            count[row.worker.index()] += 1;
        }
        std::ops::ControlFlow::Continue(())
    };
    gateway.sessions(&SessionFilter::default(), each).unwrap();
    count
}

fn dies_and_lives(idle: Idle, death: u16) {
    let (gateway, mut far) = start(idle, OnDeath::Restart);
    for n in 2..32 {
        for port in 0..10 {
            far[INSIDE][usize::from(n % 2)].send(&udp(
                host(n).1,
                INSIDE,
                (host(n).0, 4000 + port),
                (SERVER, 53),
            ));
        }
    }
    wait("there are sessions", || sessions(&gateway).iter().sum::<usize>() == 300);
    let before = sessions(&gateway);
    assert!(before.iter().all(|count| *count > 20), "{before:?}");
    let meter = || gateway.snapshot().gateway(GatewayIndex(0)).unwrap().meter.sessions();
    assert_eq!(meter(), 300);

    let mut sent = [0_u64; 2];
    let mut came = [0_u64; 2];
    let round = |far: &mut [Vec<Far>; 2], sent: &mut [u64; 2], came: &mut [u64; 2]| {
        for worker in 0..2 {
            sent[worker] += u64::from(far[OUTSIDE][worker].send(&inbound(4000)));
        }
        let new = served(far);
        *came = [came[0] + new[0], came[1] + new[1]];
    };
    for _ in 0..100 {
        round(&mut far, &mut sent, &mut came);
    }
    // Among packets that are to be sent, and some that are to be handed over.
    for n in 2..32 {
        far[OUTSIDE][1].send(&udp(ROUTER_MAC, OUTSIDE, (SERVER, 53), (EIP, 2000 + n)));
    }
    assert!(far[OUTSIDE][1].send(&inbound(death)));
    let mut incidents = Vec::new();
    wait("it works again", || {
        round(&mut far, &mut sent, &mut came);
        incidents.extend(gateway.incidents());
        !incidents.is_empty()
    });
    wait("the other worker has sent all that it got", || {
        let new = served(&mut far);
        came = [came[0] + new[0], came[1] + new[1]];
        came[0] == sent[0]
    });
    let [incident] = &incidents[..] else { panic!("{incidents:?}") };
    assert_eq!((incident.worker, incident.sessions), (WorkerIndex(1), incident.sessions));
    assert!(incident.message.starts_with("a defect "), "{incident}");
    // The one-to-one sessions count, too.
    assert!(incident.sessions >= before[1] as u64 && incident.frames >= 1, "{incident}");
    gateway.check().unwrap();
    let health = gateway.health();
    assert_eq!((health[0].restarts, health[1].restarts), (0, 1));
    assert_eq!(health[1].sessions_lost, incident.sessions);
    println!("back after {:?}, {came:?} of {sent:?} came", incident.took);

    // What comes from now on is served, and sessions begin anew; the limits count those that are there.
    assert_eq!(meter(), before[0] as u64);
    wait("it knows its neighbours again", || {
        introduce(&mut far);
        gateway.occupancy(WorkerIndex(1)).unwrap().neighbours >= 41
    });
    let mut late = served(&mut far)[1];
    for _ in 0..100 {
        assert!(far[OUTSIDE][1].send(&inbound(4000)));
    }
    wait("DNAT goes on", || {
        late += served(&mut far)[1];
        late >= 100
    });
    for n in 2..32 {
        far[INSIDE][usize::from(n % 2)].send(&udp(host(n).1, INSIDE, (host(n).0, 4000), (SERVER, 53)));
    }
    wait("sessions begin anew", || sessions(&gateway)[1] >= before[1] / 10);
    let next = gateway.snapshot().edit().finish();
    gateway.publish(next, Duration::from_secs(2)).unwrap();

    let ending = gateway.stop();
    conservation(&ending.workers, 0).unwrap();
    assert!(ending.died.is_empty());
    let lost = ending.workers[1].counters.drops[DropReason::WorkerDied as usize];
    assert_eq!(
        (lost, ending.workers[0].counters.drops[DropReason::WorkerDied as usize]),
        (incident.frames, 0)
    );
    assert_eq!(ending.missing_slots, held(&mut far));
}

#[test]
fn a_worker_that_dies_before_it_decides_works_on() {
    dies_and_lives(Idle::Poll, BEFORE);
}

#[test]
fn a_worker_that_dies_of_what_it_decided_works_on() {
    dies_and_lives(Idle::Sleep, AFTER);
}

#[test]
fn one_that_is_not_to_be_started_anew_is_mourned() {
    let (gateway, mut far) = start(Idle::Sleep, OnDeath::Mourn);
    far[OUTSIDE][1].send(&inbound(BEFORE));
    wait("it is noticed", || gateway.check().is_err());
    assert_eq!(gateway.check().unwrap_err().worker, WorkerIndex(1));
    assert!(gateway.incidents().is_empty());
    assert_eq!(gateway.stop().died.len(), 1);
}

#[test]
fn one_that_dies_all_the_time_is_given_up() {
    let (gateway, mut far) = start(Idle::Poll, OnDeath::Restart);
    wait("it is given up", || {
        far[OUTSIDE][1].send(&inbound(BEFORE));
        gateway.check().is_err()
    });
    assert_eq!(gateway.health()[1].restarts, 100);
    drop(gateway.stop());
}
