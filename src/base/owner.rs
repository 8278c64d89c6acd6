//! Which worker owns what: computed from addresses and ports alone, so that every worker, and a classic BPF program, comes
//! to the same answer.

/// What [`owner_of_host`] multiplies an address with, so that neighbours come to different workers.
pub const MIX: u32 = 0x9e37_79b1;

/// The worker that owns the SNAT sessions of a private host. The host's VPC plays no part, so that a filter that sees only
/// the packet can compute it.
#[inline]
pub const fn owner_of_host(ip: u32, workers: u16) -> u16 {
    let mixed = ip.wrapping_mul(MIX) >> 16;
    (mixed % workers as u32) as u16
}

/// The worker that owns an external port: groups of sixteen go round the workers.
#[inline]
pub const fn owner_of_port(port: u16, workers: u16) -> u16 {
    (port >> 4) % workers
}

/// The worker at which the fragments of datagrams from the outside meet: only the first has a port, so it goes by what all
/// of them have. Those of a private host meet at its own worker ([`owner_of_host`]).
#[inline]
pub const fn owner_of_datagram(source: u32, destination: u32, workers: u16) -> u16 {
    owner_of_host(source ^ destination.rotate_left(16), workers)
}
