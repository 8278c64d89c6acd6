//! What users of other NAT gateways suffer from, and must not here.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use natgate::base::owner::{owner_of_host, owner_of_port};
use natgate::base::{DropReason, Tick};
use natgate::nat::query::{SessionCursor, SessionFilter};
use natgate::policy::{Leaving, Mapping, PortRange, Prefix, Timeouts};

use crate::common::*;
use crate::support::net::Judge;
use crate::support::packet::{TCP, UDP, UNREACHABLE};
use crate::support::{Body, Config, Flags, Packet, Ports, Side, TestNet, ip};

/// The packets of `n` new flows of all kinds.
fn flows(n: u16) -> Vec<(Side, Packet)> {
    let client = (PEER.0, 50_000 + n);
    vec![
        (INSIDE, Packet::udp((HOST, 2000 + n), PEER, b"")),
        (INSIDE, Packet::syn((OTHER, 2000 + n), PEER)),
        (INSIDE, Packet::ping(HOST, PEER.0, 2000 + n, 1)),
        (OUTSIDE, Packet::udp(client, PUBLIC, b"")),
        (OUTSIDE, Packet::syn(client, (ANY_EIP, 22))),
        (INSIDE, Packet::udp((HOST, 9000 + n), PUBLIC, b"")),
    ]
}

/// Sessions never leave, the table fills, and nothing new gets in.
#[test]
fn as_many_sessions_leave_as_came() {
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&everything(), workers, 1);
        for round in 0..5 {
            for (side, packet) in (0..100).flat_map(flows) {
                net.send(side, &packet).one();
            }
            assert!(net.sessions().len() >= 600, "they are visible in round {round}");
            net.advance(Duration::from_mins(10));
            net.idle(4096 / 16);
            let totals = net.totals();
            assert_eq!(totals.sessions_created, totals.sessions_removed);
            for engine in &net.engines {
                let occupancy = engine.occupancy();
                assert_eq!((occupancy.sessions, occupancy.mappings, occupancy.hosts), (0, 0, 0));
            }
            assert_eq!(
                net.snapshot().gateway(natgate::base::GatewayIndex(0)).map(|g| g.meter.sessions()),
                Some(0)
            );
        }
    }
}

/// The port allocator and the sessions disagree.
#[test]
fn every_port_comes_back() {
    for mapping in [Mapping::EndpointIndependent, Mapping::EndpointDependent] {
        let config = snat().snat_with(|entry| {
            entry.ports = PortRange { first: 2000, last: 2015 };
            entry.mapping = mapping;
            if mapping == Mapping::EndpointDependent {
                entry.filtering = natgate::policy::Filtering::AddressAndPortDependent;
            }
        });
        let mut net = TestNet::new(&config);
        for round in 0..50 {
            let ports: HashSet<_> = (0..16).map(|n| mapped(&mut net, (host(1, n), 4000), PEER).1).collect();
            assert_eq!(ports.len(), 16, "in round {round}");
            let late = Packet::udp((HOST, 4000), PEER, b"");
            assert_eq!(net.send(INSIDE, &late).drops, [DropReason::PortsExhausted]);
            net.advance(Duration::from_mins(6));
            net.idle(4096 / 64);
        }
    }
}

/// "Out of ports" while there are some; ports that run out unseen; packets that leave untranslated then.
#[test]
fn full_is_said_when_full_and_nothing_leaks() {
    for workers in [1, 2] {
        let config = snat().snat_with(|entry| entry.ports = PortRange { first: 2000, last: 2099 });
        let mut net = TestNet::with_workers(&config, workers, 1);
        let mut ports = HashSet::new();
        for n in 0..500_u16 {
            let from = host(1 + (n / 200) as u8, (n % 200) as u8);
            let observed = net.send(INSIDE, &Packet::udp((from, 4000), PEER, b""));
            // That no private source leaves the network asserts itself.
            match observed.left.iter().find(|left| left.side == OUTSIDE) {
                Some(left) => assert!(ports.insert(left.packet.source().1)),
                None => assert_eq!(observed.drops, [DropReason::PortsExhausted]),
            }
        }
        assert_eq!(ports.len(), 100);
    }
}

/// A port goes to another host while the peer still has the old connection in TIME-WAIT.
#[test]
fn ports_of_closed_connections_rest() {
    let config = snat().snat_with(|entry| entry.ports = PortRange { first: 2000, last: 2000 });
    let mut net = TestNet::new(&config);
    let external = established(&mut net, (HOST, 4000), PEER);
    into(&mut net, &Packet::tcp(PEER, external, Flags::FIN_ACK, 7001, 1001));
    out(&mut net, &Packet::tcp((HOST, 4000), PEER, Flags::FIN_ACK, 1001, 7002));
    into(&mut net, &Packet::tcp(PEER, external, Flags::ACK, 7002, 1002));
    let other = Packet::syn((OTHER, 4000), PEER);
    net.advance(Duration::from_mins(4) - Duration::from_secs(1));
    assert_eq!(net.send(INSIDE, &other).drops, [DropReason::PortsExhausted]);
    net.advance(Duration::from_secs(3));
    assert_eq!(out(&mut net, &other).source(), external);
}

/// One host fills the table for all.
#[test]
fn one_host_takes_no_more_than_its_quota() {
    let config = everything().snat_with(|entry| entry.host_quota = 100);
    let mut net = TestNet::sized(&config, 1, 1, 200);
    for n in 0..1000 {
        net.send(INSIDE, &Packet::syn((HOST, 2000 + n), PEER));
    }
    assert_eq!(net.sessions().len(), 100);
    for n in 0..90 {
        mapped(&mut net, (OTHER, 2000 + n), PEER);
    }
    // And where the table is full, DNAT needs none.
    for n in 0..200 {
        let observed = net.send(OUTSIDE, &Packet::syn((PEER.0, 50_000 + n), PUBLIC));
        let arrived = observed.forwarded(INSIDE).clone();
        assert_eq!(out(&mut net, &arrived.answer()).source(), PUBLIC);
    }
    assert!(net.totals().stateless > 0);
}

/// A first packet that is a later fragment, and fragments at several workers.
#[test]
fn fragments_of_nobody() {
    for workers in [1, 2, 4] {
        let mut net = TestNet::with_workers(&everything(), workers, 1);
        net.judge = Judge::Header;
        for to in [PUBLIC, (ANY_EIP, 7), (POOL, 4000), (ip("203.0.113.2"), 4000), (ip("203.0.113.30"), 1)] {
            let parts = Packet::udp((PEER.0, 50_000), to, &[7; 100]).fragments(24);
            for worker in 0..usize::from(workers) {
                for part in parts.iter().rev() {
                    let frame = net.frame_of(OUTSIDE, part);
                    net.inject_at(worker, 0, &frame);
                }
            }
        }
        net.advance(Duration::from_mins(1));
        net.idle(50);
        assert_eq!(net.totals().held, 0);
    }
}

/// ICMP errors with eight bytes of quote, or with wrong checksums inside, that do not find their way.
#[test]
fn path_mtu_discovery_works_with_the_least_quote() {
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&everything(), workers, 1);
        for from in [(HOST, 4000), (ONE_TO_ONE, 4000)] {
            let mut sent = Packet::udp(from, PEER, &[7; 1400]);
            sent.ip.dont_fragment = true;
            let left = out(&mut net, &sent);
            let mut needed = Packet::error(FAR_ROUTER, UNREACHABLE, 4, &left, Some(8));
            if let crate::support::Body::Error { rest, quote, .. } = &mut needed.body {
                *rest = [0, 0, 0x04, 0xd8];
                quote.transport[6] ^= 0x5a;
            }
            let arrived = into(&mut net, &needed);
            assert_eq!((arrived.ip.dst, quoted(&arrived).1.source()), (from.0, from));
        }
    }
}

/// A second ping breaks the first; a stray echo reply makes a session.
#[test]
fn pings_beside_each_other() {
    let mut net = TestNet::new(&everything());
    let pings: Vec<_> = (0..20)
        .flat_map(|id| [HOST, OTHER].map(|from| Packet::ping(from, PEER.0, id, 1)))
        .map(|sent| (out(&mut net, &sent), sent))
        .collect();
    for (left, sent) in pings {
        let back = into(&mut net, &left.answer());
        assert_eq!((back.ip.dst, &back.body), (sent.ip.src, &sent.answer().body));
    }
    let sessions = net.sessions().len();
    lost(&mut net, OUTSIDE, &Packet::pong(PEER_2.0, POOL, 9999, 1));
    net.send(INSIDE, &Packet::pong(HOST, PEER_2.0, 9999, 1)).dropped(DropReason::NoMapping);
    into(&mut net, &Packet::pong(PEER_2.0, ANY_EIP, 9999, 1));
    assert_eq!(net.sessions().len(), sessions);
}

/// Old dynamic sessions beat a new static entry; sessions survive the deletion of their mapping.
#[test]
fn static_entries_beat_sessions_and_take_theirs_with_them() {
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&snat(), workers, 1);
        let external = mapped(&mut net, (HOST, 4000), PEER);
        // An entry on the very port that a session has.
        let config = snat().forward(UDP, ("203.0.113.16", external.1), ("10.0.0.4", 8080), 1);
        net.reload(&config);
        let datagram = Packet::udp(PEER, external, b"whose?");
        assert_eq!(into(&mut net, &datagram).destination(), SERVICE);
        assert_ne!(mapped(&mut net, (HOST, 4000), PEER), external);
        assert!(net.totals().displaced >= 1, "and that is counted");
        // The entry goes, and what it has made goes at once.
        net.reload(&snat());
        lost(&mut net, OUTSIDE, &datagram);
        assert!(net.sessions().iter().all(|row| row.kind.is_snat()));
        // An entry of the host itself.
        net.reload(&snat().any_port("203.0.113.17", "10.0.0.2"));
        assert_eq!(mapped(&mut net, (HOST, 4000), PEER), (ANY_EIP, 4000));
    }
}

/// A change of an entry tears down the connections that it made.
#[test]
fn sessions_that_are_kept_go_on_without_their_entry() {
    for workers in [1, 2] {
        let forward = |config: Config| config.forward(TCP, ("203.0.113.18", 80), ("10.0.0.4", 8080), 1);
        let narrow = || Config::new().snat("10.0.0.128/25", &["203.0.113.16"]);
        let before = forward(snat()).forward(UDP, ("203.0.113.18", 80), ("10.0.0.4", 8080), 1);
        let mut net = TestNet::with_workers(&before, workers, 1);
        let (question, answer) = (Packet::udp(PEER, PUBLIC, b"in"), Packet::udp(SERVICE, PEER, b"out"));
        let external = mapped(&mut net, (HOST, 4000), PEER);
        let reply = Packet::udp(PEER, external, b"reply");
        let check = |net: &mut TestNet| {
            // A DNAT session is known where its packets came: here they come anywhere.
            if workers == 1 {
                assert_eq!(into(net, &question).destination(), SERVICE);
                assert_eq!(out(net, &answer).source(), PUBLIC);
            }
            assert_eq!(mapped(net, (HOST, 4000), PEER), external);
            assert_eq!(into(net, &reply).destination(), (HOST, 4000));
        };
        check(&mut net);

        // Both entries go: what lives goes on, nothing new begins.
        net.reload(&forward(narrow()).leaving(Leaving::Kept));
        check(&mut net);
        net.idle(1024);
        check(&mut net);
        lost(&mut net, OUTSIDE, &Packet::udp(PEER_2, PUBLIC, b"new"));
        lost(&mut net, OUTSIDE, &Packet::udp(PEER_2, external, b"new"));
        net.send(INSIDE, &Packet::udp((HOST, 4000), PEER_2, b"new")).dropped(DropReason::NoSnatEntry);

        // The entry leads elsewhere now: that is for new ones.
        let elsewhere = forward(narrow()).forward(UDP, ("203.0.113.18", 80), ("10.0.0.5", 8080), 1);
        net.reload(&elsewhere.clone().leaving(Leaving::Kept));
        check(&mut net);
        assert_eq!(into(&mut net, &Packet::udp(PEER_2, PUBLIC, b"new")).destination(), (OTHER, 8080));

        // A static entry takes what a dynamic session has, kept or not.
        let taken = elsewhere.clone().forward(UDP, ("203.0.113.16", external.1), ("10.0.0.4", 9090), 1);
        net.reload(&taken.leaving(Leaving::Kept));
        assert_eq!(into(&mut net, &reply).destination(), (SERVER, 9090));
        if workers == 1 {
            assert_eq!(into(&mut net, &question).destination(), SERVICE);
        }

        // The time is up.
        net.reload(&elsewhere);
        assert_eq!(into(&mut net, &question).destination(), (OTHER, 8080));
        lost(&mut net, OUTSIDE, &reply);
    }
}

/// A reset of a TCP packet: where from, where to, and its sequence number.
#[track_caller]
fn reset_of(packet: &Packet) -> (Endpoint, Endpoint, u32) {
    let Body::Tcp(tcp) = &packet.body else { panic!("no TCP: {packet:?}") };
    assert!(tcp.flags.has(Flags::RST), "no reset: {packet:?}");
    (packet.source(), packet.destination(), tcp.seq)
}

/// Both ends wait for a connection that a change of an entry has ended.
#[test]
fn connections_are_reset_at_both_ends_where_that_is_asked_for() {
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&snat(), workers, 1);
        let external = established(&mut net, (HOST, 4000), PEER_2);
        let narrow = Config::new().snat("10.0.0.128/25", &["203.0.113.16"]);
        let mut left = net.reload(&narrow.leaving(Leaving::Reset)).left;
        left.extend(net.idle(1024).left);
        let mut resets: Vec<_> = left.iter().map(|left| reset_of(&left.packet)).collect();
        resets.sort_unstable();
        let mut expected = [(PEER_2, (HOST, 4000), 7001), (external, PEER_2, 1001)];
        expected.sort_unstable();
        assert_eq!(resets, expected);

        // Whoever sends on, because the reset was lost or came too early, is told what it expects.
        let observed = net.send(INSIDE, &Packet::tcp((HOST, 4000), PEER_2, Flags::ACK, 1001, 9999));
        assert_eq!(reset_of(observed.reply(INSIDE)), (PEER_2, (HOST, 4000), 9999));
        let observed = net.send(OUTSIDE, &Packet::tcp(PEER_2, external, Flags::ACK, 7001, 1500));
        assert_eq!(reset_of(observed.reply(OUTSIDE)), (external, PEER_2, 1500));
        assert_eq!(observed.drops, [DropReason::SessionEnding]);
        lost(&mut net, OUTSIDE, &Packet::tcp(PEER_2, external, Flags::RST, 7001, 0));
        net.advance(Duration::from_secs(11));
        lost(&mut net, OUTSIDE, &Packet::tcp(PEER_2, external, Flags::ACK, 7001, 1500));
    }
}

/// Several cores need NIC rules, or every packet is handed over.
#[test]
fn ports_lead_the_replies_home() {
    for workers in [2, 4] {
        let mut net = TestNet::with_workers(&snat(), workers, 1);
        for n in 0..100 {
            let from = host(1, n);
            let (_, port) = mapped(&mut net, (from, 4000), PEER);
            let home = owner_of_host(from.into(), workers);
            assert_eq!(owner_of_port(port, workers), home, "the port alone tells whose it is");
            // What comes there is not handed on.
            let before = net.totals().handed;
            let frame = net.frame_of(OUTSIDE, &Packet::udp(PEER, (POOL, port), b"reply"));
            net.inject_at(usize::from(home), 0, &frame).forwarded(INSIDE);
            assert_eq!(net.totals().handed, before);
            // And wherever else it comes, it is handed over once and counted.
            net.inject_at(usize::from((home + 1) % workers), 0, &frame).forwarded(INSIDE);
            assert_eq!(net.totals().handed, before + 1);
        }
    }
}

/// Two tenants collide on a port or on their private addresses.
#[test]
fn tenants_with_the_same_addresses() {
    let mut config = snat().vpc(20).snat("10.0.0.0/16", &["203.0.113.20"]).snat_with(|entry| entry.vpc = 1);
    config.vpcs[0].link.vlan = Some(10);
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&config, workers, 1);
        let mut owners: HashMap<Endpoint, (usize, u16)> = HashMap::new();
        for port in 4000..4050 {
            for vpc in [0, 1] {
                let sent = Packet::udp((HOST, port), PEER, b"");
                let left = net.send(Side::Vpc(vpc), &sent).forwarded(OUTSIDE).clone();
                assert_eq!(owners.insert(left.source(), (vpc, port)), None);
            }
        }
        for (external, (vpc, port)) in owners {
            let observed = net.send(OUTSIDE, &Packet::udp(PEER, external, b""));
            assert_eq!(observed.forwarded(Side::Vpc(vpc)).destination(), (HOST, port));
        }
    }
}

/// A reload breaks flows; a removed mapping survives a reload.
#[test]
fn reloads_touch_what_changed_and_nothing_else() {
    for workers in [1, 2] {
        let (mut net, ways) = ways(workers, UDP);
        let mut config = everything();
        config.dnat.retain(|entry| !matches!(entry.ports, Ports::Range { protocol: UDP, .. }));
        for config in [everything(), config.clone().eip("203.0.113.30"), config] {
            net.reload(&config);
            for way in &ways[..4] {
                way.check(&mut net);
            }
        }
        lost(&mut net, OUTSIDE, &ways[5].sent);
        into(&mut net, &Packet::tcp((PEER.0, 50_000), PUBLIC, Flags::SYN, 1, 0));
    }
}

/// Modes that are accepted but not built.
#[test]
fn what_is_not_built_is_refused() {
    for (text, key) in [
        ("[[snat]]\nmapping = \"address-dependent\"\n", "address-dependent"),
        ("[[outside]]\naddress = \"2001:db8::1/64\"\n", "2001:db8::1/64"),
        ("[[gateway]]\nalg = [\"ftp\"]\n", "alg"),
        ("[system]\nstandby = \"192.0.2.1\"\n", "standby"),
    ] {
        let errors = natgate::config::parse(text, "natgate.toml").expect_err("it is not built").to_string();
        assert!(errors.contains(key), "{key} is not named: {errors}");
    }
}

/// The box does not answer pings once the kernel has lost the NIC.
#[test]
fn the_gateway_answers_itself() {
    let mut net = TestNet::new(&everything());
    for (side, from, to) in [
        (INSIDE, HOST, ip("10.0.0.1")),
        (OUTSIDE, PEER.0, ip("203.0.113.2")),
        (OUTSIDE, PEER.0, POOL),
        (OUTSIDE, PEER.0, PORT_EIP),
        (INSIDE, HOST, PORT_EIP),
    ] {
        let observed = net.send(side, &Packet::ping(from, to, 7, 1));
        let reply = &observed.one().packet;
        assert_eq!((reply.ip.src, reply.ip.dst), (to, from));
    }
}

/// Listing sessions times out, or stalls the workers.
#[test]
fn listings_come_in_pages() {
    let mut net = TestNet::new(&snat());
    for n in 0..1000 {
        mapped(&mut net, (HOST, 2000 + n), PEER);
    }
    let (mut cursor, mut rows, mut pages) = (SessionCursor::default(), Vec::with_capacity(4096), 0);
    while !net.engines[0].list_sessions(&mut cursor, &SessionFilter::default(), 64, net.now, &mut rows) {
        pages += 1;
        // Traffic goes on between two pages.
        mapped(&mut net, (HOST, 2000 + pages), PEER);
    }
    assert!(pages >= 4096 / 64 - 1, "a page looks at no more slots than it may: {pages}");
    let ports: HashSet<_> = rows.iter().map(|row| row.inside.1).collect();
    assert_eq!((rows.len(), ports.len()), (1000, 1000));
    let one = SessionFilter {
        inside: Some(Prefix::of(HOST.into(), 32)),
        inside_port: Some(2500),
        ..SessionFilter::default()
    };
    let mut rows = Vec::with_capacity(8);
    net.engines[0].list_sessions(&mut SessionCursor::default(), &one, usize::MAX, net.now, &mut rows);
    assert_eq!(rows.len(), 1);
}

/// Idle sessions vanish after a time that nobody can choose.
#[test]
fn timeouts_are_the_entrys_own() {
    let ticks = |seconds| Tick::ticks(Duration::from_secs(seconds));
    let timeouts = |udp| Timeouts { udp: ticks(udp), ..Timeouts::RFC };
    let mut config = everything()
        .snat("10.0.1.0/24", &["203.0.113.20"])
        .snat_with(|entry| entry.timeouts = timeouts(3600));
    config.dnat[0].timeouts = timeouts(30);
    let mut net = TestNet::new(&config);
    mapped(&mut net, (host(1, 9), 4000), PEER);
    mapped(&mut net, (HOST, 4000), PEER);
    into(&mut net, &Packet::udp(PEER, (ANY_EIP, 7), b""));
    let hosts =
        |net: &TestNet| net.sessions().iter().map(|row| row.inside.0.into()).collect::<HashSet<Ipv4Addr>>();
    net.advance(Duration::from_secs(33));
    assert_eq!(hosts(&net), HashSet::from([host(1, 9), HOST]));
    net.advance(Duration::from_mins(5));
    assert_eq!(hosts(&net), HashSet::from([host(1, 9)]));
    net.advance(Duration::from_hours(1));
    assert!(net.sessions().is_empty());
}
