//! What gateways, EIPs and entries have carried: each packet and each byte of a session counts once, whenever somebody asks.

use natgate::base::Tick;
use natgate::nat::{Engine, SessionCursor, TALKERS, Talker, Usage, UsageKind};

use crate::support::{Config, Packet, Side, TestNet, ip};

const KINDS: [UsageKind; 3] = [UsageKind::Gateway, UsageKind::Eip, UsageKind::Entry];

/// The only row of a kind, of all workers together.
fn usage(engines: &mut [Engine], kind: UsageKind) -> Usage {
    let mut total = Usage::default();
    for engine in engines {
        assert!(engine.settle_sessions(&mut SessionCursor::default(), usize::MAX));
        let mut rows = Vec::with_capacity(8);
        assert!(engine.list_usage(kind, &mut 0, usize::MAX, &mut rows));
        assert!(rows.len() <= 1, "{rows:?}");
        for row in &rows {
            total.add(row);
        }
    }
    total
}

/// The only private host that carries anything, of all workers together.
fn talker(engines: &[Engine]) -> Talker {
    let mut total = Talker::default();
    for engine in engines {
        let mut rows = Vec::with_capacity(TALKERS);
        assert!(engine.list_talkers(&mut 0, usize::MAX, Tick(0), &mut rows));
        assert!(rows.iter().all(|row| row.address == u32::from(ip("10.0.0.20"))), "{rows:?}");
        for row in &rows {
            total.add(row);
        }
    }
    total
}

#[test]
fn each_packet_and_byte_counts_once_for_all_who_pay_for_it() {
    let inside = Side::Vpc(0);
    let (host, peer) = ((ip("10.0.0.20"), 5000), (ip("198.51.100.7"), 53));
    for workers in [1, 2] {
        let config = Config::new().snat("10.0.0.0/16", &["203.0.113.17"]);
        let mut net = TestNet::with_workers(&config, workers, 3);
        let question = Packet::udp(host, peer, b"question");
        let external = net.send(inside, &question).forwarded(Side::Outside).source();
        let mut expected = (1, 36, 0, 0);
        // More than a session's own counters hold, of packets and of bytes, and asked for in between.
        for (count, len) in [(700, 20), (3, 8), (300, 1400)] {
            for _ in 0..count {
                net.send(inside, &Packet::udp(host, peer, &vec![1; len])).forwarded(Side::Outside);
                net.send(Side::Outside, &Packet::udp(peer, external, b"answer")).forwarded(inside);
                expected = (expected.0 + 1, expected.1 + 28 + len as u64, expected.2 + 1, expected.3 + 34);
            }
            for kind in KINDS {
                let row = usage(&mut net.engines, kind);
                let carried = (row.packets_out, row.bytes_out, row.packets_in, row.bytes_in);
                assert_eq!(carried, expected, "{kind:?}, {workers} workers");
            }
        }
        let host = talker(&net.engines);
        assert_eq!((host.packets_out, host.bytes_out, host.packets_in, host.bytes_in), expected);
        assert_eq!(host.sessions, 1);
        let [session] = net.sessions().try_into().unwrap();
        assert_eq!((session.bytes_out, session.bytes_in), (expected.1, expected.3));
    }
}
