//! Fragments and packets above the MTU (RFC 4787 REQ-13, REQ-14).

use super::Check;
use super::prelude::*;

/// Sends fragments and gives the packet that comes together on the other side.
fn carry(net: &mut Net, side: Side, parts: &[Packet], order: &[usize]) -> Result<Packet, String> {
    for at in order {
        net.send(side, &parts[*at]);
    }
    let seen = net.drain()?;
    let arrived: Result<Vec<_>, _> =
        seen[side.other() as usize].iter().map(|arrival| arrival.packet.clone()).collect();
    let arrived = arrived?;
    // A gateway may put the packet together itself.
    match &arrived[..] {
        [whole] if !whole.is_fragment() => Ok(whole.clone()),
        parts => Packet::reassemble(parts),
    }
}

/// What is sent for a row, and with an identification of its own.
fn datagram(net: &mut Net, from: Endpoint, to: Endpoint) -> Packet {
    let payload: Vec<u8> = (0..1200u32).map(|at| (at * 7) as u8).collect();
    Packet { id: net.port(), ..Packet::udp(from, to, &payload) }
}

fn out(net: &mut Net, order: &[usize]) -> Verdict {
    let from = net.endpoint();
    let external = net.mapped(from, PEER)?;
    let sent = datagram(net, from, PEER);
    let whole = carry(net, Inside, &sent.fragments(400), order)?;
    same(&(whole.source(), &whole.body[8..]), &(external, &sent.body[8..]))?;
    Ok(format!("{} fragments make the datagram again", order.len()))
}

fn into(net: &mut Net, to: Endpoint, private: Endpoint, orders: &[&[usize]]) -> Verdict {
    for order in orders {
        let client = net.client();
        let sent = datagram(net, client, to);
        let whole = carry(net, Outside, &sent.fragments(400), order)?;
        same(&(whole.source(), whole.destination(), &whole.body[8..]), &(client, private, &sent.body[8..]))?;
    }
    Ok("the fragments make the datagram again".into())
}

const FORWARD: &[usize] = &[0, 1, 2, 3];
const REVERSED: &[usize] = &[3, 2, 1, 0];

pub const ROWS: &[Check] = &[
    Check::new("FRAG-01", |net| out(net, FORWARD)),
    Check::new("FRAG-02", |net| {
        out(net, REVERSED)?;
        out(net, &[2, 0, 3, 1])
    }),
    Check::new("FRAG-03", |net| out(net, &[0, 1, 1, 2, 3])),
    Check::new("FRAG-04", |net| {
        let from = net.endpoint();
        let external = net.mapped(from, PEER)?;
        for order in [FORWARD, REVERSED] {
            let sent = datagram(net, PEER, external);
            let whole = carry(net, Outside, &sent.fragments(400), order)?;
            same(&(whole.destination(), &whole.body[8..]), &(from, &sent.body[8..]))?;
        }
        Ok("in order and reversed".into())
    }),
    Check::new("FRAG-05", |net| into(net, (ANY_EIP, 7), (ONE_TO_ONE, 7), &[FORWARD, REVERSED])),
    Check::new("FRAG-06", |net| into(net, PUBLIC, SERVICE, &[FORWARD])),
    Check::new("FRAG-07", |net| into(net, PUBLIC, SERVICE, &[REVERSED])),
    Check::new("FRAG-08", |net| {
        let host = net.host();
        let payload: Vec<u8> = (0..1200u32).map(|at| (at * 3) as u8).collect();
        let sent = Packet { id: net.port(), ..Packet::echo(host, PEER.0, 8, 21, &payload) };
        let left = carry(net, Inside, &sent.fragments(400), FORWARD)?;
        same(&left.src, &POOL)?;
        let reply = Packet { id: net.port(), ..left.answer() };
        let back = carry(net, Outside, &reply.fragments(400), FORWARD)?;
        same(&(back.destination(), &back.body[8..]), &((host, 21), &sent.body[8..]))?;
        Ok("request and reply of 1200 bytes".into())
    }),
    Check::new("FRAG-09", |net| {
        let from = net.endpoint();
        let sent = Packet { fragment: DF, ..Packet::udp(from, PEER, &[7; 1420]) };
        let error = net.around(&sent)?;
        same(&(error.icmp(), error.dst, &error.body[6..8]), &((UNREACHABLE, 4), from.0, &[5, 0x78][..]))?;
        let quote = error.quote().ok_or("nothing is quoted")?;
        same(&(quote.source(), quote.destination()), &(from, PEER))?;
        Ok("Fragmentation Needed, MTU 1400".into())
    }),
    Check::new("FRAG-10", |net| {
        let from = net.endpoint();
        let sent = Packet::udp(from, PEER, &[7; 1420]);
        net.send(Inside, &sent);
        let parts = [net.next_packet(Outside)?, net.next_packet(Outside)?];
        ensure(parts[0].fragment == MF && parts[1].offset() != 0, || format!("{parts:?}"))?;
        ensure(parts.iter().all(|part| part.encode().len() <= 1400), || format!("too large: {parts:?}"))?;
        same(&Packet::reassemble(&parts)?.body[8..].to_vec(), &sent.body[8..].to_vec())?;
        Ok("two fragments, in order".into())
    }),
    Check::new("FRAG-11", |net| {
        let client = net.client();
        net.into(&Packet::udp(client, PUBLIC, b"?"))?;
        let answer = Packet { fragment: DF, ..Packet::udp(SERVICE, client, &[7; 1420]) };
        let error = net.around(&answer)?;
        same(&(error.icmp(), error.dst, &error.body[6..8]), &((UNREACHABLE, 4), SERVER, &[5, 0x78][..]))?;
        same(&error.quote().ok_or("nothing is quoted")?.source(), &SERVICE)?;
        Ok("Fragmentation Needed, MTU 1400".into())
    }),
    Check::new("FRAG-12", |net| {
        let hosts = [net.endpoint(), net.endpoint()];
        let id = net.port();
        let sent = hosts.map(|from| Packet { id, ..Packet::udp(from, PEER, &[from.1 as u8; 1200]) });
        let externals = [net.mapped(hosts[0], PEER)?, net.mapped(hosts[1], PEER)?];
        let parts = [sent[0].fragments(400), sent[1].fragments(400)];
        for (a, b) in parts[0].iter().zip(&parts[1]) {
            net.send(Inside, a);
            net.send(Inside, b);
        }
        let seen = net.drain()?;
        let arrived: Result<Vec<_>, String> =
            seen[Outside as usize].iter().map(|arrival| arrival.packet.clone()).collect();
        let arrived = arrived?;
        let mut ids: Vec<_> = arrived.iter().map(|part| part.id).collect();
        ids.sort_unstable();
        ids.dedup();
        ensure(ids.len() == 2, || format!("one identification for both: {ids:?}"))?;
        for id in ids {
            let parts: Vec<_> = arrived.iter().filter(|part| part.id == id).cloned().collect();
            let whole = Packet::reassemble(&parts)?;
            let at = usize::from(whole.source() == externals[1]);
            same(&(whole.source(), &whole.body[8..]), &(externals[at], &sent[at].body[8..]))?;
        }
        Ok("both datagrams come whole".into())
    }),
    Check::new("FRAG-13", |net| {
        let from = net.endpoint();
        let external = net.mapped(from, PEER)?;
        for id in 0..3000u16 {
            let part = Packet { id, fragment: MF | 0x32, ..Packet::udp(from, PEER, &[0; 64]) };
            net.send(Inside, &part);
            if id % 200 == 0 {
                net.drain()?;
            }
        }
        net.drain()?;
        same(&net.mapped(from, PEER)?, &external)?;
        let sent = datagram(net, from, PEER);
        let whole = carry(net, Inside, &sent.fragments(400), FORWARD)?;
        same(&(whole.source(), &whole.body[8..]), &(external, &sent.body[8..]))?;
        Ok("after 3000 later fragments a whole packet and one in fragments pass".into())
    }),
];
