//! Which worker owns what: computed from addresses and ports alone, so that every worker, a classic BPF program and a NIC's
//! own hash ([`rss`](crate::base::rss)) come to the same answer.
//!
//! What a NIC can compute is a linear function of the packet's bits, and a table look-up. So an address or a port leads to
//! one of a few buckets by exclusive-or alone, and the buckets go round the workers.

/// Bits of a bucket's number: as many as the usual indirection table of a NIC has, where that leaves each worker a fair share.
pub const fn bucket_bits(workers: u16) -> u32 {
    if workers <= 64 { 7 } else { 12 }
}

/// The worker that owns a bucket.
#[inline]
pub const fn owner_of_bucket(bucket: u32, workers: u16) -> u16 {
    (bucket % workers as u32) as u16
}

/// The bucket of a private host: its address, folded.
#[inline]
pub const fn bucket_of_host(mut ip: u32, workers: u16) -> u32 {
    let bits = bucket_bits(workers);
    let mut shift = bits;
    while shift < u32::BITS {
        ip ^= ip >> shift;
        shift *= 2;
    }
    ip & ((1 << bits) - 1)
}

/// The worker that owns the SNAT sessions of a private host. The host's VPC plays no part, so that a filter that sees only
/// the packet can compute it.
#[inline]
pub const fn owner_of_host(ip: u32, workers: u16) -> u16 {
    if workers == 1 { 0 } else { owner_of_bucket(bucket_of_host(ip, workers), workers) }
}

/// Ports that lie together in a bucket, as a power of two.
pub const PORT_GROUP: u32 = 4;

/// The bucket of an external port: groups of sixteen go round the buckets.
#[inline]
pub const fn bucket_of_port(port: u16, workers: u16) -> u32 {
    (port as u32 >> PORT_GROUP) & ((1 << bucket_bits(workers)) - 1)
}

/// The worker that owns an external port.
#[inline]
pub const fn owner_of_port(port: u16, workers: u16) -> u16 {
    owner_of_bucket(bucket_of_port(port, workers), workers)
}

/// The worker at which the fragments of datagrams from the outside meet: only the first has a port, so it goes by what all
/// of them have. Those of a private host meet at its own worker ([`owner_of_host`]).
#[inline]
pub const fn owner_of_datagram(source: u32, destination: u32, workers: u16) -> u16 {
    owner_of_host(source ^ destination.rotate_left(16), workers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_owns_a_fair_share() {
        for workers in 1..=256 {
            let (mut hosts, mut ports) = (vec![0_u32; workers.into()], vec![0_u32; workers.into()]);
            for host in 0..4096 {
                hosts[usize::from(owner_of_host(0x0a00_0000 + host, workers))] += 1;
            }
            for port in 0..=u16::MAX {
                ports[usize::from(owner_of_port(port, workers))] += 1;
            }
            for shares in [hosts, ports] {
                let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
                assert!(*least > 0 && most <= &(least * 2), "{workers} workers: {least} to {most}");
            }
        }
    }
}
