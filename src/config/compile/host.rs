//! The DNAT entries of a private host, seen from it.

use std::collections::BTreeMap;

use crate::policy::{Host, HostForward, HostOneToOne, Rivals};

/// A private host with all entries that lead to it. Where gateways of one VPC compete for it, the lowest EIP wins.
pub fn host_of(any_port: Vec<HostOneToOne>, by_port: Vec<HostForward>) -> Host {
    let rivals = Rivals { any_port: any_port.len() > 1, ports: overlaps(&by_port) };
    let any_port = any_port.into_iter().min_by_key(|entry| entry.address);
    Host::new(any_port, disjoint(by_port)).with_rivals(rivals)
}

/// Protocols and private ports of one host that more than one entry leads to.
fn overlaps(forwards: &[HostForward]) -> Box<[(u8, u16, u16)]> {
    let mut ranges: Vec<_> = forwards.iter().map(|f| (f.protocol, f.first, f.last)).collect();
    ranges.sort_unstable();
    let mut found = Vec::new();
    let mut before: Option<(u8, u16)> = None;
    for (protocol, first, last) in ranges {
        let reached = before.filter(|(p, _)| *p == protocol).map(|(_, reached)| reached);
        if let Some(reached) = reached.filter(|reached| *reached >= first) {
            found.push((protocol, first, last.min(reached)));
        }
        before = Some((protocol, reached.unwrap_or(last).max(last)));
    }
    found.into()
}

/// The private ports of one host without overlaps, so that each has one owner. Within a gateway they have none; where
/// gateways of one VPC compete for a port, the lowest EIP wins.
fn disjoint(mut forwards: Vec<HostForward>) -> Vec<HostForward> {
    forwards.sort_by_key(|f| (f.protocol, f.first));
    if forwards.windows(2).all(|w| w[0].protocol != w[1].protocol || w[0].last < w[1].first) {
        return forwards;
    }
    forwards.sort_by_key(|f| (f.address, f.protocol, f.first));
    let mut taken: BTreeMap<(u8, u16), u16> = BTreeMap::new();
    let mut pieces = Vec::with_capacity(forwards.len());
    for forward in forwards {
        let (protocol, first, last) = (forward.protocol, forward.first, forward.last);
        let before = taken.range(..(protocol, first)).next_back().filter(|((p, _), _)| *p == protocol);
        let within = taken.range((protocol, first)..=(protocol, last));
        let covered: Vec<(u16, u16)> = before.into_iter().chain(within).map(|((_, a), b)| (*a, *b)).collect();
        let mut free = u32::from(first);
        let end = u32::from(last) + 1;
        let mut gaps = Vec::new();
        for (a, b) in covered {
            if free < u32::from(a) {
                gaps.push((free, u32::from(a)));
            }
            free = free.max(u32::from(b) + 1);
        }
        if free < end {
            gaps.push((free, end));
        }
        for (a, b) in gaps {
            let (a, b) = (a as u16, (b - 1) as u16);
            taken.insert((protocol, a), b);
            pieces.push(HostForward {
                first: a,
                last: b,
                public_first: forward.public_first + (a - first),
                ..forward
            });
        }
    }
    pieces
}
