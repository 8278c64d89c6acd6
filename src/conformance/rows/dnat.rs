//! DNAT entries: one-to-one EIPs and port mappings (RFC 3022).

use super::Check;
use super::prelude::*;
use super::tcp::connection;

pub const ROWS: &[Check] = &[
    Check::new("DNAT-01", |net| {
        let client = net.client();
        for port in [1, 53, 1024, 40_000, 65_535] {
            let sent = Packet::udp(client, (ANY_EIP, port), b"query");
            let arrived = net.into(&sent)?;
            became(&arrived, sent.to((ONE_TO_ONE, port)))?;
            let answer = arrived.answer();
            became(&net.out(&answer)?, answer.from((ANY_EIP, port)))?;
        }
        Ok(format!("five ports of {ANY_EIP} are {ONE_TO_ONE}'s"))
    }),
    Check::new("DNAT-02", |net| {
        for port in [1, 1023, 4000, 4001, 65_535] {
            same(&net.mapped((ONE_TO_ONE, port), PEER)?, &(ANY_EIP, port))?;
            same(&net.connected((ONE_TO_ONE, port), PEER_2)?, &(ANY_EIP, port))?;
            same(&net.out(&Packet::ping(ONE_TO_ONE, PEER.0, port))?.source(), &(ANY_EIP, port))?;
        }
        Ok(format!("{ONE_TO_ONE} leaves as {ANY_EIP} with its own ports"))
    }),
    Check::new("DNAT-03", |net| {
        let client = net.client();
        connection(net, (Outside, client), (ANY_EIP, 443), client, (Inside, (ONE_TO_ONE, 443)))?;
        Ok("handshake, data, half-close, close".into())
    }),
    Check::new("DNAT-04", |net| {
        let client = net.client();
        connection(net, (Outside, client), PUBLIC, client, (Inside, SERVICE))?;
        Ok(format!("{} is {}, whole connection", shown(PUBLIC), shown(SERVICE)))
    }),
    Check::new("DNAT-05", |net| {
        let client = net.client();
        let sent = Packet::udp(client, PUBLIC, b"query");
        let arrived = net.into(&sent)?;
        became(&arrived, sent.to(SERVICE))?;
        let answer = arrived.answer();
        became(&net.out(&answer)?, answer.from(PUBLIC))?;
        Ok(format!("{} is {}, both ways", shown(PUBLIC), shown(SERVICE)))
    }),
    Check::new("DNAT-06", |net| {
        let client = net.client();
        for offset in 0..10 {
            let arrived = net.into(&Packet::syn(client, (PORT_EIP, 9000 + offset)))?;
            same(&arrived.destination(), &(SERVER, 7000 + offset))?;
            same(&net.out(&arrived.answer())?.source(), &(PORT_EIP, 9000 + offset))?;
        }
        for port in [8999, 9010] {
            net.refused(Outside, &Packet::syn(client, (PORT_EIP, port)))?;
        }
        Ok("ten ports, each to its own".into())
    }),
    Check::new("DNAT-07", |net| {
        let client = net.client();
        for packet in [
            Packet::syn(client, (PORT_EIP, 79)),
            Packet::syn(client, (PORT_EIP, 81)),
            Packet::syn(client, (PORT_EIP, 8080)),
            Packet::udp(client, (PORT_EIP, 9000), b"not TCP"),
            Packet::new(client.0, PORT_EIP, GRE, b"\0\0\x08\0"),
            Packet::new(client.0, PORT_EIP, SCTP, &[0, 80, 0, 80, 0, 0, 0, 0]),
        ] {
            net.refused(Outside, &packet)?;
        }
        Ok("other ports and protocols do not get through".into())
    }),
    Check::new("DNAT-08", |net| {
        let port = net.port();
        for client in [(PEER.0, port), (PEER_2.0, port), (NEIGHBOUR, port)] {
            connection(net, (Outside, client), PUBLIC, client, (Inside, SERVICE))?;
        }
        Ok("three clients, each its own connection".into())
    }),
    Check::new("DNAT-10", |net| {
        let client = net.client();
        net.into(&Packet::udp(client, PUBLIC, b"?"))?;
        let own = (SERVER, net.port());
        let external = net.mapped(own, PEER_2)?;
        ensure(external != PUBLIC && external.0 == POOL, || shown(external))?;
        same(&net.connected(own, PEER_2)?.0, &POOL)?;
        Ok(format!("{} leaves as {}", shown(own), shown(external)))
    }),
    Check::new("DNAT-11", |net| raw(net, GRE, b"\0\0\x08\0\x45 inner packet")),
    Check::new("DNAT-12", |net| raw(net, ESP, &[0x11; 40])),
    Check::new("DNAT-13", |net| {
        raw(net, SCTP, &[0, 80, 0, 90, 0, 0, 0, 0, 0xde, 0xad, 0xbe, 0xef, 1, 0, 0, 20])
    }),
    Check::new("DNAT-14", |net| raw(net, 253, b"an experiment")),
];

/// A protocol without ports, from a client to the one-to-one EIP and back.
fn raw(net: &mut Net, protocol: u8, payload: &[u8]) -> Verdict {
    let sent = Packet::new(PEER_2.0, ANY_EIP, protocol, payload);
    let arrived = net.into(&sent)?;
    became(&arrived, Packet { dst: ONE_TO_ONE, ..sent })?;
    let answer = arrived.answer();
    became(&net.out(&answer)?, Packet { src: ANY_EIP, ..answer })?;
    Ok("only addresses are changed, both ways".into())
}
