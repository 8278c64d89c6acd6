//! What must never leave, and what must do no harm.

use std::net::Ipv4Addr;

use super::Check;
use super::prelude::*;

pub const ROWS: &[Check] = &[
    Check::new("SEC-01", |net| {
        let mut count = 0;
        for from in [net.endpoint(), (ONE_TO_ONE, net.port()), (SERVER, 8080)] {
            for packet in [
                Packet::udp(from, PEER, b"out"),
                Packet::syn(from, PEER),
                Packet::ping(from.0, PEER.0, from.1),
                Packet::echo(from.0, PEER.0, 0, from.1, b""),
                Packet::new(from.0, PEER.0, GRE, b"\0\0\x08\0"),
                Packet::error(from.0, (UNREACHABLE, 3), [0; 4], &Packet::udp(PEER, from, b""), 8),
            ] {
                net.send(Inside, &packet);
                count += 1;
            }
        }
        // With the last ones the ports of their EIP run out.
        for n in 1..15 {
            net.send(Inside, &Packet::syn((Ipv4Addr::new(10, 0, 2, n), 4000), PEER));
            count += 1;
        }
        public_only(net)?;
        Ok(format!("{count} packets of all kinds, none left with a private source"))
    }),
    Check::new("SEC-02", |net| {
        let from = net.endpoint();
        net.mapped(from, PEER)?;
        for (address, port) in [from, (ONE_TO_ONE, 7), SERVICE, (Ipv4Addr::new(192, 168, 1, 1), 1)] {
            net.refused(Outside, &Packet::udp(PEER_2, (address, port), b"routed here"))?;
            net.refused(Outside, &Packet::syn(PEER_2, (address, port)))?;
            net.refused(Outside, &Packet::ping(PEER_2.0, address, 1))?;
        }
        Ok("dropped, mapped or not".into())
    }),
    Check::new("SEC-03", |net| {
        let host = net.host();
        sources(net, &[host, ONE_TO_ONE, SERVER, INSIDE_GATEWAY])
    }),
    Check::new("SEC-04", |net| {
        let martians = ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "239.255.255.255", "255.255.255.255"];
        sources(net, &martians.map(address))
    }),
    Check::new("SEC-05", |net| sources(net, &["240.0.0.1", "250.1.2.3", "255.255.255.254"].map(address))),
    Check::new("SEC-06", |net| {
        let from = net.endpoint();
        for to in ["0.0.0.0", "0.1.2.3", "127.0.0.1", "240.0.0.1", "255.255.255.255", "203.0.113.255"] {
            net.refused(Inside, &Packet::udp(from, (address(to), 53), b"where to?"))?;
        }
        Ok("six destinations of nobody are not forwarded to".into())
    }),
    Check::new("SEC-07", |net| {
        let from = net.endpoint();
        for group in ["224.0.0.1", "224.0.0.251", "232.1.1.1", "239.255.255.250"].map(address) {
            let packet = Packet::udp(from, (group, 1900), b"anyone?");
            net.refused(Inside, &packet)?;
            let mut frame = net.frame(Inside, &packet);
            let [_, b, c, d] = group.octets();
            frame[..6].copy_from_slice(&[1, 0, 0x5e, b & 0x7f, c, d]);
            net.send_frame(Inside, &frame);
            net.nothing()?;
        }
        Ok("not forwarded, by either Ethernet address".into())
    }),
    Check::new("SEC-08", |net| {
        for address in [ANY_EIP, PORT_EIP, POOL, OUTSIDE_GATEWAY] {
            net.lost(Outside, &Packet::syn((address, 80), (address, 80)))?;
        }
        let host = net.host();
        for address in [host, ONE_TO_ONE, INSIDE_GATEWAY] {
            net.lost(Inside, &Packet::syn((address, 80), (address, 80)))?;
        }
        Ok("dropped on both sides".into())
    }),
    Check::new("SEC-09", |net| sources(net, &[ANY_EIP, PORT_EIP, POOL])),
    Check::new("SEC-10", |net| {
        let client = net.client();
        for free in [UNASSIGNED, Ipv4Addr::new(203, 0, 113, 29)] {
            net.refused(Outside, &Packet::udp(client, (free, 53), b"anyone?"))?;
            net.refused(Outside, &Packet::syn(client, (free, 80)))?;
            net.refused(Outside, &Packet::new(client.0, free, GRE, b"\0\0\x08\0"))?;
        }
        Ok("nothing reaches the inside".into())
    }),
    Check::new("SEC-11", |net| {
        let client = net.client();
        for to in [(ANY_EIP, 80), PUBLIC] {
            let segment = Packet::segment(client, to, SYN, (1, 0), &[], &[7; 64]);
            let part = |fragment, bytes: &[u8]| Packet { fragment, body: bytes.to_vec(), ..segment.clone() };
            net.refused(Outside, &part(1 | MF, &segment.body[8..40]))?;
            net.refused(Outside, &part(MF, &segment.body[..8]))?;
            net.refused(Outside, &part(1, &segment.body[8..]))?;
        }
        Ok("they do not come out".into())
    }),
    Check::new("SEC-12", |net| {
        let client = net.client();
        let with_id = |packet: Packet| Packet { id: 0x7001, ..packet };
        let mapped = with_id(Packet::udp(client, PUBLIC, &[0; 32])).fragments(16);
        let forged = with_id(Packet::udp(client, (PORT_EIP, 22), &[0; 32])).fragments(16);
        for part in [&mapped[0], &forged[0], &mapped[1], &mapped[2]] {
            net.send(Outside, part);
        }
        for arrival in net.drain()?[Inside as usize].drain(..) {
            let packet = arrival.packet?;
            let begins = packet.offset() == 0;
            ensure(packet.dst == SERVER && (!begins || packet.destination().1 == 8080), || {
                format!("there came {packet:?}")
            })?;
        }
        Ok("nothing but the mapped port comes in".into())
    }),
    Check::new("SEC-13", |net| {
        let (from, client) = (net.endpoint(), net.client());
        for (side, packet) in [
            (Inside, Packet::udp(from, PEER, &[0; 64])),
            (Outside, Packet::udp(client, (ANY_EIP, 7), &[0; 64])),
        ] {
            for (offset, more, len) in [
                (0, true, 36),
                (3, false, 4),
                (3, true, 0),
                (1, false, 0),
                (0, true, 8),
                (8191, false, 1000),
                (8191, false, 600),
            ] {
                let fragment = offset | if more { MF } else { 0 };
                net.send(side, &Packet { fragment, body: vec![0; len], id: 0x7002, ..packet.clone() });
            }
        }
        // Whatever comes out of it: the gateway lives.
        net.drain()?;
        Ok("14 fragments, and the gateway goes on".into())
    }),
    Check::new("SEC-14", |net| {
        let from = net.endpoint();
        let external = net.established(from, PEER)?;
        for bits in [0x00, 0x29, 0x03, 0x07, 0x3f, 0xff, 0x20] {
            net.send(Inside, &Packet::tcp(from, PEER, bits, (5000, 5000)));
            net.send(Outside, &Packet::tcp(PEER, external, bits, (0x7000_0000, 5000)));
        }
        for data_offset in [0, 4, 15] {
            let sound = Packet::tcp(from, PEER, ACK, (1001, 7001));
            net.send_tampered(Inside, &sound, |ip| ip[32] = data_offset << 4);
        }
        for packet in net.drain()?.concat().into_iter().filter_map(|arrival| arrival.packet.ok()) {
            ensure(packet.src != from.0, || format!("there came {packet:?}"))?;
        }
        same(&net.into(&Packet::tcp(PEER, external, ACK, (7001, 1001)))?.destination(), &from)?;
        Ok("17 segments, and the connection goes on".into())
    }),
    Check::new("SEC-15", |net| {
        for bits in [ACK, RST, RST | ACK, FIN | ACK, 0x12, 0x08, 0] {
            let from = net.endpoint();
            net.send(Inside, &Packet::tcp(from, PEER, bits, (1, 1)));
        }
        public_only(net)?;
        Ok("none left with a private source".into())
    }),
    Check::new("SEC-16", |net| {
        for protocol in [2, 4, 41, GRE, 50, 51, 89, 132, 253] {
            let host = net.host();
            net.send(Inside, &Packet::new(host, PEER.0, protocol, &[0; 24]));
        }
        public_only(net)?;
        Ok("nine protocols, none left with a private source".into())
    }),
    Check::new("SEC-17", |net| {
        let (from, client) = (net.endpoint(), net.client());
        let left = net.out(&Packet::udp(from, PEER, b"query"))?;
        let inbound = Packet::udp(client, (ANY_EIP, 7), &[0; 64]);
        let at_host = net.into(&inbound)?;
        net.lost(Outside, &Packet::error(PEER.0, (UNREACHABLE, 3), [0; 4], &left, 8).ttl(1))?;
        net.lost(Inside, &Packet::error(ONE_TO_ONE, (UNREACHABLE, 3), [0; 4], &at_host, 8).ttl(1))?;
        for source in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"].map(address) {
            net.lost(Outside, &Packet::udp((source, 1), (ANY_EIP, 7), b"").ttl(1))?;
            net.lost(Inside, &Packet::udp((source, 1), PEER, b"").ttl(1))?;
        }
        let later = inbound.fragments(32).pop().ok_or("no fragments")?;
        net.lost(Outside, &Packet { id: 0x7003, ..later }.ttl(1))?;
        let mut frame = net.frame(Inside, &Packet::udp(from, PEER, b"?").ttl(1));
        frame[..6].copy_from_slice(&[0xff; 6]);
        net.send_frame(Inside, &frame);
        net.nothing()?;
        Ok("12 packets with an expired TTL, no answer".into())
    }),
    Check::new("SEC-18", |net| {
        let from = net.endpoint();
        let query = Packet::udp(from, PEER, b"query");
        let left = net.out(&query)?;
        for code in 0..4 {
            let redirect = Packet::error(ROUTER, (REDIRECT, code), NEIGHBOUR.octets(), &left, 8);
            net.lost(Outside, &redirect)?;
        }
        net.send(Inside, &query);
        same(&net.next(Outside)?.frame[..6].to_vec(), &Outside.mac_of(ROUTER).to_vec())?;
        Ok("four redirects neither passed nor followed".into())
    }),
];

fn address(text: &str) -> Ipv4Addr {
    text.parse().unwrap_or(Ipv4Addr::UNSPECIFIED)
}

/// Everything that has left for the Internet since shows a public address alone.
fn public_only(net: &mut Net) -> Result<(), String> {
    for arrival in net.drain()?[Outside as usize].drain(..) {
        let packet = arrival.packet?;
        ensure(packet.src.octets()[0] != 10, || format!("there left {packet:?}"))?;
    }
    Ok(())
}

/// Nothing comes in from any of these sources.
fn sources(net: &mut Net, sources: &[Ipv4Addr]) -> Verdict {
    let from = net.endpoint();
    let external = net.mapped(from, PEER)?;
    for source in sources {
        for to in [(ANY_EIP, 7), PUBLIC, external] {
            if to.0 != *source {
                net.refused(Outside, &Packet::udp((*source, 50_000), to, b"from where?"))?;
            }
        }
    }
    Ok(format!("{} sources are dropped", sources.len()))
}
