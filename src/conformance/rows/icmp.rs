//! ICMP queries and errors (RFC 5508, RFC 792).

use std::net::Ipv4Addr;

use super::Check;
use super::prelude::*;

const ERRORS: [(u8, u8); 5] =
    [(UNREACHABLE, 1), (UNREACHABLE, 3), (UNREACHABLE, 13), (TIME_EXCEEDED, 0), (12, 0)];

/// Errors about what has left come back to its sender with the packet that it sent itself.
fn comes_back(net: &mut Net, from: Ipv4Addr, sent: &Packet, left: &Packet) -> Result<(), String> {
    for what in ERRORS {
        let arrived = net.into(&Packet::error(from, what, [0; 4], left, 64))?;
        same(&(arrived.icmp(), arrived.src, arrived.dst), &(what, from, sent.src))?;
        let quote = arrived.quote().ok_or("nothing is quoted")?;
        same(&(quote.source(), quote.destination()), &(sent.source(), sent.destination()))?;
        same(&quote.body, &sent.body)?;
    }
    Ok(())
}

/// A datagram that leaves, and how it left.
fn query(net: &mut Net) -> Result<(Packet, Packet), String> {
    let from = net.endpoint();
    let sent = Packet::udp(from, PEER, b"query");
    let left = net.out(&sent)?;
    Ok((sent, left))
}

/// An error about a packet whose message is changed, with its checksum made right.
fn changed(left: &Packet, edit: impl FnOnce(&mut Vec<u8>)) -> Packet {
    let mut error = Packet::error(PEER.0, (UNREACHABLE, 3), [0; 4], left, 64);
    edit(&mut error.body);
    error.sealed()
}

/// Each public endpoint, and a client's datagram to it as it arrived.
fn inbound(net: &mut Net) -> Result<Vec<(Endpoint, Packet, Packet)>, String> {
    let mut found = vec![];
    for public in [PUBLIC, (ANY_EIP, 7)] {
        let sent = Packet::udp(net.client(), public, b"is it open?");
        let arrived = net.into(&sent)?;
        found.push((public, sent, arrived));
    }
    Ok(found)
}

pub const ROWS: &[Check] = &[
    Check::new("ICMP-01", |net| {
        let host = net.host();
        let sent = Packet::ping(host, PEER.0, 7);
        let left = net.out(&sent)?;
        same(&(left.src, left.dst), &(POOL, PEER.0))?;
        let back = net.into(&left.answer())?;
        same(&(back.destination(), &back.body[8..]), &((host, 7), &sent.body[8..]))?;
        Ok(format!("identifier 7 leaves as {} and comes back", left.source().1))
    }),
    Check::new("ICMP-02", |net| {
        let host = net.host();
        let id = net.out(&Packet::ping(host, PEER.0, 8))?.source().1;
        for peer in [PEER_2.0, NEIGHBOUR] {
            same(&net.out(&Packet::ping(host, peer, 8))?.source().1, &id)?;
        }
        Ok(format!("{id} for three peers"))
    }),
    Check::new("ICMP-03", |net| {
        let mut pings = vec![];
        for _ in 0..20 {
            let host = net.host();
            pings.push((host, net.out(&Packet::ping(host, PEER.0, 9))?));
        }
        for (host, left) in pings {
            same(&net.into(&left.answer())?.destination(), &(host, 9))?;
        }
        Ok("20 hosts with identifier 9".into())
    }),
    Check::new("ICMP-04", |net| {
        let arrived = net.into(&Packet::ping(PEER.0, ANY_EIP, 10))?;
        same(&(arrived.src, arrived.dst), &(PEER.0, ONE_TO_ONE))?;
        let answer = net.out(&arrived.answer())?;
        same(&(answer.src, answer.destination()), &(ANY_EIP, (PEER.0, 10)))?;
        Ok("reaches the host, is answered as the EIP".into())
    }),
    Check::new("ICMP-05", |net| {
        let host = net.host();
        for len in [0, 1, 56, 1372] {
            let sent = Packet::echo(host, INSIDE_GATEWAY, 8, 11, &vec![b'x'; len]);
            let reply = net.around(&sent)?;
            same(
                &(reply.src, reply.destination(), &reply.body),
                &(INSIDE_GATEWAY, (host, 11), &sent.answer().body),
            )?;
        }
        Ok(format!("{INSIDE_GATEWAY} answers"))
    }),
    Check::new("ICMP-06", |net| {
        let (sent, left) = query(net)?;
        comes_back(net, PEER.0, &sent, &left)?;
        Ok("five errors with the sender's own packet".into())
    }),
    Check::new("ICMP-07", |net| {
        let from = net.endpoint();
        let sent = Packet::syn(from, PEER);
        let left = net.out(&sent)?;
        comes_back(net, PEER.0, &sent, &left)?;
        Ok("five errors with the sender's own packet".into())
    }),
    Check::new("ICMP-08", |net| {
        let (sent, left) = query(net)?;
        comes_back(net, FAR_ROUTER, &sent, &left)?;
        Ok(format!("five errors from {FAR_ROUTER}"))
    }),
    Check::new("ICMP-09", |net| {
        let mtu = [0, 0, 4, 0xb0];
        let from = net.endpoint();
        let sent = Packet::udp(from, PEER, &[7; 1300]);
        let left = net.out(&sent)?;
        let client = net.client();
        net.into(&Packet::udp(client, PUBLIC, b"?"))?;
        let answer = Packet::udp(SERVICE, client, &[7; 1300]);
        let answered = net.out(&answer)?;
        for (host, left) in [(from, left), (SERVICE, answered)] {
            let arrived = net.into(&Packet::error(FAR_ROUTER, (UNREACHABLE, 4), mtu, &left, 64))?;
            same(&(arrived.dst, &arrived.body[4..8]), &(host.0, &mtu[..]))?;
            same(&arrived.quote().ok_or("nothing is quoted")?.source(), &host)?;
        }
        Ok("MTU 1200 for a SNAT and a DNAT flow".into())
    }),
    Check::new("ICMP-10", |net| {
        let (_, left) = query(net)?;
        for about in [
            left.clone().from((POOL, left.source().1 ^ 1)),
            left.clone().to(PEER_2),
            Packet::syn(left.source(), PEER),
        ] {
            net.lost(Outside, &Packet::error(about.dst, (UNREACHABLE, 3), [0; 4], &about, 64))?;
        }
        Ok("three errors about nothing are dropped".into())
    }),
    Check::new("ICMP-11", |net| {
        let (_, left) = query(net)?;
        let mut error = Packet::error(PEER.0, (UNREACHABLE, 3), [0; 4], &left, 64);
        error.body[3] ^= 0x40;
        net.lost(Outside, &error)?;
        Ok("dropped".into())
    }),
    Check::new("ICMP-12", |net| {
        let (_, left) = query(net)?;
        net.into(&changed(&left, |_| ()))?;
        net.lost(Outside, &changed(&left, |body| body[8 + 10] ^= 1))?;
        Ok("dropped".into())
    }),
    Check::new("ICMP-13", |net| {
        let from = net.endpoint();
        let sent = Packet { options: vec![148, 4, 0, 0, 1, 1, 1, 0], ..Packet::udp(from, PEER, b"query") };
        let left = net.out(&sent)?;
        comes_back(net, PEER.0, &sent, &left)?;
        Ok("five errors with router alert in the quote".into())
    }),
    Check::new("ICMP-14", |net| {
        let (sent, left) = query(net)?;
        let error = changed(&left, |body| body[8 + 20 + 6] ^= 0x55);
        let arrived = net.into(&error)?;
        same(&arrived.quote().ok_or("nothing is quoted")?.source(), &sent.source())?;
        Ok("translated".into())
    }),
    Check::new("ICMP-15", |net| {
        let (sent, left) = query(net)?;
        let extension = [0x20, 0, 0, 0, 0, 8, 1, 1, 0x12, 0x34, 0x51, 0x40];
        let arrived = net.into(&changed(&left, |body| {
            body[5] = 32;
            body.resize(8 + 128, 0);
            body.extend(extension);
        }))?;
        same(&arrived.body[8 + 128..].to_vec(), &extension.to_vec())?;
        same(&arrived.body[5], &32)?;
        same(&arrived.quote().ok_or("nothing is quoted")?.source(), &sent.source())?;
        Ok("an MPLS label stack arrives intact".into())
    }),
    Check::new("ICMP-16", |net| {
        let (sent, left) = query(net)?;
        let arrived = net.into(&Packet::error(PEER.0, (UNREACHABLE, 3), [0; 4], &left, 8))?;
        let quote = arrived.quote().ok_or("nothing is quoted")?;
        same(&(quote.source(), quote.body.len()), &(sent.source(), 8))?;
        for len in 0..28 {
            net.send(Outside, &changed(&left, |body| body.truncate(8 + len)));
        }
        net.drain()?;
        same(&net.out(&sent)?.source(), &left.source())?;
        Ok("8 bytes are translated, 28 shorter quotes do no harm".into())
    }),
    Check::new("ICMP-17", |net| {
        let sent = Packet::ping(net.host(), PEER.0, 12);
        let left = net.out(&sent)?;
        comes_back(net, FAR_ROUTER, &sent, &left)?;
        same(&net.into(&left.answer())?.destination(), &(sent.src, 12))?;
        Ok("five errors, and then the reply".into())
    }),
    Check::new("ICMP-18", |net| {
        for (public, sent, arrived) in inbound(net)? {
            let error = net.out(&Packet::error(arrived.dst, (UNREACHABLE, 3), [0; 4], &arrived, 64))?;
            same(&(error.icmp(), error.src, error.dst), &((UNREACHABLE, 3), public.0, sent.src))?;
            let quote = error.quote().ok_or("nothing is quoted")?;
            same(&(quote.source(), quote.destination()), &(sent.source(), public))?;
        }
        Ok("port mapping and one-to-one".into())
    }),
    Check::new("ICMP-19", |net| {
        for (public, sent, arrived) in inbound(net)? {
            let router = Ipv4Addr::new(10, 0, 9, 254);
            let error = net.out(&Packet::error(router, (UNREACHABLE, 1), [0; 4], &arrived, 64))?;
            same(&(error.src, error.dst), &(public.0, sent.src))?;
            ensure(!error.encode().windows(2).any(|pair| pair == [10, 0]), || {
                "a private address is shown".into()
            })?;
        }
        Ok("shown as the EIP".into())
    }),
    Check::new("ICMP-20", |net| {
        let host = net.endpoint();
        for (from, to) in [(PEER, host), (PEER_2, (SERVER, 9))] {
            let about = Packet::udp(from, to, b"never came");
            net.lost(Inside, &Packet::error(to.0, (UNREACHABLE, 3), [0; 4], &about, 64))?;
        }
        Ok("dropped".into())
    }),
    Check::new("ICMP-21", |net| {
        let (sent, left) = query(net)?;
        let arrived = net.into(&left.answer())?;
        let error = net.out(&Packet::error(sent.src, (UNREACHABLE, 3), [0; 4], &arrived, 64))?;
        same(&(error.src, error.dst), &(POOL, PEER.0))?;
        let quote = error.quote().ok_or("nothing is quoted")?;
        same(&(quote.source(), quote.destination()), &(PEER, left.source()))?;
        Ok("with the peer's own packet".into())
    }),
    Check::new("ICMP-22", |net| {
        for (public, sent, arrived) in inbound(net)? {
            let answer = arrived.answer();
            let left = net.out(&answer)?;
            same(&left.source(), &public)?;
            for from in [sent.src, FAR_ROUTER] {
                comes_back(net, from, &answer, &left)?;
            }
        }
        Ok("20 errors with the server's own packet".into())
    }),
    Check::new("ICMP-23", |net| {
        net.lost(Outside, &Packet::echo(PEER.0, POOL, 0, 7777, b""))?;
        let host = net.host();
        let left = net.out(&Packet::ping(host, PEER.0, 13))?;
        let reply = left.answer();
        net.lost(Outside, &reply.clone().to((POOL, left.source().1 ^ 0x4000)))?;
        same(&net.into(&reply)?.dst, &host)?;
        let stray = Packet::tcp(PEER, (POOL, left.source().1 ^ 1), ACK, (1, 1));
        net.refused(Outside, &stray)?;
        same(&reply.protocol, &ICMP)?;
        Ok("dropped; the right one arrives".into())
    }),
];
