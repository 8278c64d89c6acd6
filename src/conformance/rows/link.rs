//! Ethernet and VLANs (IEEE 802.1D, 802.1Q).

use super::Check;
use super::prelude::*;

pub const ROWS: &[Check] = &[
    Check::new("L2-01", |net| {
        let from = net.endpoint();
        let mut frame = net.frame(Inside, &Packet::udp(from, PEER, b"for another"));
        frame[..6].copy_from_slice(&[2, 1, 2, 3, 4, 5]);
        net.send_frame(Inside, &frame);
        net.nothing()?;
        Ok("ignored".into())
    }),
    Check::new("L2-02", |net| {
        let from = net.endpoint();
        let mut frame = net.frame(Inside, &Packet::udp(from, PEER, b"for all"));
        frame[..6].copy_from_slice(&[0xff; 6]);
        net.send_frame(Inside, &frame);
        net.nothing()?;
        Ok("not forwarded".into())
    }),
    Check::new("L2-03", |net| {
        let client = net.client();
        let sent = Packet::udp(client, (ANY_EIP, 7), b"x");
        let mut frame = net.frame(Outside, &sent);
        frame.resize(90, 0xee);
        net.send_frame(Outside, &frame);
        let arrived = net.next(Inside)?;
        became(&arrived.packet?, sent.to((ONE_TO_ONE, 7)))?;
        // An address or a checksum may have one such byte by chance.
        let has_padding = arrived.frame.windows(4).any(|bytes| bytes == [0xee; 4]);
        ensure(!has_padding, || "the padding was passed on".into())?;
        Ok("48 bytes of padding are gone".into())
    }),
    Check::new("L2-04", |net| {
        let from = net.endpoint();
        net.send(Inside, &Packet::udp(from, PEER, b"?"));
        let left = net.next(Outside)?;
        same(&left.frame[..6].to_vec(), &Outside.mac_of(ROUTER).to_vec())?;
        same(&left.frame[6..12].to_vec(), &net.gateway_mac(Outside).to_vec())?;
        net.send(Outside, &left.packet?.answer());
        let arrived = net.next(Inside)?;
        same(&arrived.frame[..6].to_vec(), &Inside.mac_of(from.0).to_vec())?;
        same(&arrived.frame[6..12].to_vec(), &net.gateway_mac(Inside).to_vec())?;
        Ok("own source, next hop's destination in both directions".into())
    }),
    Check::new("L2-05", |net| {
        let from = net.endpoint();
        for (peer, hop) in [(PEER.0, ROUTER), (PEER_2.0, ROUTER), (NEIGHBOUR, NEIGHBOUR)] {
            net.send(Inside, &Packet::udp(from, (peer, 7), b"?"));
            let left = net.next(Outside)?;
            same(&left.frame[..6].to_vec(), &Outside.mac_of(hop).to_vec())?;
        }
        Ok("remote peers by the router, a neighbour directly".into())
    }),
    Check::new("L2-06", |net| {
        let from = net.endpoint();
        tagged(net, &Packet::udp(from, PEER, b"tagged"), 77);
        net.nothing()?;
        Ok("VLAN 77 dropped".into())
    }),
    Check::new("L2-07", |net| {
        let from = net.endpoint();
        tagged(net, &Packet::udp(from, PEER, b"priority"), 0x6000);
        same(&net.next_packet(Outside)?.src, &POOL)?;
        Ok("a frame with priority 3 and VLAN 0 is forwarded".into())
    }),
    Check::new("L2-08", |net| {
        for ether_type in [[0x86, 0xdd], [0x88, 0xb5], [0x80, 0x9b]] {
            for side in [Inside, Outside] {
                let (to, from) = (net.gateway_mac(side), side.mac_of(ROUTER));
                net.send_frame(side, &[&to[..], &from, &ether_type, &[0x60; 60]].concat());
            }
        }
        net.nothing()?;
        Ok("IPv6 and unknown types are not bridged".into())
    }),
];

fn tagged(net: &mut Net, packet: &Packet, tag: u16) {
    let frame = net.frame(Inside, packet);
    let (link, rest) = frame.split_at(12);
    net.send_frame(Inside, &[link, &[0x81, 0], &tag.to_be_bytes(), rest].concat());
}
