//! ARP (RFC 826, RFC 5227).

use std::net::Ipv4Addr;
use std::time::Duration;

use super::Check;
use super::prelude::*;
use crate::nic::Mac;

pub const ROWS: &[Check] = &[
    // First, while what was heard since the start is not yet forgotten.
    Check::new("ARP-07", announces),
    Check::new("ARP-01", |net| {
        let mac = net.resolve(Inside, INSIDE_GATEWAY)?;
        Ok(format!("{INSIDE_GATEWAY} is at {}", text(mac)))
    }),
    Check::new("ARP-02", |net| {
        for eip in [POOL, ANY_EIP, PORT_EIP, TWO[0], TWO[1], SMALL] {
            let mac = net.resolve(Outside, eip)?;
            same(&mac, &net.gateway_mac(Outside))?;
        }
        Ok("six EIPs are answered for".into())
    }),
    Check::new("ARP-03", |net| {
        let nobody = [(Outside, "203.0.113.200"), (Outside, "198.51.100.1"), (Inside, "198.51.100.1")];
        for (side, address) in nobody {
            unanswered(net, side, address)?;
        }
        Ok("no answer for addresses of nobody".into())
    }),
    Check::new("ARP-04", |net| {
        for address in ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.1"] {
            unanswered(net, Outside, address)?;
        }
        Ok("no answer for private addresses".into())
    }),
    Check::new("ARP-05", |net| {
        let probe = request(Ipv4Addr::UNSPECIFIED, ANY_EIP);
        net.ask(Outside, &probe, [0xff; 6]).map(|mac| format!("{ANY_EIP} is at {}", text(mac)))
    }),
    Check::new("ARP-06", |net| {
        let to = net.gateway_mac(Outside);
        net.ask(Outside, &request(ROUTER, PORT_EIP), to).map(|mac| format!("{PORT_EIP} is at {}", text(mac)))
    }),
    Check::new("ARP-08", |net| {
        // A private host that nobody has heard of so far.
        let client = net.client();
        net.deaf(Inside, true);
        net.send(Outside, &Packet::udp(client, (ANY_EIP, 7), b"kept"));
        net.pass(Duration::from_millis(50));
        net.deaf(Inside, false);
        let mut tries = 0;
        let arrived = loop {
            match net.next_packet(Inside) {
                Ok(packet) => break packet,
                Err(error) if tries == 3 => return Err(error),
                Err(_) => tries += 1,
            }
        };
        same(&arrived.destination(), &(ONE_TO_ONE, 7))?;
        Ok("the packet came when the host was found".into())
    }),
    Check::new("ARP-09", |net| {
        let mac: Mac = [2, 9, 9, 9, 9, 9];
        let from = net.endpoint();
        let external = net.mapped(from, PEER)?;
        net.into(&Packet::udp(PEER, external, b"before"))?;
        net.move_host(Inside, from.0, mac);
        let gratuitous = Arp { is_request: true, sender_mac: mac, sender: from.0, target: from.0 };
        net.send_frame(Inside, &gratuitous.frame([0xff; 6], [0; 6]));
        net.pass(Duration::from_millis(20));
        net.send(Outside, &Packet::udp(PEER, external, b"after"));
        let arrival = net.next(Inside)?;
        same(&arrival.frame[..6].to_vec(), &mac.to_vec())?;
        Ok("the next packet goes to the new address".into())
    }),
    Check::new("ARP-10", |net| {
        let claim =
            Arp { is_request: true, sender_mac: [2, 8, 8, 8, 8, 8], sender: ANY_EIP, target: ANY_EIP };
        net.send_frame(Outside, &claim.frame([0xff; 6], [0; 6]));
        net.pass(Duration::from_millis(20));
        same(&net.resolve(Outside, ANY_EIP)?, &net.gateway_mac(Outside))?;
        let client = net.client();
        net.into(&Packet::udp(client, (ANY_EIP, 7), b"still here"))?;
        Ok("it keeps the EIP".into())
    }),
    Check::new("ARP-11", |net| {
        let right = request(ROUTER, POOL).frame([0xff; 6], [0; 6]);
        for (at, value) in [(15, 9), (17, 6), (18, 5), (19, 16), (21, 77)] {
            let mut wrong = right.clone();
            wrong[at] = value;
            net.send_frame(Outside, &wrong);
        }
        net.send_frame(Outside, &right[..30]);
        net.nothing()?;
        Ok("six malformed packets ignored".into())
    }),
];

fn announces(net: &mut Net) -> Verdict {
    for eip in [POOL, ANY_EIP, PORT_EIP] {
        let heard = |arp: &&Arp| arp.sender == eip && arp.target == eip;
        ensure(net.announced().iter().any(|arp| heard(&arp)), || format!("{eip} was not announced"))?;
    }
    Ok("three EIPs were announced at the start".into())
}

fn request(sender: Ipv4Addr, target: Ipv4Addr) -> Arp {
    Arp { is_request: true, sender_mac: Outside.mac_of(ROUTER), sender, target }
}

fn unanswered(net: &mut Net, side: Side, address: &str) -> Result<(), String> {
    let address: Ipv4Addr = address.parse().map_err(|_| format!("{address} is no address"))?;
    match net.resolve(side, address) {
        Err(_) => Ok(()),
        Ok(mac) => Err(format!("{address} is answered for by {}", text(mac))),
    }
}

fn text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
