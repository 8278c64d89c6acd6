//! External ports: which are taken on each EIP, and which one a new mapping gets.
//!
//! A port is looked for exhaustively, a word of 64 at a time, before anybody says "exhausted". The choice follows RFC 4787:
//! the inside port itself if it is free, else a random one (RFC 6056) in the same range (REQ-3a: well-known or not) and of
//! the same parity (REQ-4), then one of the other parity. It is never one that a DNAT entry owns.

use std::io;

use hashbrown::HashMap;

use crate::base::hugepage::HugeSlice;
use crate::base::owner::owner_of_port;
use crate::base::{EipIndex, Rng, Tick, WorkerIndex};
use crate::policy::{Eip, PortRange};
use crate::wire::protocol;

const WORDS: usize = 1024;

/// Ports that are tried for an endpoint-dependent session when all of them were looked through in this tick already.
const PROBES: usize = 256;

/// What a look for a port must respect.
#[derive(Clone, Copy, Debug)]
pub struct PortRequest {
    /// IP protocol number.
    pub protocol: u8,
    /// The inside port.
    pub inside_port: u16,
    /// Ports that the entry allows.
    pub range: PortRange,
}

/// A port that is free, and where that stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The EIP.
    pub eip: EipIndex,
    protocol: u8,
    block: u32,
    /// The port.
    pub port: u16,
}

/// Taken ports of one EIP and one protocol.
#[derive(Debug)]
struct Block {
    eip: EipIndex,
    protocol: u8,
    taken: u32,
    /// The range in which a search found nothing since the last port was given back.
    exhausted: Option<PortRange>,
}

/// The external ports of one worker.
#[derive(Debug)]
pub struct Ports {
    worker: WorkerIndex,
    workers: u16,
    blocks: Vec<Block>,
    capacity: usize,
    /// A bit a port, [`WORDS`] words a block.
    bits: HugeSlice<u64>,
    /// How many endpoint-dependent sessions share a port: 65536 counts a block.
    shares: HugeSlice<u16>,
    of: HashMap<(EipIndex, u8), u32>,
    rng: Rng,
    /// When more than [`PROBES`] shared ports were looked at for one session.
    searched: Tick,
}

impl Ports {
    /// Room for `eips` EIPs in SNAT pools. Memory is touched only for those in use.
    ///
    /// # Errors
    /// The kernel's, when it gives no memory.
    pub fn new(eips: usize, worker: WorkerIndex, workers: u16, rng: Rng) -> io::Result<Self> {
        let capacity = eips.max(1) * 3;
        Ok(Self {
            worker,
            workers,
            blocks: Vec::with_capacity(capacity),
            capacity,
            bits: HugeSlice::sparse(capacity * WORDS)?,
            shares: HugeSlice::sparse(capacity * 65536)?,
            of: HashMap::with_capacity(capacity),
            rng,
            searched: Tick::default(),
        })
    }

    /// Ports taken on an EIP by a protocol, in this worker's share.
    pub fn taken(&self, eip: EipIndex, protocol: u8) -> u32 {
        let block = self.of.get(&(eip, protocol)).and_then(|block| self.blocks.get(*block as usize));
        block.map_or(0, |block| block.taken)
    }

    /// Bytes of the sets of ports that are in use.
    pub fn bytes_in_use(&self) -> usize {
        self.bits.bytes_in_use() + self.shares.bytes_in_use()
    }

    fn block(&mut self, eip: EipIndex, protocol: u8) -> Option<usize> {
        if let Some(block) = self.of.get(&(eip, protocol)) {
            return Some(*block as usize);
        }
        let fresh = Block { eip, protocol, taken: 0, exhausted: None };
        let at = if self.blocks.len() < self.capacity {
            self.blocks.push(fresh);
            self.blocks.len() - 1
        } else {
            // An EIP that nobody uses any more makes room.
            let at = self.blocks.iter().position(|block| block.taken == 0)?;
            self.of.remove(&(self.blocks[at].eip, self.blocks[at].protocol));
            self.blocks[at] = fresh;
            at
        };
        self.of.insert((eip, protocol), at as u32);
        Some(at)
    }

    /// The port that [`take`](Self::take) would give now.
    pub fn offer(&mut self, eip: &Eip, request: PortRequest) -> Option<Offer> {
        let block = self.block(eip.index, request.protocol)?;
        let port = self.look(block, eip, request)?;
        Some(Offer { eip: eip.index, protocol: request.protocol, block: block as u32, port })
    }

    /// Takes an offered port, if nobody else has taken it since. The configuration must still be that of the offer.
    pub fn accept(&mut self, offer: Offer) -> Option<u16> {
        let at = offer.block as usize;
        let word = self.bits.get(at * WORDS + usize::from(offer.port >> 6)).copied().unwrap_or(u64::MAX);
        let is_free = word >> (offer.port & 63) & 1 == 0;
        let whose = self.blocks.get(at).map(|block| (block.eip, block.protocol));
        let is_its_block = whose == Some((offer.eip, offer.protocol));
        (is_free && is_its_block).then(|| {
            self.set(at, offer.port);
            offer.port
        })
    }

    /// Takes a port for an endpoint-independent mapping, for which it must be free.
    pub fn take(&mut self, eip: &Eip, request: PortRequest) -> Option<u16> {
        let at = self.block(eip.index, request.protocol)?;
        let port = self.look(at, eip, request)?;
        self.set(at, port);
        Some(port)
    }

    fn look(&mut self, at: usize, eip: &Eip, request: PortRequest) -> Option<u16> {
        if self.blocks[at].exhausted == Some(request.range) {
            return None;
        }
        let search = Search { ports: self, base: at * WORDS, eip, request };
        if search.allows(request.inside_port) {
            return Some(request.inside_port);
        }
        let start = self.rng.next_u64();
        let search = Search { ports: self, base: at * WORDS, eip, request };
        let passes = search.passes();
        let port = search
            .guess(passes[0], start)
            .or_else(|| passes.into_iter().find_map(|pass| search.find(pass, start)));
        if port.is_none() {
            self.blocks[at].exhausted = Some(request.range);
        }
        port
    }

    /// Takes a port for an endpoint-dependent session: a free one, or one that such sessions to other peers share.
    /// `is_free_towards_peer` says whether the external endpoint is not in use towards this peer.
    ///
    /// Each port that is shared costs a look into the session table, so a search through all of them is for once a tick:
    /// in between 256 have to do.
    pub fn take_shared(
        &mut self,
        eip: &Eip,
        request: PortRequest,
        now: Tick,
        mut is_free_towards_peer: impl FnMut(u16) -> bool,
    ) -> Option<u16> {
        let at = self.block(eip.index, request.protocol)?;
        let start = (self.rng.next_u64() >> 48) as u16;
        let search = Search { ports: self, base: at * WORDS, eip, request };
        let mut probes = 0;
        let mut is_open = |port: u16| {
            let shared = self.shares.get(at * 65536 + usize::from(port)).copied().unwrap_or_default();
            let possible =
                if shared > 0 { shared < u16::MAX && search.is_in_share(port) } else { search.allows(port) };
            probes += usize::from(possible);
            possible && is_free_towards_peer(port)
        };
        let budget = if self.searched == now { PROBES } else { usize::MAX };
        let port = Some(request.inside_port).filter(|port| is_open(*port)).or_else(|| {
            let all = search.passes().into_iter().flat_map(|pass| pass.ports(start));
            all.take(budget).find(|port| is_open(*port))
        });
        if probes > PROBES {
            self.searched = now;
        }
        let port = port?;
        let shares = self.shares.get_mut(at * 65536 + usize::from(port))?;
        *shares += 1;
        if *shares == 1 {
            self.set(at, port);
        }
        Some(port)
    }

    /// Gives back a port that [`take`](Self::take) gave.
    pub fn give(&mut self, eip: EipIndex, protocol: u8, port: u16) {
        let Some(&at) = self.of.get(&(eip, protocol)) else { return };
        let at = at as usize;
        let mask = 1 << (port & 63);
        if let Some(word) = self.bits.get_mut(at * WORDS + usize::from(port >> 6))
            && *word & mask != 0
        {
            *word &= !mask;
            self.blocks[at].taken -= 1;
            self.blocks[at].exhausted = None;
        }
    }

    /// Gives back a port that [`take_shared`](Self::take_shared) gave.
    pub fn give_shared(&mut self, eip: EipIndex, protocol: u8, port: u16) {
        let Some(&at) = self.of.get(&(eip, protocol)) else { return };
        let Some(shares) = self.shares.get_mut(at as usize * 65536 + usize::from(port)) else { return };
        *shares = shares.saturating_sub(1);
        if *shares == 0 {
            self.give(eip, protocol, port);
        }
    }

    fn set(&mut self, at: usize, port: u16) {
        if let Some(word) = self.bits.get_mut(at * WORDS + usize::from(port >> 6)) {
            *word |= 1 << (port & 63);
            self.blocks[at].taken += 1;
        }
    }
}

/// One look for a port on one EIP.
#[derive(Clone, Copy)]
struct Search<'a> {
    ports: &'a Ports,
    base: usize,
    eip: &'a Eip,
    request: PortRequest,
}

/// What a pass over all ports accepts.
#[derive(Clone, Copy)]
struct Pass {
    range: PortRange,
    /// Ports of this parity only.
    parity: Option<u16>,
}

impl Pass {
    /// Its ports, from a random one on.
    fn ports(self, random: u16) -> impl Iterator<Item = u16> {
        let PortRange { first, last } = self.range;
        let count = (u32::from(last) + 1).saturating_sub(first.into());
        let start = (u32::from(random) * count) >> 16;
        let ports = (start..count).chain(0..start).map(move |n| first + n as u16);
        ports.filter(move |port| self.parity.is_none_or(|parity| port & 1 == parity))
    }
}

impl Search<'_> {
    /// The passes, each more permissive than the one before; the last one accepts all that is allowed.
    fn passes(&self) -> [Pass; 3] {
        let all = Pass { range: self.request.range, parity: None };
        // An ICMP identifier has neither a range nor a parity.
        if self.request.protocol == protocol::ICMP {
            return [all; 3];
        }
        let PortRange { first, last } = self.request.range;
        let range = if self.request.inside_port < 1024 {
            PortRange { first, last: last.min(1023) }
        } else {
            PortRange { first: first.max(1024), last }
        };
        [Pass { range, parity: Some(self.request.inside_port & 1) }, Pass { range, parity: None }, all]
    }

    /// Whether a port lies in the worker's share and the entry's range, and no DNAT entry owns it.
    fn is_in_share(&self, port: u16) -> bool {
        port != 0
            && self.request.range.contains(port)
            && owner_of_port(port, self.ports.workers) == self.ports.worker.0
            && self.eip.forward(self.request.protocol, port).is_none()
    }

    /// Whether a port may be taken.
    fn allows(&self, port: u16) -> bool {
        let word = self.ports.bits.get(self.base + usize::from(port >> 6)).copied().unwrap_or(u64::MAX);
        self.is_in_share(port) && word >> (port & 63) & 1 == 0
    }

    /// A random port that a pass accepts, if it is free: most often it is.
    fn guess(&self, pass: Pass, random: u64) -> Option<u16> {
        let span = u32::from(pass.range.last).checked_sub(pass.range.first.into())? + 1;
        let port = u32::from(pass.range.first) + (((random >> 32) * u64::from(span)) >> 32) as u32;
        let port = match pass.parity {
            None => port as u16,
            Some(parity) => port as u16 & !1 | parity,
        };
        (pass.range.contains(port) && self.allows(port)).then_some(port)
    }

    /// A free port that a pass accepts, looking from a random place on.
    fn find(&self, pass: Pass, start: u64) -> Option<u16> {
        if pass.range.first > pass.range.last {
            return None;
        }
        let first = usize::from(pass.range.first >> 6);
        let count = usize::from(pass.range.last >> 6) - first + 1;
        let offset = ((start >> 32) as usize * count) >> 32;
        let rotation = (start & 63) as u32;
        let mut words = (first + offset..first + count).chain(first..first + offset);
        words.find_map(|word| {
            let free = self.free_in(word, pass);
            (free != 0).then(|| {
                // From a random place in the word on.
                let bit = (free.rotate_right(rotation).trailing_zeros() + rotation) % 64;
                (word * 64) as u16 + bit as u16
            })
        })
    }

    /// The free ports of a word that a pass accepts, as bits.
    fn free_in(&self, word: usize, pass: Pass) -> u64 {
        let taken = self.ports.bits.get(self.base + word).copied().unwrap_or(u64::MAX);
        let mut free = !taken & !self.eip.reserved(self.request.protocol, (word * 64) as u16);
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
        if self.ports.workers > 1 {
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::base::{EntryId, InterfaceIndex, VpcIndex};
    use crate::policy::{PortForward, Timeouts};

    fn eip(forwards: &[(u16, u16)]) -> Eip {
        let mut eip = Eip::new(EipIndex(3), 0xcb00_7110, InterfaceIndex(0));
        let forward = |&(first, last): &(u16, u16)| PortForward {
            id: EntryId(1),
            protocol: protocol::UDP,
            first,
            last,
            vpc: VpcIndex(0),
            host: 0x0a00_0001,
            host_first: first,
            timeouts: Timeouts::RFC,
        };
        eip.set_forwards(forwards.iter().map(forward).collect());
        eip
    }

    fn ports(worker: u16, workers: u16) -> Ports {
        Ports::new(4, WorkerIndex(worker), workers, Rng::from_seed(1)).unwrap()
    }

    fn request(inside_port: u16, first: u16, last: u16) -> PortRequest {
        PortRequest { protocol: protocol::UDP, inside_port, range: PortRange { first, last } }
    }

    #[test]
    fn every_allowed_port_is_given_once_before_it_says_exhausted() {
        let eip = eip(&[(1030, 1040), (2000, 2000)]);
        for (workers, first, last) in [(1, 1, 65535), (1, 1000, 2100), (3, 1, 65535), (4, 1025, 1500)] {
            let mut given = BTreeSet::new();
            for worker in 0..workers {
                let mut ports = ports(worker, workers);
                while let Some(port) = ports.take(&eip, request(40001, first, last)) {
                    assert!(given.insert(port), "{port} twice");
                    assert_eq!(owner_of_port(port, workers), worker);
                }
                assert_eq!(ports.take(&eip, request(5, first, last)), None);
            }
            let expected: BTreeSet<_> =
                (first..=last).filter(|port| !(1030..=1040).contains(port) && *port != 2000).collect();
            assert_eq!(given, expected, "{workers} workers, {first}-{last}");
        }
    }

    #[test]
    fn keeps_port_then_range_and_parity() {
        let eip = eip(&[]);
        let mut ports = ports(0, 1);
        assert_eq!(ports.take(&eip, request(5060, 1, 65535)), Some(5060));
        let second = ports.take(&eip, request(5060, 1, 65535)).unwrap();
        assert!(second >= 1024 && second.is_multiple_of(2), "{second}");
        let low = ports.take(&eip, request(53, 1, 65535)).unwrap();
        let low_again = ports.take(&eip, request(53, 1, 65535)).unwrap();
        assert!(low == 53 && low_again < 1024 && low_again % 2 == 1, "{low_again}");
        ports.give(eip.index, protocol::UDP, 5060);
        assert_eq!(ports.take(&eip, request(5060, 1, 65535)), Some(5060));
        assert_eq!(ports.taken(eip.index, protocol::UDP), 4);
    }

    #[test]
    fn a_given_back_port_ends_exhaustion() {
        let eip = eip(&[]);
        let mut ports = ports(0, 1);
        let one = request(7000, 7000, 7000);
        assert_eq!(ports.take(&eip, one), Some(7000));
        assert_eq!(ports.take(&eip, one), None);
        ports.give(eip.index, protocol::UDP, 7000);
        assert_eq!(ports.take(&eip, one), Some(7000));
    }

    #[test]
    fn shared_ports_are_kept_apart_from_exclusive_ones() {
        let eip = eip(&[]);
        let mut ports = ports(0, 1);
        let two = request(7000, 7000, 7001);
        assert_eq!(ports.take_shared(&eip, two, Tick(7), |_| true), Some(7000));
        assert_eq!(ports.take_shared(&eip, two, Tick(7), |_| true), Some(7000), "another peer shares it");
        assert_eq!(
            ports.take_shared(&eip, two, Tick(7), |port| port != 7000),
            Some(7001),
            "the same peer does not"
        );
        assert_eq!(ports.take(&eip, two), None);
        ports.give_shared(eip.index, protocol::UDP, 7000);
        assert_eq!(ports.take(&eip, two), None);
        ports.give_shared(eip.index, protocol::UDP, 7000);
        assert_eq!(ports.take(&eip, two), Some(7000));
        assert_eq!(ports.take_shared(&eip, two, Tick(7), |port| port != 7001), None);
    }
}
