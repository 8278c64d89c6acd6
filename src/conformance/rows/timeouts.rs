//! Timeouts (RFC 4787 REQ-5, RFC 5382 REQ-5, RFC 5508 REQ-2), set to 2 seconds; those of established connections to 4.

use std::time::Duration;

use super::Check;
use super::prelude::*;

const MS: fn(u64) -> Duration = Duration::from_millis;

pub const ROWS: &[Check] = &[
    Check::short("TIME-06", |net| {
        let from = net.endpoint();
        let external = net.mapped(from, PEER)?;
        net.pass(MS(1600));
        same(&net.into(&Packet::udp(PEER, external, b"in time"))?.destination(), &from)?;
        Ok("alive after 1.6 of 2 s".into())
    }),
    Check::short("TIME-07", |net| {
        let from = net.endpoint();
        let external = net.mapped(from, PEER)?;
        net.pass(MS(4500));
        net.refused(Outside, &Packet::udp(PEER, external, b"too late"))?;
        Ok("gone after 4.5 s".into())
    }),
    Check::short("TIME-08", |net| {
        let from = net.endpoint();
        let external = net.mapped(from, PEER)?;
        for _ in 0..3 {
            net.pass(MS(1300));
            same(&net.mapped(from, PEER)?, &external)?;
        }
        net.pass(MS(1000));
        same(&net.into(&Packet::udp(PEER, external, b"in time"))?.destination(), &from)?;
        Ok("alive after 4.9 s with traffic every 1.3".into())
    }),
    Check::short("TIME-09", |net| {
        let host = net.host();
        let left = net.out(&Packet::ping(host, PEER.0, 31))?;
        net.pass(MS(1600));
        same(&net.into(&left.answer())?.destination(), &(host, 31))?;
        Ok("alive after 1.6 of 2 s".into())
    }),
    Check::short("TIME-10", |net| {
        let host = net.host();
        let left = net.out(&Packet::ping(host, PEER.0, 32))?;
        net.pass(MS(4500));
        net.refused(Outside, &left.answer())?;
        Ok("gone after 4.5 s".into())
    }),
    Check::short("TIME-11", |net| {
        let from = net.endpoint();
        let external = net.established(from, PEER)?;
        net.pass(MS(3200));
        let data = Packet::segment(PEER, external, ACK, (7001, 1001), &[], b"in time");
        same(&net.into(&data)?.destination(), &from)?;
        Ok("alive after 3.2 s, with 2 s for transitory states".into())
    }),
    Check::short("TIME-12", |net| {
        let from = net.endpoint();
        let external = net.established(from, PEER)?;
        net.pass(MS(6500));
        let data = Packet::segment(PEER, external, ACK, (7001, 1001), &[], b"too late");
        net.refused(Outside, &data)?;
        Ok("gone after 6.5 s".into())
    }),
    Check::short("TIME-13", |net| {
        let from = net.endpoint();
        let syn = net.out(&Packet::syn(from, PEER))?;
        net.pass(MS(4500));
        net.refused(Outside, &syn.answer())?;
        Ok("gone after 4.5 s".into())
    }),
    Check::short("TIME-14", |net| {
        let client = net.client();
        same(&net.into(&Packet::udp(client, PUBLIC, b"?"))?.destination(), &SERVICE)?;
        let connected = net.into(&Packet::syn(client, PUBLIC))?;
        net.out(&connected.answer())?;
        net.pass(MS(7000));
        same(&net.into(&Packet::udp(client, PUBLIC, b"?"))?.destination(), &SERVICE)?;
        same(&net.into(&Packet::syn((PEER_2.0, client.1), PUBLIC))?.destination(), &SERVICE)?;
        Ok("works after 7 s of silence".into())
    }),
];
