//! One changed DNAT entry among many: what management pays for a new configuration.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput};
use natgate::base::{EipIndex, EntryId, InterfaceIndex, VpcIndex};
use natgate::policy::{Edit, Eip, Host, HostOneToOne, OneToOne, Snapshot, Timeouts};

use crate::allocations;

const VPC: VpcIndex = VpcIndex(0);
const EIPS: u32 = 0x6440_0000;
const HOSTS: u32 = 0x0a00_0000;

/// Any-port entry number `n` to host number `host`.
fn put(edit: &mut Edit, n: u32, host: u32) {
    let (id, timeouts) = (EntryId(n), Timeouts::RFC);
    let mut eip = Eip::new(EipIndex(n), EIPS + n, InterfaceIndex(0));
    eip.any_port = Some(OneToOne { id, vpc: VPC, host: HOSTS + host, timeouts });
    let back = HostOneToOne { id, eip: eip.index, address: eip.address, timeouts };
    edit.put_eip(eip);
    edit.put_host(VPC, HOSTS + host, Some(Host::new(Some(back), Vec::new())));
}

fn change(snapshot: &Snapshot, n: u32, host: u32) -> Arc<Snapshot> {
    let mut edit = snapshot.edit();
    put(&mut edit, n, host);
    edit.finish()
}

pub fn all(c: &mut Criterion) {
    let mut group = c.benchmark_group("snapshot");
    group.throughput(Throughput::Elements(1));
    for entries in [1000, 100_000, 1_000_000] {
        let mut edit = Snapshot::default().edit();
        (0..entries).for_each(|n| put(&mut edit, n, n));
        let mut snapshot = edit.finish();
        assert_eq!(snapshot.eip_count(), entries as usize);
        let name = format!("one change among {entries} entries");
        allocations::report(&name, || change(&snapshot, 7, entries + 7));
        let mut n = 0;
        group.bench_function(&name, |b| {
            b.iter(|| {
                n = (n + 1) % entries;
                // Two hosts by turns, so that there is always something to change.
                let host =
                    snapshot.eip(EIPS + n).and_then(|eip| eip.any_port).expect("an entry").host - HOSTS;
                snapshot = change(&snapshot, n, if host == n { n + entries } else { n });
            });
        });
        group.bench_function(format!("look-up among {entries} entries"), |b| {
            b.iter(|| {
                n = n.wrapping_mul(747_796_405).wrapping_add(1) % entries;
                black_box(snapshot.eip(EIPS + n).and_then(|eip| eip.any_port))
            });
        });
    }
    group.finish();
}
