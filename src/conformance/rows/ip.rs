//! The IP header (RFC 791, RFC 1812).

use super::Check;
use super::prelude::*;

pub const ROWS: &[Check] = &[
    Check::new("IP-01", |net| {
        let from = net.endpoint();
        let left = net.out(&Packet::udp(from, PEER, b"?").ttl(64))?;
        let back = net.into(&left.answer().ttl(50))?;
        same(&(left.ttl, back.ttl), &(63, 49))?;
        Ok("64 becomes 63, 50 becomes 49".into())
    }),
    Check::new("IP-02", |net| {
        let from = net.endpoint();
        let sent = Packet::udp(from, PEER, b"?").ttl(1);
        let error = net.around(&sent)?;
        same(&(error.icmp(), error.src, error.dst), &((TIME_EXCEEDED, 0), INSIDE_GATEWAY, from.0))?;
        let quote = error.quote().ok_or("nothing is quoted")?;
        same(&(quote.source(), quote.destination()), &(from, PEER))?;
        Ok(format!("Time Exceeded from {INSIDE_GATEWAY}"))
    }),
    Check::new("IP-03", |net| {
        let client = net.client();
        for to in [(ANY_EIP, 7), PUBLIC] {
            let error = net.pass_to(Outside, &Packet::udp(client, to, b"?").ttl(1), Outside)?;
            same(&(error.icmp(), error.dst), &((TIME_EXCEEDED, 0), client.0))?;
            ensure(error.src.octets()[0] != 10, || format!("from {}", error.src))?;
            let quote = error.quote().ok_or("nothing is quoted")?;
            same(&(quote.source(), quote.destination()), &(client, to))?;
        }
        Ok("Time Exceeded with public addresses".into())
    }),
    Check::new("IP-04", |net| {
        each_way(net, |net, side, packet| {
            net.send(side, &packet.clone().ttl(0));
        })
    }),
    Check::new("IP-05", |net| tampered(net, |ip| ip[10] ^= 0x40)),
    Check::new("IP-06", |net| tampered(net, |ip| ip[0] = 0x44)),
    Check::new("IP-07", |net| tampered(net, |ip| ip[0] = 0x4f)),
    Check::new("IP-08", |net| tampered(net, |ip| ip[0] = 0x65)),
    Check::new("IP-09", |net| {
        tampered(net, |ip| ip[2..4].copy_from_slice(&[0x7f, 0]))?;
        tampered(net, |ip| ip[2..4].copy_from_slice(&[0, 19]))
    }),
    Check::new("IP-10", |net| {
        let from = net.endpoint();
        for (protocol, most) in [(6, 20), (UDP, 8), (1, 8)] {
            for len in 0..most {
                net.send(Inside, &Packet::new(from.0, PEER.0, protocol, &vec![0x40; len]));
            }
        }
        for arrival in net.drain()?.concat() {
            let packet = arrival.packet?;
            ensure(packet.src.octets()[0] != 10 || packet.src == INSIDE_GATEWAY, || {
                format!("there came {packet:?}")
            })?;
            ensure(packet.is_valid(), || format!("there came {packet:?}, mistranslated"))?;
        }
        Ok("36 truncated headers do not come out mistranslated".into())
    }),
    Check::new("IP-11", |net| {
        let (from, client) = (net.endpoint(), net.client());
        for options in [vec![1, 1, 1, 0], vec![148, 4, 0, 0], vec![7, 7, 4, 0, 0, 0, 0, 0]] {
            let with = |packet: Packet| Packet { options: options.clone(), ..packet };
            let left = net.out(&with(Packet::udp(from, PEER, b"?")))?;
            same(&(left.src, left.destination()), &(POOL, PEER))?;
            let arrived = net.into(&with(Packet::udp(client, PUBLIC, b"?")))?;
            same(&(arrived.source(), arrived.destination()), &(client, SERVICE))?;
        }
        Ok("no-operation, router alert and record route are translated".into())
    }),
    Check::new("IP-12", |net| {
        let (from, client) = (net.endpoint(), net.client());
        for kind in [131, 137] {
            let route = |packet: Packet| {
                let options = [&[kind, 7, 4][..], &[10, 0, 0, 4], &[0]].concat();
                Packet { options, ..packet }
            };
            net.refused(Inside, &route(Packet::udp(from, PEER, b"?")))?;
            net.refused(Outside, &route(Packet::udp(client, PUBLIC, b"?")))?;
            net.refused(Outside, &route(Packet::udp(client, (OUTSIDE_GATEWAY, 9), b"?")))?;
        }
        Ok("loose and strict source routes are dropped".into())
    }),
    Check::new("IP-13", |net| {
        let (from, client) = (net.endpoint(), net.client());
        for options in [[7, 0, 0, 0], [7, 1, 0, 0], [7, 40, 4, 0], [1, 1, 1, 68]] {
            let with = |packet: Packet| Packet { options: options.to_vec(), ..packet };
            net.refused(Inside, &with(Packet::udp(from, PEER, b"?")))?;
            net.refused(Outside, &with(Packet::udp(client, PUBLIC, b"?")))?;
        }
        Ok("dropped, in both directions".into())
    }),
    Check::new("IP-14", |net| {
        let (from, client) = (net.endpoint(), net.client());
        for (tos, fragment) in [(0xb8, DF), (0x03, 0), (0x2e, DF), (0xff, 0)] {
            let with = |packet: Packet| Packet { tos, fragment, ..packet };
            let left = net.out(&with(Packet::udp(from, PEER, b"?")))?;
            same(&(left.tos, left.fragment), &(tos, fragment))?;
            let arrived = net.into(&with(Packet::udp(client, PUBLIC, b"?")))?;
            same(&(arrived.tos, arrived.fragment), &(tos, fragment))?;
        }
        Ok("DSCP, ECN and DF kept in both directions".into())
    }),
    Check::new("IP-15", |net| {
        let (from, client) = (net.endpoint(), net.client());
        // Identifications for which the header's sum before and after lies around its edges.
        let mut count = 0;
        for tos in [0, 1, 2] {
            for step in 0..64u16 {
                let id = step.wrapping_mul(1024).wrapping_sub(step % 3);
                let with = |packet: Packet| Packet { tos, id, fragment: DF, ..packet };
                net.out(&with(Packet::udp(from, PEER, b"?")))?;
                net.into(&with(Packet::udp(client, PUBLIC, b"?")))?;
                count += 2;
            }
        }
        for sum in [0u16, 0xffff] {
            for id in edge(sum, from, PEER).into_iter().flat_map(|id| [id, id.wrapping_sub(1)]) {
                net.out(&Packet { id, fragment: DF, ..Packet::udp(from, PEER, b"?") })?;
                count += 1;
            }
        }
        Ok(format!("{count} headers with right checksums"))
    }),
    Check::new("IP-16", |net| {
        let hosts = [net.endpoint(), net.endpoint(), net.endpoint()];
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..20 {
            for host in hosts {
                let left = net.out(&Packet { id: 0x4242, ..Packet::udp(host, PEER, b"?") })?;
                ensure(seen.insert(left.id), || {
                    format!("identification {} twice from {}", left.id, left.src)
                })?;
            }
        }
        Ok("60 datagrams of three hosts, 60 identifications".into())
    }),
];

/// The identification with which a datagram's header has this checksum.
fn edge(sum: u16, from: Endpoint, to: Endpoint) -> Option<u16> {
    (0..=u16::MAX).find(|id| {
        let bytes = Packet { id: *id, fragment: DF, ..Packet::udp(from, to, b"?") }.encode();
        u16::from_be_bytes([bytes[10], bytes[11]]) == sum
    })
}

/// Sends a packet that would be translated, in each direction, spoilt; none may come out.
fn each_way(net: &mut Net, spoil: impl Fn(&mut Net, Side, &Packet)) -> Verdict {
    let (from, client) = (net.endpoint(), net.client());
    for (side, packet) in [
        (Inside, Packet::udp(from, PEER, b"spoilt")),
        (Outside, Packet::udp(client, PUBLIC, b"spoilt")),
        (Outside, Packet::udp(client, (ANY_EIP, 7), b"spoilt")),
    ] {
        spoil(net, side, &packet);
        net.nothing()?;
    }
    Ok("dropped in both directions".into())
}

fn tampered(net: &mut Net, edit: impl Fn(&mut Vec<u8>)) -> Verdict {
    each_way(net, |net, side, packet| {
        net.send_tampered(side, packet, |ip| {
            let right = ip[10..12].to_vec();
            edit(ip);
            // Unless the checksum is what is spoilt, it is right, where there is still a header to sum.
            if ip[10..12] == right[..] {
                ip[10..12].fill(0);
                let header = (usize::from(ip[0] & 15) * 4).clamp(20, ip.len());
                let sum = ip[..header].chunks(2).fold(0u32, |sum, word| {
                    sum + u32::from(word[0]) * 256 + u32::from(word.get(1).copied().unwrap_or(0))
                });
                let folded = (sum & 0xffff) + (sum >> 16);
                let folded = (folded & 0xffff) + (folded >> 16);
                ip[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
            }
        });
    })
}
