//! Parsing, checksums, rewriting.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use natgate::base::Rng;
use natgate::speed::frames::Frames;
use natgate::speed::{Plan, Scenario};
use natgate::wire::rewrite::{self, Change, End};
use natgate::wire::{Datagram, checksum, ethernet::Link};

use crate::allocations;

const L3: usize = 14;

fn frame(scenario: Scenario) -> Vec<u8> {
    let mut frame = vec![0; 60];
    Frames::new(&Plan { scenario, sessions: 1, ..Plan::default() }, Rng::from_seed(1))
        .write(0, false, 60, &mut frame);
    frame
}

fn parse(frame: &[u8]) -> Datagram {
    let link = Link::parse(black_box(frame)).expect("an Ethernet frame");
    Datagram::parse(frame, link.len).expect("an IPv4 packet")
}

pub fn all(c: &mut Criterion) {
    let mut group = c.benchmark_group("wire");
    group.throughput(Throughput::Elements(1));
    for scenario in [Scenario::Snat, Scenario::Icmp] {
        let frame = frame(scenario);
        let name = format!("parse a frame of {}", scenario.name());
        assert_eq!(allocations::report(&name, || parse(&frame)), 0);
        group.bench_function(name, |b| b.iter(|| parse(&frame)));
    }
    let mut bytes = frame(Scenario::Snat);
    let datagram = Datagram::parse(&bytes, L3).expect("an IPv4 packet");
    let change = Change::of(&datagram, End::Source, 0x6440_0001, 40_000);
    group.bench_function("rewrite address, port, TTL and checksums", |b| {
        b.iter(|| rewrite::apply(black_box(&mut bytes), &datagram, &change, 1));
    });
    let header: [u8; 20] = std::array::from_fn(|n| frame(Scenario::Snat)[L3 + n]);
    group.bench_function("verify a header's checksum", |b| {
        b.iter(|| checksum::header_is_right(black_box(&header)));
    });
    for len in [64usize, 1500] {
        let bytes = vec![0xa5; len];
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(format!("checksum of {len} bytes"), |b| {
            b.iter(|| checksum::of(black_box(&bytes)));
        });
    }
    group.finish();
}
