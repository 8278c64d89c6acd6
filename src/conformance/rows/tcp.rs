//! TCP (RFC 5382, RFC 7857).

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::Check;
use super::prelude::*;

/// Carries a whole connection: `outward` says that the one who opens it is inside. What the other side sees is `seen`.
pub fn connection(
    net: &mut Net,
    opener: (Side, Endpoint),
    to: Endpoint,
    seen: Endpoint,
    answers: (Side, Endpoint),
) -> Result<(), String> {
    let syn = Packet::syn(opener.1, to);
    let arrived = net.pass_to(opener.0, &syn, answers.0)?;
    became(&arrived, syn.clone().from(seen).to(answers.1))?;
    for (forth, bits, numbers, data) in [
        (false, SYN | ACK, (7000, 1001), &b""[..]),
        (true, ACK, (1001, 7001), b""),
        (true, PSH | ACK, (1001, 7001), b"GET /"),
        (false, PSH | ACK, (7001, 1006), b"200"),
        (true, FIN | ACK, (1006, 7004), b""),
        (false, ACK, (7004, 1007), b"and more"),
        (true, ACK, (1007, 7012), b""),
        (false, FIN | ACK, (7012, 1007), b"last"),
        (true, ACK, (1007, 7017), b""),
    ] {
        if forth {
            let sent = Packet::segment(opener.1, to, bits, numbers, &[], data);
            became(&net.pass_to(opener.0, &sent, answers.0)?, sent.clone().from(seen).to(answers.1))?;
        } else {
            let sent = Packet::segment(answers.1, seen, bits, numbers, &[], data);
            became(&net.pass_to(answers.0, &sent, opener.0)?, sent.clone().from(to).to(opener.1))?;
        }
    }
    Ok(())
}

pub const ROWS: &[Check] = &[
    Check::new("TCP-01", |net| {
        let from = net.endpoint();
        // A first connection tells the external port, a second one is looked at as a whole.
        let external = net.established(from, PEER_2)?;
        connection(net, (Inside, from), PEER, external, (Outside, PEER))?;
        Ok("handshake, data, half-close, close".into())
    }),
    Check::new("TCP-02", |net| {
        let from = net.endpoint();
        let external = net.connected(from, PEER)?;
        for peer in [(PEER.0, 80), PEER_2, (NEIGHBOUR, 443)] {
            same(&net.connected(from, peer)?, &external)?;
        }
        Ok(format!("{} is {} for four peers", shown(from), shown(external)))
    }),
    Check::new("TCP-03", |net| {
        let port = net.port();
        let hosts = [(net.host(), port), (net.host(), port)];
        let externals = [net.connected(hosts[0], PEER)?, net.connected(hosts[1], PEER)?];
        for peer in [PEER_2, (PEER.0, 80)] {
            same(&[net.connected(hosts[0], peer)?, net.connected(hosts[1], peer)?], &externals)?;
        }
        Ok(format!("{} and {} for all peers", shown(externals[0]), shown(externals[1])))
    }),
    Check::new("TCP-04", |net| {
        let port = net.port();
        let mut seen = BTreeSet::new();
        for n in 0..40 {
            let from = (net.host(), port);
            let external = net.connected(from, (Ipv4Addr::new(198, 51, 100, 100 + n), 80))?;
            ensure(seen.insert(external), || format!("{} has two owners", shown(external)))?;
        }
        Ok("40 hosts with one source port have 40 external ports".into())
    }),
    Check::new("TCP-05", |net| {
        let from = net.endpoint();
        let external = net.connected(from, PEER)?;
        net.into(&Packet::tcp(PEER, external, SYN, (7000, 0)))?;
        net.out(&Packet::tcp(from, PEER, SYN | ACK, (1000, 7001)))?;
        net.into(&Packet::tcp(PEER, external, SYN | ACK, (7000, 1001)))?;
        net.out(&Packet::segment(from, PEER, ACK, (1001, 7001), &[], b"both"))?;
        Ok("crossing SYNs and their answers pass".into())
    }),
    Check::new("TCP-06", |net| {
        let from = net.endpoint();
        let early = Packet::syn(PEER, (POOL, from.1));
        net.lost(Outside, &early)?;
        net.pass(Duration::from_millis(5900));
        net.nothing().map_err(|error| format!("within six seconds {error}"))?;
        net.pass(Duration::from_secs(1));
        net.drain()?;
        net.lost(Outside, &early)?;
        let external = net.connected(from, PEER)?;
        net.pass(Duration::from_millis(200));
        net.nothing()?;
        ensure(external.0 == POOL, || shown(external))?;
        Ok("no answer for six seconds, none after the crossing SYN".into())
    }),
    Check::new("TCP-07", |net| {
        for bits in [RST, RST | ACK] {
            let from = net.endpoint();
            let external = net.established(from, PEER)?;
            let reset = Packet::tcp(PEER, external, bits, (7001, 1001));
            became(&net.into(&reset)?, reset.clone().to(from))?;
            let from = net.endpoint();
            let external = net.established(from, PEER)?;
            let reset = Packet::tcp(from, PEER, bits, (1001, 7001));
            became(&net.out(&reset)?, reset.clone().from(external))?;
        }
        Ok("RST and RST, ACK, both ways".into())
    }),
    Check::new("TCP-08", |net| {
        let from = net.endpoint();
        let external = net.established(from, PEER)?;
        for far in [0x4000_0000u32, 0x8000_0000, 0xc000_0000] {
            net.send(Outside, &Packet::tcp(PEER, external, RST, (7001u32.wrapping_add(far), 0)));
        }
        net.drain()?;
        // What would be gone with the connection's state is still there, also when what follows a close is over.
        let data = Packet::segment(PEER, external, ACK, (7001, 1001), &[], b"still");
        same(&net.into(&data)?.destination(), &from)?;
        Ok("three of them, data passes".into())
    }),
    Check::new("TCP-09", |net| {
        let from = net.endpoint();
        let external = net.established(from, PEER)?;
        let left = net.out(&Packet::segment(from, PEER, ACK, (1001, 7001), &[], b"data"))?;
        for (kind, code) in [(UNREACHABLE, 0), (UNREACHABLE, 1), (UNREACHABLE, 13), (TIME_EXCEEDED, 0)] {
            net.into(&Packet::error(PEER.0, (kind, code), [0; 4], &left, 64))?;
            let data = Packet::segment(PEER, external, ACK, (7001, 1005), &[], b"more");
            same(&net.into(&data)?.destination(), &from)?;
        }
        Ok("four errors, the connection goes on".into())
    }),
    Check::new("TCP-10", |net| {
        let from = net.endpoint();
        let external = net.established(from, PEER)?;
        net.out(&Packet::tcp(from, PEER, FIN | ACK, (1001, 7001)))?;
        net.into(&Packet::tcp(PEER, external, FIN | ACK, (7001, 1002)))?;
        net.out(&Packet::tcp(from, PEER, ACK, (1002, 7002)))?;
        let syn = net.out(&Packet::tcp(from, PEER, SYN, (90_000, 0)))?;
        same(&syn.source(), &external)?;
        let answer = net.into(&syn.answer())?;
        net.out(&answer.answer())?;
        Ok(format!("opened again as {}", shown(external)))
    }),
    Check::new("TCP-11", |net| {
        let from = net.endpoint();
        let external = net.established(from, PEER)?;
        for n in 0..150u16 {
            let payload: Vec<u8> = (0..n % 97).map(|at| (at * 31 + n) as u8).collect();
            let sent = Packet::segment(from, PEER, ACK, (1001, 7001), &[], &payload);
            became(&net.out(&sent)?, sent.clone().from(external))?;
            let sent = Packet::segment(PEER, external, ACK, (7001, 1001), &[], &payload);
            became(&net.into(&sent)?, sent.clone().to(from))?;
        }
        let mut edges = 0;
        for window in 0..=u16::MAX {
            let mut sent = Packet::tcp(from, PEER, ACK, (1001, 7001));
            sent.body[14..16].copy_from_slice(&window.to_be_bytes());
            let (sent, becomes) = (sent.clone().sealed(), sent.from(external));
            let at_edge =
                |packet: &Packet| [[0, 0], [0xff, 0xff]].contains(&[packet.body[16], packet.body[17]]);
            if at_edge(&sent) || at_edge(&becomes) {
                became(&net.out(&sent)?, becomes)?;
                edges += 1;
            }
        }
        Ok(format!("300 segments and {edges} at the edges"))
    }),
    Check::new("TCP-12", |net| {
        let from = net.endpoint();
        let external = net.established(from, PEER)?;
        for (side, sent) in [
            (Inside, Packet::segment(from, PEER, ACK, (1001, 7001), &[], b"data")),
            (Outside, Packet::segment(PEER, external, ACK, (7001, 1001), &[], b"data")),
        ] {
            for at in [25, 30, 35, 36, 37, 40, 43] {
                net.send_tampered(side, &sent, |ip| ip[at] ^= 0x11);
            }
        }
        for packet in net.drain()?.concat().into_iter().filter_map(|arrival| arrival.packet.ok()) {
            ensure(packet.protocol == 1 || !packet.is_valid(), || format!("made valid: {packet:?}"))?;
        }
        Ok("14 corrupt segments, none made valid".into())
    }),
    Check::new("TCP-13", |net| {
        let from = net.endpoint();
        let external = net.established(from, PEER)?;
        let options = [&[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1, 5, 18][..], &[9; 16]].concat();
        let rich = |mut packet: Packet| {
            packet.tos = 2;
            packet.body[14..16].copy_from_slice(&[0xff, 0xfe]);
            packet.body[18..20].copy_from_slice(&[1, 2]);
            packet.sealed()
        };
        let sent = rich(Packet::segment(from, PEER, 0xf8, (1001, 7001), &options, b"x"));
        became(&net.out(&sent)?, sent.clone().from(external))?;
        let sent = rich(Packet::segment(PEER, external, 0xf8, (7001, 1002), &options, b"x"));
        became(&net.into(&sent)?, sent.clone().to(from))?;
        Ok("urgent pointer, window, ECE, CWR, timestamps, SACK".into())
    }),
    Check::new("TCP-14", |net| {
        let from = net.endpoint();
        let external = net.established(from, PEER)?;
        let arrived = net.into(&Packet::syn(PEER_2, external))?;
        same(&arrived.destination(), &from)?;
        same(&net.out(&arrived.answer())?.source(), &external)?;
        Ok("an unknown peer's SYN reaches the mapping".into())
    }),
    Check::new("TCP-15", |net| {
        let from = net.endpoint();
        let external = net.established(from, PEER)?;
        same(&net.into(&Packet::syn((PEER.0, 54), external))?.destination(), &from)?;
        Ok("the peer's other port reaches the mapping".into())
    }),
];
