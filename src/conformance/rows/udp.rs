//! UDP (RFC 4787, RFC 3022, RFC 768).

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::Check;
use super::prelude::*;

/// Hosts of 10.0.1.0/24, which leaves with two EIPs.
fn pooled(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 1, n)
}

/// A SNAT flow and one to a port mapping, each in both directions: from where, what is sent, and what it becomes.
fn ways(net: &mut Net, payload: &[u8]) -> Result<Vec<(Side, Packet, Packet)>, String> {
    let (from, client) = (net.endpoint(), net.client());
    let external = net.mapped(from, PEER)?;
    net.into(&Packet::udp(client, PUBLIC, b"first"))?;
    Ok(vec![
        (Inside, Packet::udp(from, PEER, payload), Packet::udp(external, PEER, payload)),
        (Outside, Packet::udp(PEER, external, payload), Packet::udp(PEER, from, payload)),
        (Outside, Packet::udp(client, PUBLIC, payload), Packet::udp(client, SERVICE, payload)),
        (Inside, Packet::udp(SERVICE, client, payload), Packet::udp(PUBLIC, client, payload)),
    ])
}

pub const ROWS: &[Check] = &[
    Check::new("UDP-01", |net| {
        let from = net.endpoint();
        let left = net.out(&Packet::udp(from, PEER, b"query"))?;
        same(&(left.src, left.destination()), &(POOL, PEER))?;
        let back = net.into(&left.answer())?;
        same(&(back.source(), back.destination()), &(PEER, from))?;
        Ok(format!("{} leaves as {} and hears the answer", shown(from), shown(left.source())))
    }),
    Check::new("UDP-02", |net| {
        let from = net.endpoint();
        let external = net.mapped(from, PEER)?;
        for peer in [(PEER.0, 54), PEER_2, (PEER_2.0, 53), (NEIGHBOUR, 1)] {
            same(&net.mapped(from, peer)?, &external)?;
        }
        Ok(format!("{} is {} for five peers", shown(from), shown(external)))
    }),
    Check::new("UDP-03", |net| {
        let port = net.port();
        let hosts = [(net.host(), port), (net.host(), port)];
        let externals = [net.mapped(hosts[0], PEER)?, net.mapped(hosts[1], PEER)?];
        for peer in [PEER_2, (PEER.0, 54), PEER] {
            same(&[net.mapped(hosts[0], peer)?, net.mapped(hosts[1], peer)?], &externals)?;
        }
        Ok(format!("{} and {} for all peers", shown(externals[0]), shown(externals[1])))
    }),
    Check::new("UDP-04", |net| {
        let port = net.port();
        let mut seen = BTreeSet::new();
        for _ in 0..40 {
            let from = (net.host(), port);
            // Each speaks to a peer of its own, so that nothing but the rule keeps them apart.
            let peer = (Ipv4Addr::new(198, 51, 100, 100 + (seen.len() % 100) as u8), 53);
            let external = net.mapped(from, peer)?;
            ensure(seen.insert(external), || format!("{} has two owners", shown(external)))?;
        }
        Ok("40 hosts with one source port have 40 external ports".into())
    }),
    Check::new("UDP-05", |net| {
        for port in [1, 53, 500, 1022, 1023, 1024, 1025, 40_001, 65_535] {
            for _ in 0..3 {
                let from = (net.host(), port);
                let (_, external) = net.mapped(from, PEER)?;
                same(&(external < 1024), &(port < 1024)).map_err(|_| format!("{port} became {external}"))?;
            }
        }
        Ok("27 mappings keep below or above 1024".into())
    }),
    Check::new("UDP-06", |net| {
        for port in 41_000..41_006 {
            for _ in 0..4 {
                let from = (net.host(), port);
                let (_, external) = net.mapped(from, PEER)?;
                same(&(external % 2), &(port % 2)).map_err(|_| format!("{port} became {external}"))?;
            }
        }
        Ok("24 mappings, also of taken ports".into())
    }),
    Check::new("UDP-07", |net| {
        let from = net.endpoint();
        let external = net.mapped(from, PEER)?;
        same(&net.into(&Packet::udp((PEER.0, 54), external, b"another port"))?.destination(), &from)?;
        Ok("the peer's other port reaches the mapping".into())
    }),
    Check::new("UDP-08", |net| {
        let from = net.endpoint();
        let external = net.mapped(from, PEER)?;
        let arrived = net.into(&Packet::udp(PEER_2, external, b"hello"))?;
        same(&arrived.destination(), &from)?;
        same(&net.out(&arrived.answer())?.source(), &external)?;
        Ok("an unknown peer reaches the mapping and is answered".into())
    }),
    Check::new("UDP-09", |net| {
        let without = |mut packet: Packet| {
            packet.body[6..8].fill(0);
            packet
        };
        for (side, sent, becomes) in ways(net, b"data")? {
            let left = net.pass_to(side, &without(sent), side.other())?;
            became(&left, without(becomes))?;
        }
        Ok("zero stays zero, four ways".into())
    }),
    Check::new("UDP-10", |net| {
        let mut edges = 0;
        for (side, sent, becomes) in ways(net, b"..")? {
            for word in 0..=u16::MAX {
                let with = |packet: &Packet| {
                    let mut packet = packet.clone();
                    packet.body[8..10].copy_from_slice(&word.to_be_bytes());
                    packet.sealed()
                };
                let (sent, becomes) = (with(&sent), with(&becomes));
                if sent.body[6..8] == [0xff, 0xff] || becomes.body[6..8] == [0xff, 0xff] {
                    became(&net.pass_to(side, &sent, side.other())?, becomes)?;
                    edges += 1;
                }
            }
        }
        Ok(format!("{edges} datagrams at the edge, four ways"))
    }),
    Check::new("UDP-11", |net| {
        for (side, sent, _) in ways(net, b"data")? {
            for at in [21, 24, 26, 27, 28, 31] {
                net.send_tampered(side, &sent, |ip| ip[at] ^= 0x55);
            }
        }
        for packet in net.drain()?.concat().into_iter().filter_map(|arrival| arrival.packet.ok()) {
            let told = packet.protocol == 1;
            ensure(told || !packet.is_valid(), || format!("made valid: {packet:?}"))?;
        }
        Ok("24 corrupt datagrams, none made valid".into())
    }),
    Check::new("UDP-12", |net| {
        for (side, sent, becomes) in ways(net, b"data")? {
            for len in [0u16, 7, 13, 1000, 0xffff] {
                net.send_tampered(side, &sent, |ip| ip[24..26].copy_from_slice(&len.to_be_bytes()));
            }
            net.drain()?;
            became(&net.pass_to(side, &sent, side.other())?, becomes)?;
        }
        Ok("20 such datagrams, and the flows go on".into())
    }),
    Check::new("UDP-13", |net| {
        let behaviour = |net: &mut Net, from: Endpoint| {
            let externals = [net.mapped(from, PEER)?, net.mapped(from, PEER_2)?];
            net.send(Outside, &Packet::udp((PEER.0, 99), externals[0], b"?"));
            let admitted = net.drain()?[Inside as usize].len();
            Ok::<_, String>((externals[0] == externals[1], externals[0].1 % 2 == from.1 % 2, admitted))
        };
        let port = net.port();
        let first = (net.host(), port);
        let before = behaviour(net, first)?;
        for _ in 0..200 {
            let other = (net.host(), port);
            net.mapped(other, PEER)?;
        }
        let other = (net.host(), port);
        same(&behaviour(net, other)?, &before)?;
        same(&behaviour(net, first)?, &before)?;
        Ok("the same after 200 mappings of one port".into())
    }),
    Check::new("UDP-14", |net| {
        let port = net.port();
        let mut externals = vec![];
        for _ in 0..40 {
            let from = (net.host(), port);
            externals.push(i32::from(net.mapped(from, PEER)?.1));
        }
        externals.retain(|external| *external != i32::from(port));
        let steps: BTreeSet<_> = externals.windows(2).map(|pair| pair[1] - pair[0]).collect();
        ensure(steps.len() > externals.len() * 3 / 4, || format!("in steps: {externals:?}"))?;
        Ok(format!("{} ports with {} different steps", externals.len(), steps.len()))
    }),
    Check::new("UDP-15", |net| {
        let mut used = BTreeSet::new();
        for n in 2..22 {
            let (eip, _) = net.mapped((pooled(n), 4000), PEER)?;
            used.insert(eip);
            for port in [4001, 4002] {
                same(&net.mapped((pooled(n), port), PEER_2)?.0, &eip)?;
                same(&net.connected((pooled(n), port), PEER_2)?.0, &eip)?;
                same(&net.out(&Packet::ping(pooled(n), PEER.0, port))?.src, &eip)?;
            }
        }
        Ok(format!("20 hosts keep to one of {} EIPs each", used.len()))
    }),
    Check::new("UDP-16", |net| {
        let mut used = BTreeSet::new();
        for n in 30..70 {
            used.insert(net.mapped((pooled(n), 4000), PEER)?.0);
        }
        same(&used, &TWO.into())?;
        Ok(format!("{} and {}, nothing else", TWO[0], TWO[1]))
    }),
    Check::new("UDP-17", |net| {
        let from = net.endpoint();
        let udp = net.mapped(from, PEER)?;
        let tcp = net.established(from, PEER)?;
        same(&net.into(&Packet::udp(PEER, udp, b"datagram"))?.destination(), &from)?;
        same(&net.into(&Packet::tcp(PEER, tcp, 0x10, (7001, 1001)))?.destination(), &from)?;
        Ok(format!("{} and {}", shown(udp), shown(tcp)))
    }),
    Check::new("UDP-18", |net| {
        let from = net.endpoint();
        let query = Packet::udp(from, PEER, b"query");
        let left = net.out(&query)?;
        for (kind, code) in [(UNREACHABLE, 1), (UNREACHABLE, 3), (UNREACHABLE, 13), (TIME_EXCEEDED, 0)] {
            net.into(&Packet::error(PEER.0, (kind, code), [0; 4], &left, 64))?;
            same(&net.into(&left.answer())?.destination(), &from)?;
            same(&net.out(&query)?.source(), &left.source())?;
        }
        Ok("four errors, the mapping is the same".into())
    }),
    Check::new("UDP-19", |net| {
        // A peer that nobody has spoken to: so no port is in use towards it.
        let peer = net.client();
        for _ in 0..5 {
            let from = (net.host(), 4444);
            let external = net.mapped(from, peer)?;
            ensure(external != (POOL, 4444), || format!("{} belongs to a mapping", shown(external)))?;
        }
        let client = net.client();
        same(&net.into(&Packet::udp(client, (POOL, 4444), b"?"))?.destination(), &(SERVER, 4444))?;
        Ok("five hosts with port 4444 get others".into())
    }),
    Check::new("UDP-20", |net| {
        let from = net.endpoint();
        let exempt = Packet::udp(from, (Ipv4Addr::new(192, 0, 2, 7), 53), b"as I am");
        became(&net.out(&exempt)?, exempt.clone())?;
        became(&net.into(&exempt.answer())?, exempt.answer())?;
        same(&net.mapped(from, PEER)?.0, &POOL)?;
        Ok("192.0.2.0/24 sees the private address, others do not".into())
    }),
    Check::new("UDP-21", |net| {
        for port in [2, 54, 39_999, 65_534] {
            net.refused(Outside, &Packet::udp(PEER, (POOL, port), b"?"))?;
        }
        Ok("four ports without a mapping".into())
    }),
    Check::new("UDP-22", |net| {
        let flows = ways(net, b"")?;
        let mut count = 0;
        for len in (0..1368).step_by(11).chain([1367, 1368]) {
            let payload: Vec<u8> = (0..len).map(|at| (at * 7 + len) as u8).collect();
            for (side, sent, becomes) in &flows {
                let with = |packet: &Packet| Packet::udp(packet.source(), packet.destination(), &payload);
                became(&net.pass_to(*side, &with(sent), side.other())?, with(becomes))?;
                count += 1;
            }
        }
        Ok(format!("{count} datagrams of 0 to 1368 bytes"))
    }),
    Check::new("LIM-04", |net| {
        let mut seen = BTreeSet::new();
        for n in 100..110 {
            let external = net.mapped((Ipv4Addr::new(10, 0, 2, n), 4000), PEER)?;
            ensure(external.0 == SMALL && (5000..5010).contains(&external.1), || shown(external))?;
            ensure(seen.insert(external), || format!("{} has two owners", shown(external)))?;
            if seen.len() == 5 {
                break;
            }
        }
        // Of ten ports with either parity no more than ten can be had.
        let mut refused = 0;
        for n in 110..120 {
            net.send(Inside, &Packet::udp((Ipv4Addr::new(10, 0, 2, n), 4000), PEER, b"?"));
            for arrival in net.drain()?[Outside as usize].drain(..) {
                let external = arrival.packet?.source();
                ensure(seen.insert(external), || format!("{} has two owners", shown(external)))?;
                refused -= 1;
            }
            refused += 1;
        }
        ensure(refused > 0, || "more mappings than ports".into())?;
        Ok(format!("{} mappings of ten ports, then refused", seen.len()))
    }),
];
