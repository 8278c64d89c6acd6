//! TCP transfers between whole hosts through the gateway, over links that lose, repeat and reorder frames. What arrives
//! is compared byte by byte.

use std::net::Ipv4Addr;

use natgate::base::Rng;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;

use crate::support::config::Config;
use crate::support::hosts::{Faults, Lan};
use crate::support::packet::TCP;
use crate::support::{Side, TestNet, ip};

const ROUGH: Faults = Faults { lose: 30, repeat: 30, reorder: 60, corrupt: 0 };

/// One end of a connection: what it sends, and what it has received.
struct End {
    host: usize,
    socket: SocketHandle,
    data: Vec<u8>,
    sent: usize,
    received: Vec<u8>,
}

impl End {
    fn new(host: usize, socket: SocketHandle, bytes: usize, rng: &mut Rng) -> Self {
        let data = (0..bytes).map(|_| rng.next_u64() as u8).collect();
        Self { host, socket, data, sent: 0, received: vec![] }
    }

    /// Sends and receives what is possible, and closes when all is sent.
    fn pump(&mut self, lan: &mut Lan) {
        let socket = lan.hosts[self.host].tcp(self.socket);
        if socket.can_recv() {
            let received = &mut self.received;
            socket
                .recv(|bytes| {
                    received.extend_from_slice(bytes);
                    (bytes.len(), ())
                })
                .expect("an open connection");
        }
        if socket.can_send() {
            self.sent += socket.send_slice(&self.data[self.sent..]).expect("an open connection");
            if self.sent == self.data.len() {
                socket.close();
            }
        }
    }

    fn done(&self, lan: &mut Lan) -> bool {
        let state = lan.hosts[self.host].tcp(self.socket).state();
        self.sent == self.data.len() && matches!(state, State::Closed | State::TimeWait)
    }
}

/// A connection to make: who opens it, from which port, to which public endpoint, and who answers at which port.
struct Connection {
    client: usize,
    from: u16,
    to: (Ipv4Addr, u16),
    server: usize,
    port: u16,
}

/// Makes the connections at once and sends data both ways over each.
fn transfer(mut lan: Lan, connections: &[Connection], bytes: usize, seed: u64) -> Lan {
    let mut rng = Rng::from_seed(seed);
    let mut pairs = vec![];
    for connection in connections {
        let server = lan.hosts[connection.server].listen(connection.port);
        let client = lan.hosts[connection.client].connect(connection.from, connection.to);
        pairs.push((
            End::new(connection.client, client, bytes, &mut rng),
            End::new(connection.server, server, bytes / 2, &mut rng),
        ));
    }
    for _ in 0..200_000 {
        lan.step();
        let mut done = true;
        for (client, server) in &mut pairs {
            client.pump(&mut lan);
            server.pump(&mut lan);
            done &= client.done(&mut lan) && server.done(&mut lan);
        }
        if done {
            break;
        }
    }
    let drops: Vec<_> =
        natgate::base::DropReason::ALL.iter().zip(lan.net.totals().drops).filter(|(_, n)| *n > 0).collect();
    for (at, (client, server)) in pairs.iter().enumerate() {
        let states = [client, server].map(|end| lan.hosts[end.host].tcp(end.socket).state());
        let progress = |to: &End, from: &End| {
            let (got, all) = (to.received.len(), from.data.len());
            format!("connection {at}, {states:?}: {got} of {all} bytes; drops: {drops:?}")
        };
        assert!(server.received == client.data, "to the server, {}", progress(server, client));
        assert!(client.received == server.data, "to the client, {}", progress(client, server));
    }
    lan
}

const CLIENT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const EIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 16);

/// A client outside, two private hosts; the first serves by port and the second by any-port.
fn config() -> Config {
    Config::new()
        .forward(TCP, ("203.0.113.16", 80), ("10.0.0.2", 8080), 1)
        .forward(TCP, ("203.0.113.16", 9000), ("10.0.0.2", 7000), 16)
        .any_port("203.0.113.17", "10.0.0.3")
        .snat("10.0.0.0/16", &["203.0.113.18", "203.0.113.20"])
}

fn lan(config: &Config, workers: u16, faults: Faults, seed: u64) -> Lan {
    let hosts = [
        (Side::Outside, CLIENT),
        (Side::Vpc(0), ip("10.0.0.2")),
        (Side::Vpc(0), ip("10.0.0.3")),
        (Side::Vpc(0), ip("10.0.0.4")),
    ];
    Lan::new(TestNet::with_workers(config, workers, seed), &hosts, faults, seed)
}

/// Everything at once: inbound by port, by range and by any-port, outbound by SNAT and as the own EIP, hairpin.
fn all_ways() -> Vec<Connection> {
    vec![
        Connection { client: 0, from: 50_000, to: (EIP, 80), server: 1, port: 8080 },
        Connection { client: 0, from: 50_001, to: (EIP, 9003), server: 1, port: 7003 },
        Connection { client: 0, from: 50_002, to: (ip("203.0.113.17"), 22), server: 2, port: 22 },
        Connection { client: 3, from: 40_000, to: (CLIENT, 443), server: 0, port: 443 },
        Connection { client: 1, from: 40_000, to: (CLIENT, 444), server: 0, port: 444 },
        Connection { client: 2, from: 40_000, to: (CLIENT, 445), server: 0, port: 445 },
        Connection { client: 3, from: 40_001, to: (EIP, 9000), server: 1, port: 7000 },
        Connection { client: 2, from: 40_001, to: (EIP, 9001), server: 1, port: 7001 },
        Connection { client: 3, from: 40_002, to: (ip("203.0.113.17"), 25), server: 2, port: 25 },
        Connection { client: 1, from: 40_003, to: (EIP, 9002), server: 1, port: 7002 },
    ]
}

#[test]
fn clean_links() {
    for workers in [1, 4] {
        transfer(lan(&config(), workers, Faults::default(), 7), &all_ways(), 50_000, 7);
    }
}

#[test]
fn rough_links_one_worker() {
    for seed in 0..3 {
        transfer(lan(&config(), 1, ROUGH, seed), &all_ways(), 20_000, seed);
    }
}

#[test]
fn rough_links_four_workers() {
    for seed in 0..3 {
        transfer(lan(&config(), 4, ROUGH, seed), &all_ways(), 20_000, seed);
    }
}

/// TCP's own checksums find what a link has corrupted, if the gateway does not make it valid (TCP-12).
#[test]
fn corrupting_links() {
    let corrupting = Faults { corrupt: 20, ..ROUGH };
    transfer(lan(&config(), 1, corrupting, 3), &all_ways(), 20_000, 3);
    transfer(lan(&config(), 4, corrupting, 4), &all_ways(), 20_000, 4);
}

/// Two VPCs with the same private addresses, on VLANs, to one server outside from the same ports.
#[test]
fn two_vpcs_with_the_same_addresses() {
    let mut config = Config::new().vpc(20).snat("10.0.0.0/16", &["203.0.113.18"]);
    config = config.snat("10.0.0.0/16", &["203.0.113.19"]).snat_with(|entry| entry.vpc = 1);
    config.vpcs[0].link.vlan = Some(10);
    config.outside.vlan = Some(100);
    for workers in [1, 4] {
        let hosts = [(Side::Outside, CLIENT), (Side::Vpc(0), ip("10.0.0.2")), (Side::Vpc(1), ip("10.0.0.2"))];
        let lan = Lan::new(TestNet::with_workers(&config, workers, 5), &hosts, ROUGH, 5);
        let connections = [
            Connection { client: 1, from: 40_000, to: (CLIENT, 443), server: 0, port: 443 },
            Connection { client: 2, from: 40_000, to: (CLIENT, 444), server: 0, port: 444 },
        ];
        transfer(lan, &connections, 20_000, 5);
    }
}

/// The same seed gives the same run, to the last counter.
#[test]
fn a_run_repeats_by_its_seed() {
    let run = || {
        let lan = transfer(lan(&config(), 2, ROUGH, 11), &all_ways(), 5_000, 11);
        (lan.net.now, lan.net.totals())
    };
    assert_eq!(run(), run());
}
