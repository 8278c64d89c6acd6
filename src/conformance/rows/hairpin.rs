//! Private hosts that reach each other by public addresses (RFC 4787 REQ-9).

use super::Check;
use super::prelude::*;
use super::tcp::connection;

/// A datagram to a public endpoint that turns round to a private host, and its answer; as whom the sender is seen.
fn there_and_back(
    net: &mut Net,
    from: Endpoint,
    public: Endpoint,
    private: Endpoint,
) -> Result<Endpoint, String> {
    let there = net.around(&Packet::udp(from, public, b"there"))?;
    same(&there.destination(), &private)?;
    ensure(there.src.octets()[0] != 10, || format!("the private source {} is shown", there.src))?;
    let back = net.around(&there.answer())?;
    same(&(back.source(), back.destination()), &(public, from))?;
    Ok(there.source())
}

pub const ROWS: &[Check] = &[
    Check::new("HAIR-01", |net| {
        let (a, b) = (net.endpoint(), net.endpoint());
        let externals = [net.mapped(a, PEER)?, net.mapped(b, PEER)?];
        same(&there_and_back(net, a, externals[1], b)?, &externals[0])?;
        same(&there_and_back(net, b, externals[0], a)?, &externals[1])?;
        Ok(format!(
            "{} and {} speak by {} and {}",
            shown(a),
            shown(b),
            shown(externals[0]),
            shown(externals[1])
        ))
    }),
    Check::new("HAIR-02", |net| {
        let from = net.endpoint();
        let external = there_and_back(net, from, PUBLIC, SERVICE)?;
        same(&net.mapped(from, PEER)?, &external)?;
        Ok(format!("seen as {}, as by all the world", shown(external)))
    }),
    Check::new("HAIR-03", |net| {
        let from = net.endpoint();
        let external = net.connected(from, PEER)?;
        connection(net, (Inside, from), PUBLIC, external, (Inside, SERVICE))?;
        Ok(format!("whole connection, seen as {}", shown(external)))
    }),
    Check::new("HAIR-04", |net| {
        let from = net.endpoint();
        let external = there_and_back(net, from, (ANY_EIP, 7), (ONE_TO_ONE, 7))?;
        same(&external.0, &POOL)?;
        Ok(format!("seen as {}", shown(external)))
    }),
    Check::new("HAIR-05", |net| {
        let from = (SERVER, net.port());
        there_and_back(net, from, PUBLIC, SERVICE)?;
        let syn = net.around(&Packet::syn(from, PUBLIC))?;
        let syn_ack = net.around(&syn.answer())?;
        same(&(syn_ack.source(), syn_ack.destination()), &(PUBLIC, from))?;
        Ok("UDP and TCP".into())
    }),
    Check::new("HAIR-06", |net| {
        let from = net.host();
        let there = net.around(&Packet::ping(from, ANY_EIP, 77))?;
        same(&(there.src, there.dst), &(POOL, ONE_TO_ONE))?;
        let back = net.around(&there.answer())?;
        same(&(back.src, back.destination()), &(ANY_EIP, (from, 77)))?;
        Ok("echo there and back".into())
    }),
    Check::new("HAIR-07", |net| {
        for (public, private) in [(PUBLIC, SERVICE), ((ANY_EIP, 7), (ONE_TO_ONE, 7))] {
            let from = net.endpoint();
            let there = net.around(&Packet::udp(from, public, b"is it there?"))?;
            for (kind, code) in [(UNREACHABLE, 3), (TIME_EXCEEDED, 1)] {
                let error = net.around(&Packet::error(private.0, (kind, code), [0; 4], &there, 64))?;
                same(&(error.icmp(), error.src, error.dst), &((kind, code), public.0, from.0))?;
                let quote = error.quote().ok_or("nothing is quoted")?;
                same(&(quote.source(), quote.destination()), &(from, public))?;
            }
        }
        Ok("errors come from the public address with the sender's own packet".into())
    }),
    Check::new("HAIR-08", |net| {
        let from = (ONE_TO_ONE, net.port());
        let external = there_and_back(net, from, PUBLIC, SERVICE)?;
        same(&external, &(ANY_EIP, from.1))?;
        Ok(format!("seen as {}", shown(external)))
    }),
];
