//! Random configurations and conversations, each packet's fate compared with what the reference NAT says of it.

mod actions;
mod conversation;
mod entries;
mod reference;
#[path = "../support/mod.rs"]
mod support;

use std::net::Ipv4Addr;

use proptest::prelude::*;
use proptest::sample::select;

use self::actions::{Action, action};
use self::conversation::Conversation;
use self::entries::{Proposal, proposal};
use self::support::cases;

const EIPS: [Ipv4Addr; 5] = [
    Ipv4Addr::new(203, 0, 113, 16),
    Ipv4Addr::new(203, 0, 113, 17),
    Ipv4Addr::new(203, 0, 113, 18),
    Ipv4Addr::new(203, 0, 113, 20),
    Ipv4Addr::new(203, 0, 113, 31),
];
const HOSTS: [Ipv4Addr; 4] = [
    Ipv4Addr::new(10, 0, 0, 2),
    Ipv4Addr::new(10, 0, 0, 3),
    Ipv4Addr::new(10, 0, 1, 2),
    Ipv4Addr::new(10, 0, 1, 3),
];
const PEERS: [Ipv4Addr; 4] = [
    Ipv4Addr::new(198, 51, 100, 1),
    Ipv4Addr::new(198, 51, 100, 2),
    Ipv4Addr::new(192, 0, 2, 7),
    Ipv4Addr::new(203, 0, 113, 9),
];
const PORTS: [u16; 8] = [53, 80, 1023, 1024, 4000, 4001, 40000, 65535];

fn port() -> impl Strategy<Value = u16> {
    select(&PORTS[..])
}

#[derive(Clone, Debug)]
struct Scenario {
    workers: u16,
    seed: u64,
    session_limit: u64,
    proposals: Vec<Proposal>,
    actions: Vec<Action>,
}

fn scenario(workers: u16, actions: usize) -> impl Strategy<Value = Scenario> {
    let roomy = workers > 1;
    let limit = prop_oneof![5 => Just(u64::MAX), 1 => 1..5_u64];
    let proposals = prop::collection::vec(proposal(roomy), 1..7);
    (any::<u16>(), limit, proposals, prop::collection::vec(action(roomy), 1..actions)).prop_map(
        move |(seed, session_limit, proposals, actions)| Scenario {
            workers,
            seed: u64::from(seed),
            session_limit,
            proposals,
            actions,
        },
    )
}

fn play(scenario: &Scenario) -> Result<(), TestCaseError> {
    let mut conversation = Conversation::new(scenario);
    for action in &scenario.actions {
        conversation.act(action).map_err(|difference| TestCaseError::fail(format!("{difference:?}")))?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn one_worker_does_what_the_reference_says(scenario in scenario(1, 60)) {
        play(&scenario)?;
    }
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn two_workers_do_what_the_reference_says(scenario in scenario(2, 60)) {
        play(&scenario)?;
    }

    #[test]
    fn four_workers_do_what_the_reference_says(scenario in scenario(4, 60)) {
        play(&scenario)?;
    }
}
