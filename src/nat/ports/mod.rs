//! External ports: which are taken on each EIP, and which one a new mapping gets.
//!
//! A port is looked for exhaustively, a word of 64 at a time, before anybody says "exhausted". The choice follows RFC 4787:
//! the inside port itself if it is free, else a random one (RFC 6056) in the same range (REQ-3a: well-known or not) and of
//! the same parity (REQ-4), then one of the other parity. It is never one that a DNAT entry owns.
//!
//! Where the queue that answers come to is known, ports that bring them to the worker's own go before all others (`home`).

pub mod blocks;
mod crowded;
mod home;
mod search;

use std::io;

use arrayvec::ArrayVec;
use hashbrown::HashMap;

use crate::base::hugepage::HugeSlice;
use crate::base::{EipIndex, Rng, Tick, WorkerIndex};
use crate::policy::{Eip, PortRange};
pub use crowded::Destination;
use crowded::{Crowded, ROWS};
pub use home::{Distributions, Towards};
use search::{Search, UNUSED};

/// Words of a set of ports, a bit a port.
const WORDS: usize = 1024;

/// Ports of each pass that are tried at random for an endpoint-dependent session before all are looked through.
const PROBES: usize = 32;

/// What a look for a port must respect.
#[derive(Clone, Copy, Debug)]
pub struct PortRequest {
    /// IP protocol number.
    pub protocol: u8,
    /// The inside port.
    pub inside_port: u16,
    /// Ports that the entry allows.
    pub range: PortRange,
    /// Whether these are a block, all ports of which are the worker's.
    pub is_block: bool,
    /// Where the answers come to, if that is known.
    pub towards: Option<Towards>,
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

/// How many ports of an EIP a protocol has taken, or how many blocks of them hosts have, in one worker's share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortsRow {
    /// The EIP.
    pub eip: EipIndex,
    /// IP protocol number; none of blocks, which are for all protocols.
    pub protocol: Option<u8>,
    /// Ports, or blocks, that are taken.
    pub taken: u32,
}

/// Taken ports of one EIP and one protocol.
#[derive(Debug)]
struct Block {
    eip: EipIndex,
    protocol: u8,
    taken: u32,
    /// The range in which a search found nothing since the last port was given back, and in which era.
    exhausted: Option<(PortRange, u64)>,
}

/// An EIP and a protocol as one number, which is hashed at once.
const fn block_key(eip: EipIndex, protocol: u8) -> u64 {
    (eip.0 as u64) << 8 | protocol as u64
}

/// The external ports of one worker.
#[derive(Debug)]
pub struct Ports {
    worker: WorkerIndex,
    workers: u16,
    blocks: Vec<Block>,
    /// Configurations so far: under another one DNAT entries may own fewer ports, so no search is known to find nothing any more.
    era: u64,
    capacity: usize,
    /// A bit a port, [`WORDS`] words a block.
    bits: HugeSlice<u64>,
    /// How many endpoint-dependent sessions share a port: 65536 counts a block.
    shares: HugeSlice<u16>,
    /// Where most of them are in use towards one peer.
    crowded: Crowded,
    /// The block of an EIP and a protocol, by [`block_key`].
    of: HashMap<u64, u32>,
    distributions: Distributions,
    rng: Rng,
}

impl Ports {
    /// Room for `eips` EIPs in SNAT pools. Memory is touched only for those in use.
    ///
    /// # Errors
    /// The kernel's, when it gives no memory.
    pub fn new(
        eips: usize,
        worker: WorkerIndex,
        workers: u16,
        distributions: Distributions,
        rng: Rng,
    ) -> io::Result<Self> {
        let capacity = eips.max(1) * 3;
        Ok(Self {
            worker,
            workers,
            blocks: Vec::with_capacity(capacity),
            era: 0,
            capacity,
            bits: HugeSlice::sparse(capacity * WORDS)?,
            shares: HugeSlice::sparse(capacity * 65536)?,
            crowded: Crowded::new()?,
            of: HashMap::with_capacity(capacity),
            distributions,
            rng,
        })
    }

    /// Ports taken on an EIP by a protocol, in this worker's share.
    pub fn taken(&self, eip: EipIndex, protocol: u8) -> u32 {
        let block = self.of.get(&block_key(eip, protocol)).and_then(|block| self.blocks.get(*block as usize));
        block.map_or(0, |block| block.taken)
    }

    /// Another configuration is in force.
    pub fn reconfigured(&mut self) {
        self.era += 1;
    }

    /// EIPs and protocols, with how many ports are taken.
    pub fn rows(&self) -> impl Iterator<Item = PortsRow> {
        self.blocks.iter().map(|block| {
            let Block { eip, protocol, taken, .. } = *block;
            PortsRow { eip, protocol: Some(protocol), taken }
        })
    }

    /// Destinations to which nearly all ports of an EIP are in use, with how many are.
    pub fn crowded(&self) -> ArrayVec<(Destination, u32), ROWS> {
        self.crowded.list().collect()
    }

    /// Bytes of the sets of ports that are in use.
    pub fn bytes_in_use(&self) -> usize {
        self.bits.bytes_in_use() + self.shares.bytes_in_use()
    }

    fn block(&mut self, eip: EipIndex, protocol: u8) -> Option<usize> {
        if let Some(block) = self.of.get(&block_key(eip, protocol)) {
            return Some(*block as usize);
        }
        self.new_block(eip, protocol)
    }

    #[cold]
    fn new_block(&mut self, eip: EipIndex, protocol: u8) -> Option<usize> {
        let fresh = Block { eip, protocol, taken: 0, exhausted: None };
        let at = if self.blocks.len() < self.capacity {
            self.blocks.push(fresh);
            self.blocks.len() - 1
        } else {
            // An EIP that nobody uses any more makes room.
            let at = self.blocks.iter().position(|block| block.taken == 0)?;
            self.of.remove(&block_key(self.blocks[at].eip, self.blocks[at].protocol));
            self.blocks[at] = fresh;
            at
        };
        self.of.insert(block_key(eip, protocol), at as u32);
        Some(at)
    }

    /// The port that [`take`](Self::take) would give now.
    pub fn offer(&mut self, eip: &Eip, request: PortRequest) -> Option<Offer> {
        let block = self.block(eip.index, request.protocol)?;
        let port = self.look(block, eip, request)?;
        Some(Offer { eip: eip.index, protocol: request.protocol, block: block as u32, port })
    }

    /// Takes an offered port, if nobody else has taken it since. The configuration must still be that of the offer.
    #[must_use]
    pub fn accept(&mut self, offer: Offer) -> bool {
        let at = offer.block as usize;
        let word = self.bits.get(at * WORDS + usize::from(offer.port >> 6)).copied().unwrap_or(u64::MAX);
        let is_free = word >> (offer.port & 63) & 1 == 0;
        let whose = self.blocks.get(at).map(|block| (block.eip, block.protocol));
        let is_its_block = whose == Some((offer.eip, offer.protocol));
        if is_free && is_its_block {
            self.set(at, offer.port);
        }
        is_free && is_its_block
    }

    /// Takes a port for an endpoint-independent mapping, for which it must be free.
    pub fn take(&mut self, eip: &Eip, request: PortRequest) -> Option<u16> {
        let at = self.block(eip.index, request.protocol)?;
        let port = self.look(at, eip, request)?;
        self.set(at, port);
        Some(port)
    }

    /// Whether there is a port to take for an endpoint-independent mapping.
    pub fn has_free(&self, eip: &Eip, request: PortRequest) -> bool {
        let search = self.search(self.place_of(eip, request), eip, request);
        let [.., all] = request.passes();
        search.allows(request.inside_port) || search.find(all, 0).is_some()
    }

    /// Whether there is a port to take for an endpoint-dependent session, as for [`take_shared`](Self::take_shared).
    pub fn has_shared(
        &self,
        eip: &Eip,
        request: PortRequest,
        is_free_towards_peer: impl Fn(u16) -> bool,
    ) -> bool {
        let search = self.search(self.place_of(eip, request), eip, request);
        let PortRange { first, last } = request.range;
        std::iter::once(request.inside_port)
            .chain(first..=last)
            .any(|port| search.allows_shared(port) && is_free_towards_peer(port))
    }

    fn place_of(&self, eip: &Eip, request: PortRequest) -> usize {
        self.of.get(&block_key(eip.index, request.protocol)).map_or(UNUSED, |at| *at as usize)
    }

    fn search<'a>(&'a self, at: usize, eip: &'a Eip, request: PortRequest) -> Search<'a> {
        Search { ports: self, at, eip, request }
    }

    /// The inside port, else a random one: the first guess is mostly free.
    #[inline]
    fn look(&mut self, at: usize, eip: &Eip, request: PortRequest) -> Option<u16> {
        if self.blocks[at].exhausted == Some((request.range, self.era)) {
            return None;
        }
        if let Some(towards) = request.towards {
            let is_open = |ports: &Self, port| ports.search(at, eip, request).allows(port);
            if let Some(port) = self.look_home(at, eip, request, towards, is_open) {
                return Some(port);
            }
        }
        if self.search(at, eip, request).allows(request.inside_port) {
            return Some(request.inside_port);
        }
        let random = self.rng.next_u64();
        let search = self.search(at, eip, request);
        let guess = request.passes()[0].guess(random).filter(|port| search.allows(*port));
        guess.or_else(|| self.look_through(at, eip, request, random))
    }

    /// The first port that is free from a random place on.
    #[inline(never)]
    fn look_through(&mut self, at: usize, eip: &Eip, request: PortRequest, start: u64) -> Option<u16> {
        let search = self.search(at, eip, request);
        let port = request.passes().into_iter().find_map(|pass| search.find(pass, start));
        if port.is_none() {
            self.blocks[at].exhausted = Some((request.range, self.era));
        }
        port
    }

    /// Takes a port for an endpoint-dependent session: a free one, or one that such sessions to other peers share.
    /// `is_free_towards_peer` says whether the external endpoint is not in use towards this peer.
    pub fn take_shared(
        &mut self,
        eip: &Eip,
        request: PortRequest,
        peer: (u32, u16),
        now: Tick,
        is_free_towards_peer: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        let at = self.block(eip.index, request.protocol)?;
        let destination = Destination::new(eip.index, request.protocol, peer);
        let port = match self.crowded.ports(&destination) {
            Some(used) => {
                let start = self.rng.next_u64();
                self.search(at, eip, request).find_unused(used, start)
            }
            None => self.probe_shared(at, eip, request, &is_free_towards_peer).or_else(|| {
                let shares = self.shares.get(at * 65536..(at + 1) * 65536)?;
                let shared = (0..=u16::MAX).zip(shares).filter(|(_, shares)| **shares > 0);
                let used = shared.map(|(port, _)| port).filter(|port| !is_free_towards_peer(*port));
                if !self.crowded.remember(destination, now, used) {
                    return None;
                }
                let start = self.rng.next_u64();
                self.search(at, eip, request).find_unused(self.crowded.ports(&destination)?, start)
            }),
        }?;
        let shares = self.shares.get_mut(at * 65536 + usize::from(port))?;
        *shares += 1;
        if *shares == 1 {
            self.set(at, port);
        }
        self.crowded.note(&destination, port, true);
        Some(port)
    }

    /// The inside port, or one that a few looks at random find.
    fn probe_shared(
        &mut self,
        at: usize,
        eip: &Eip,
        request: PortRequest,
        is_free_towards_peer: &impl Fn(u16) -> bool,
    ) -> Option<u16> {
        let is_open = |ports: &Self, port| {
            ports.search(at, eip, request).allows_shared(port) && is_free_towards_peer(port)
        };
        if let Some(towards) = request.towards
            && let Some(port) = self.look_home(at, eip, request, towards, is_open)
        {
            return Some(port);
        }
        if is_open(self, request.inside_port) {
            return Some(request.inside_port);
        }
        for pass in request.passes() {
            // Of so many guesses one in as many as there are workers is in the own share.
            for _ in 0..PROBES * usize::from(self.workers) {
                let guess = pass.guess(self.rng.next_u64());
                if let Some(port) = guess.filter(|port| is_open(self, *port)) {
                    return Some(port);
                }
            }
        }
        None
    }

    /// Gives back a port that [`take`](Self::take) gave.
    pub fn give(&mut self, eip: EipIndex, protocol: u8, port: u16) {
        let Some(&at) = self.of.get(&block_key(eip, protocol)) else { return };
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
    pub fn give_shared(&mut self, eip: EipIndex, protocol: u8, port: u16, peer: (u32, u16)) {
        self.crowded.note(&Destination::new(eip, protocol, peer), port, false);
        let Some(&at) = self.of.get(&block_key(eip, protocol)) else { return };
        let Some(shares) = self.shares.get_mut(at as usize * 65536 + usize::from(port)) else { return };
        *shares = shares.saturating_sub(1);
        if *shares == 0 {
            self.give(eip, protocol, port);
        }
    }

    /// A random number, for where to begin to look.
    pub fn random(&mut self) -> u64 {
        self.rng.next_u64()
    }

    fn set(&mut self, at: usize, port: u16) {
        if let Some(word) = self.bits.get_mut(at * WORDS + usize::from(port >> 6)) {
            *word |= 1 << (port & 63);
            self.blocks[at].taken += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::base::owner::owner_of_port;
    use crate::base::{EntryId, InterfaceIndex, VpcIndex};
    use crate::policy::{PortForward, Timeouts};
    use crate::wire::protocol;

    pub(super) fn eip(forwards: &[(u16, u16)]) -> Eip {
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
        Ports::new(4, WorkerIndex(worker), workers, Distributions::default(), Rng::from_seed(1)).unwrap()
    }

    pub(super) fn request(inside_port: u16, first: u16, last: u16) -> PortRequest {
        PortRequest {
            protocol: protocol::UDP,
            inside_port,
            range: PortRange { first, last },
            is_block: false,
            towards: None,
        }
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
        let (one, other) = ((1, 80), (2, 80));
        assert_eq!(ports.take_shared(&eip, two, one, Tick(7), |_| true), Some(7000));
        assert_eq!(
            ports.take_shared(&eip, two, other, Tick(7), |_| true),
            Some(7000),
            "another peer shares it"
        );
        let but_7000 = |port| port != 7000;
        assert_eq!(
            ports.take_shared(&eip, two, one, Tick(7), but_7000),
            Some(7001),
            "the same peer does not"
        );
        assert_eq!(ports.take(&eip, two), None);
        ports.give_shared(eip.index, protocol::UDP, 7000, one);
        assert_eq!(ports.take(&eip, two), None);
        ports.give_shared(eip.index, protocol::UDP, 7000, other);
        assert_eq!(ports.take(&eip, two), Some(7000));
        assert_eq!(ports.take_shared(&eip, two, one, Tick(7), |port| port != 7001), None);
    }

    #[test]
    fn a_crowded_destination_gets_every_port_and_those_that_come_back() {
        let eip = eip(&[(2000, 2000)]);
        let mut ports = ports(0, 1);
        let (request, peer) = (request(1500, 1500, 2499), (1, 443));
        let used = std::cell::RefCell::new(BTreeSet::new());
        let take = |ports: &mut Ports| {
            let port = ports.take_shared(&eip, request, peer, Tick(1), |port| !used.borrow().contains(&port));
            port.inspect(|port| assert!(used.borrow_mut().insert(*port), "{port} twice"))
        };
        while take(&mut ports).is_some() {}
        let expected: BTreeSet<_> = (1500..=2499).filter(|port| *port != 2000).collect();
        assert_eq!(*used.borrow(), expected);
        for port in [1777, 2499] {
            ports.give_shared(eip.index, protocol::UDP, port, peer);
            used.borrow_mut().remove(&port);
            assert_eq!((take(&mut ports), take(&mut ports)), (Some(port), None));
        }
    }
}
