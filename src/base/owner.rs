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
