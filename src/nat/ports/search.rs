//! Looking for a port on one EIP: which ports may be taken, and in which order they are preferred.

use super::{PortRequest, Ports, WORDS};
use crate::base::owner::{PORT_GROUP, bucket_of_port, owner_of_port};
use crate::policy::{Eip, PortRange};
use crate::wire::protocol;

/// In the place of an EIP of which no port was ever taken.
pub(super) const UNUSED: usize = usize::MAX;

/// One look for a port on one EIP.
#[derive(Clone, Copy)]
pub(super) struct Search<'a> {
    pub(super) ports: &'a Ports,
    pub(super) at: usize,
    pub(super) eip: &'a Eip,
    pub(super) request: PortRequest,
}

/// What a pass over all ports accepts.
#[derive(Clone, Copy)]
pub(super) struct Pass {
    range: PortRange,
    /// Ports of this parity only.
    parity: Option<u16>,
}

impl Pass {
    /// How many ports it has at most.
    pub(super) fn len(self) -> usize {
        let PortRange { first, last } = self.range;
        let all = usize::from(last).saturating_sub(first.into()) + usize::from(first <= last);
        if self.parity.is_some() { all.div_ceil(2) } else { all }
    }

    /// A random port of the pass.
    pub(super) fn guess(self, random: u64) -> Option<u16> {
        let PortRange { first, last } = self.range;
        let span = u32::from(last).checked_sub(first.into())? + 1;
        let port = u32::from(first) + (((random >> 32) * u64::from(span)) >> 32) as u32;
        let port = match self.parity {
            None => port as u16,
            Some(parity) => port as u16 & !1 | parity,
        };
        self.range.contains(port).then_some(port)
    }
}

impl PortRequest {
    /// The passes, each more permissive than the one before; the last one accepts all that is allowed.
    #[inline]
    pub(super) fn passes(self) -> [Pass; 3] {
        let all = Pass { range: self.range, parity: None };
        // An ICMP identifier has neither a range nor a parity.
        if self.protocol == protocol::ICMP {
            return [all; 3];
        }
        let PortRange { first, last } = self.range;
        let range = if self.inside_port < 1024 {
            PortRange { first, last: last.min(1023) }
        } else {
            PortRange { first: first.max(1024), last }
        };
        [Pass { range, parity: Some(self.inside_port & 1) }, Pass { range, parity: None }, all]
    }
}

impl Search<'_> {
    /// Whether a port lies in the worker's share and the entry's range, and no DNAT entry owns it.
    fn is_in_share(&self, port: u16) -> bool {
        port != 0
            && self.request.range.contains(port)
            && (self.ports.workers == 1
                || self.request.is_block
                || owner_of_port(port, self.ports.workers) == self.ports.worker.0)
            && self.eip.forward(self.request.protocol, port).is_none()
    }

    /// Whether a port may be taken.
    pub(super) fn allows(&self, port: u16) -> bool {
        self.is_in_share(port) && self.taken_in(usize::from(port >> 6)) >> (port & 63) & 1 == 0
    }

    /// Whether a port may be taken by an endpoint-dependent session, if it is free towards its peer.
    pub(super) fn allows_shared(&self, port: u16) -> bool {
        let at = self.at.checked_mul(65536).and_then(|at| at.checked_add(port.into()));
        match at.and_then(|at| self.ports.shares.get(at)).copied().unwrap_or_default() {
            0 => self.allows(port),
            shares => shares < u16::MAX && self.is_in_share(port),
        }
    }

    /// The taken ports of a word, as bits.
    fn taken_in(&self, word: usize) -> u64 {
        if self.at == UNUSED {
            return 0;
        }
        self.ports.bits.get(self.at * WORDS + word).copied().unwrap_or(u64::MAX)
    }

    /// A free port that a pass accepts, looking from a random place on.
    pub(super) fn find(&self, pass: Pass, start: u64) -> Option<u16> {
        self.look_through(pass, start, |word, ports| {
            let free = ports & !self.taken_in(word);
            bits_from(start, free).next()
        })
    }

    /// A port that an endpoint-dependent session may take, where those that are in use towards its peer are known.
    pub(super) fn find_unused(&self, used: &[u64], start: u64) -> Option<u16> {
        self.request.passes().into_iter().find_map(|pass| {
            self.look_through(pass, start, |word, ports| {
                let unused = ports & !used.get(word).copied().unwrap_or(u64::MAX);
                bits_from(start, unused).find(|bit| self.allows_shared((word * 64) as u16 + *bit as u16))
            })
        })
    }

    /// A random port of a pass in the worker's share, if chance wants it.
    pub(super) fn guess(&self, pass: Pass, random: u64) -> Option<u16> {
        let port = pass.guess(random)?;
        if self.ports.workers == 1 || self.request.is_block {
            return Some(port);
        }
        // The same place in a bucket of the worker's own nearby.
        let bucket = bucket_of_port(port, self.ports.workers);
        let own = bucket - bucket % u32::from(self.ports.workers) + u32::from(self.ports.worker.0);
        let port = (u32::from(port) + (own << PORT_GROUP)).checked_sub(bucket << PORT_GROUP)?;
        u16::try_from(port).ok().filter(|port| pass.range.contains(*port))
    }

    /// The first port that `choose` finds among those that a pass accepts, a word of them at a time, from a random word on.
    fn look_through(
        &self,
        pass: Pass,
        start: u64,
        choose: impl Fn(usize, u64) -> Option<u32>,
    ) -> Option<u16> {
        if pass.range.first > pass.range.last {
            return None;
        }
        let first = usize::from(pass.range.first >> 6);
        let count = usize::from(pass.range.last >> 6) - first + 1;
        let offset = ((start >> 32) as usize * count) >> 32;
        let mut words = (first + offset..first + count).chain(first..first + offset);
        words.find_map(|word| {
            choose(word, self.ports_in(word, pass)).map(|bit| (word * 64) as u16 + bit as u16)
        })
    }

    /// The ports of a word that a pass accepts, as bits.
    fn ports_in(&self, word: usize, pass: Pass) -> u64 {
        let mut free = !self.eip.reserved(self.request.protocol, (word * 64) as u16);
        free &= match pass.parity {
            None => u64::MAX,
            Some(0) => 0x5555_5555_5555_5555,
            Some(_) => 0xaaaa_aaaa_aaaa_aaaa,
        };
        let first = (word * 64) as u32;
        let (low, high) = (u32::from(pass.range.first.max(1)), u32::from(pass.range.last));
        if low > first {
            free &= if low - first >= 64 { 0 } else { u64::MAX << (low - first) };
        }
        if high < first + 63 {
            free &= if high < first { 0 } else { u64::MAX >> (63 - (high - first)) };
        }
        if self.ports.workers > 1 && !self.request.is_block {
            // Shares are groups of sixteen ports.
            for group in 0..4 {
                let port = (first + group * 16) as u16;
                if owner_of_port(port, self.ports.workers) != self.ports.worker.0 {
                    free &= !(0xffff << (group * 16));
                }
            }
        }
        free
    }
}

/// The bits that are set, from a random one on.
fn bits_from(random: u64, bits: u64) -> impl Iterator<Item = u32> {
    let rotation = (random & 63) as u32;
    let mut rest = bits.rotate_right(rotation);
    std::iter::from_fn(move || {
        let bit = (rest != 0).then(|| rest.trailing_zeros())?;
        rest &= rest - 1;
        Some((bit + rotation) % 64)
    })
}
