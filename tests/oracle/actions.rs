//! What happens in a conversation.

use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::select;

use crate::entries::{Proposal, proposal};
use crate::support::Flags;
use crate::support::packet::{PARAMETER_PROBLEM, REDIRECT, TIME_EXCEEDED, UNREACHABLE};
use crate::{EIPS, HOSTS, PEERS, port};

/// What somebody sends.
#[derive(Clone, Copy, Debug)]
pub enum What {
    Udp { checksum: bool },
    Tcp(Flags),
    Ping,
    Pong,
    Gre,
}

#[derive(Clone, Copy, Debug)]
pub enum To {
    Peer(usize, u16),
    Eip(usize, u16),
    /// The source of the n-th last packet that left to the outside.
    Mapping(usize),
    Gateway,
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub enum Action {
    FromInside {
        vpc: usize,
        host: usize,
        port: u16,
        what: What,
        to: To,
        ttl: u8,
    },
    FromOutside {
        peer: usize,
        port: u16,
        what: What,
        to: To,
        ttl: u8,
    },
    /// Whoever got the n-th last packet answers it.
    Answer(usize),
    /// The same with other TCP flags.
    AnswerTcp(usize, Flags),
    /// The last packet but n that was sent is sent again.
    Again(usize),
    /// Whoever got the n-th last packet, or a router before it, complains of it.
    Complain {
        about: usize,
        router: bool,
        kind: u8,
        code: u8,
        bytes: Option<usize>,
    },
    /// A datagram is to be sent in fragments.
    Cut(Box<Self>, Cut),
    /// One of them is sent.
    Part {
        which: Which,
        /// Whether it stays, to be sent once more.
        again: bool,
    },
    Wait(Duration),
    /// An entry more.
    Add(Proposal),
    /// One of the entries less.
    Remove(prop::sample::Index),
    /// The same configuration again.
    Reload,
}

/// How a datagram is cut.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// Bytes of each fragment.
    pub size: usize,
    pub id: u16,
    pub extra: Extra,
}

/// What somebody puts among the fragments of a datagram.
#[derive(Clone, Copy, Debug)]
pub enum Extra {
    Nothing,
    /// Other bytes for a part of it.
    Overlap,
    /// Another beginning, with another port.
    Forged,
}

/// Which of the fragments that are still to be sent.
#[derive(Clone, Copy, Debug)]
pub enum Which {
    Oldest,
    Newest,
    Any(prop::sample::Index),
}

fn what() -> impl Strategy<Value = What> {
    let flags = [Flags::ACK, Flags::SYN_ACK, Flags::FIN_ACK, Flags::RST, Flags(0), Flags(0x29)];
    prop_oneof![
        4 => any::<bool>().prop_map(|checksum| What::Udp { checksum }),
        4 => Just(What::Tcp(Flags::SYN)),
        1 => select(flags.to_vec()).prop_map(What::Tcp),
        2 => Just(What::Ping),
        1 => Just(What::Pong),
        1 => Just(What::Gre),
    ]
}

pub fn action(roomy: bool) -> impl Strategy<Value = Action> {
    let to = || {
        prop_oneof![
            4 => (0..PEERS.len(), port()).prop_map(|(peer, port)| To::Peer(peer, port)),
            3 => (0..EIPS.len(), port()).prop_map(|(eip, port)| To::Eip(eip, port)),
            3 => (0..4_usize).prop_map(To::Mapping),
            1 => Just(To::Gateway),
        ]
    };
    let vpc = prop_oneof![3 => Just(0_usize), 1 => Just(1_usize)];
    let ttl = || prop_oneof![8 => Just(64_u8), 1 => 0..3_u8, 1 => Just(255_u8)];
    let datagram = {
        let from_inside = (vpc.clone(), 0..HOSTS.len(), port(), what(), to(), ttl()).prop_map(
            |(vpc, host, port, what, to, ttl)| Action::FromInside { vpc, host, port, what, to, ttl },
        );
        let from_outside = (0..PEERS.len(), port(), what(), to(), ttl())
            .prop_map(|(peer, port, what, to, ttl)| Action::FromOutside { peer, port, what, to, ttl });
        prop_oneof![3 => from_inside, 2 => from_outside, 3 => (0..4_usize).prop_map(Action::Answer)]
    };
    let extra = prop_oneof![4 => Just(Extra::Nothing), 1 => Just(Extra::Overlap), 1 => Just(Extra::Forged)];
    let cut = (select(vec![8, 16, 24, 24, 40]), 1..4_u16, extra).prop_map(|(size, id, extra)| Cut {
        size,
        id,
        extra,
    });
    let which = prop_oneof![
        3 => Just(Which::Oldest),
        2 => Just(Which::Newest),
        2 => any::<prop::sample::Index>().prop_map(Which::Any),
    ];
    let waits = [1, 3, 31, 62, 130, 242, 302, 3600, 7500].map(Duration::from_secs);
    let flags = [Flags::FIN_ACK, Flags::RST_ACK, Flags::SYN, Flags(0x18)];
    let complaints =
        [(UNREACHABLE, 3), (UNREACHABLE, 4), (TIME_EXCEEDED, 0), (PARAMETER_PROBLEM, 0), (REDIRECT, 1)];
    prop_oneof![
        6 => (vpc, 0..HOSTS.len(), port(), what(), to(), ttl())
            .prop_map(|(vpc, host, port, what, to, ttl)| Action::FromInside { vpc, host, port, what, to, ttl }),
        4 => (0..PEERS.len(), port(), what(), to(), ttl())
            .prop_map(|(peer, port, what, to, ttl)| Action::FromOutside { peer, port, what, to, ttl }),
        8 => (0..4_usize).prop_map(Action::Answer),
        2 => (0..3_usize, select(flags.to_vec())).prop_map(|(n, flags)| Action::AnswerTcp(n, flags)),
        2 => (0..4_usize).prop_map(Action::Again),
        3 => (0..4_usize, any::<bool>(), select(complaints.to_vec()), select(vec![None, Some(8), Some(28)]))
            .prop_map(|(about, router, (kind, code), bytes)| Action::Complain { about, router, kind, code, bytes }),
        3 => (datagram, cut).prop_map(|(datagram, cut)| Action::Cut(Box::new(datagram), cut)),
        12 => (which, prop::bool::weighted(0.1)).prop_map(|(which, again)| Action::Part { which, again }),
        2 => select(waits.to_vec()).prop_map(Action::Wait),
        1 => proposal(roomy).prop_map(Action::Add),
        1 => any::<prop::sample::Index>().prop_map(Action::Remove),
        1 => Just(Action::Reload),
    ]
}
