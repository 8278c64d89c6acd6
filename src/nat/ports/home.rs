//! Ports that come home: where a NIC distributes what it receives by a hash that is known, an external port decides at which
//! worker's queue the first peer's answers arrive. One of the same range and parity that brings them to the worker's own is
//! preferred, and saves handing them over.

use std::sync::Arc;

use super::{PortRequest, Ports};
use crate::base::PortIndex;
use crate::base::rss::Rss;
use crate::policy::Eip;

/// Random ports that are tried for each worker before answers come to whatever queue they will. One in as many as there are
/// workers brings them home.
const TRIES: usize = 32;

/// How each port distributes what it receives, where that is known and not by the owners, by the port's index.
pub type Distributions = Arc<[Option<Arc<Rss>>]>;

/// What is known of the queue that the answers to a new mapping come to, but for its port.
#[derive(Clone, Copy, Debug)]
pub struct Towards {
    /// The NIC's port that they arrive at.
    port: PortIndex,
    /// What their hash is without the external port's part.
    hash: u32,
}

impl Ports {
    /// What is known of the queue that answers of a peer to an external address come to at a port.
    #[inline]
    pub fn towards(&self, port: PortIndex, peer: (u32, u16), external: u32) -> Option<Towards> {
        let rss = self.distributions.get(port.index())?.as_ref()?;
        Some(Towards { port, hash: rss.towards(peer, external) })
    }

    /// Whether any distribution is known.
    #[inline]
    pub fn knows_distributions(&self) -> bool {
        !self.distributions.is_empty()
    }

    /// Whether answers to an external port come to the worker's own queue.
    fn comes_home(&self, towards: Towards, port: u16) -> bool {
        let rss = self.distributions.get(towards.port.index()).and_then(Option::as_ref);
        rss.is_some_and(|rss| rss.queue_at(towards.hash, port) == self.worker.0)
    }

    /// A port by which answers come to the worker's own queue: the inside port if it is one, else a random one of the same range
    /// and parity. There may be none, or chance may not find it.
    #[inline(never)]
    pub(super) fn look_home(
        &mut self,
        at: usize,
        eip: &Eip,
        request: PortRequest,
        towards: Towards,
        is_open: impl Fn(&Self, u16) -> bool,
    ) -> Option<u16> {
        let is_good = |ports: &Self, port| ports.comes_home(towards, port) && is_open(ports, port);
        if is_good(self, request.inside_port) {
            return Some(request.inside_port);
        }
        let [pass, ..] = request.passes();
        let workers = usize::from(self.workers);
        // Where there are few ports, four times as many tries hardly leave one out.
        let own = if request.is_block { pass.len() } else { pass.len().div_ceil(workers) };
        (0..(4 * own).min(TRIES * workers)).find_map(|_| {
            let random = self.rng.next_u64();
            self.search(at, eip, request).guess(pass, random).filter(|port| is_good(self, *port))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::tests::{eip, request};
    use super::*;
    use crate::base::owner::owner_of_port;
    use crate::base::rss::IndirectionTable;
    use crate::base::toeplitz::MICROSOFT_KEY;
    use crate::base::{Rng, Tick, WorkerIndex};

    /// The ports of one of four workers behind a NIC that distributes flows under a key.
    fn ports_behind_a_nic(worker: u16) -> (Ports, Arc<Rss>) {
        let table = IndirectionTable::round_robin(128, 4);
        let rss = Arc::new(Rss::new(&MICROSOFT_KEY, table));
        let known: Distributions = Arc::new([Some(Arc::clone(&rss))]);
        (Ports::new(4, WorkerIndex(worker), 4, known, Rng::from_seed(1)).unwrap(), rss)
    }

    #[test]
    fn ports_by_which_answers_come_home_go_before_the_others() {
        const PEER: (u32, u16) = (0x0808_0808, 53);
        let eip = eip(&[(1030, 1040), (2000, 2000)]);
        let mut given = BTreeSet::new();
        for worker in 0..4 {
            let (mut ports, rss) = ports_behind_a_nic(worker);
            let towards = ports.towards(PortIndex(0), PEER, eip.address);
            assert!(towards.is_some() && ports.towards(PortIndex(1), PEER, eip.address).is_none());
            let request = PortRequest { towards, ..request(40_001, 1000, 5000) };
            let mut all = Vec::new();
            while let Some(port) = ports.take(&eip, request) {
                assert!(given.insert(port), "{port} twice");
                assert_eq!(owner_of_port(port, 4), worker);
                all.push(port);
            }
            // Range and parity come first, and of those most that come home before any other.
            let is_home = |port: &u16| rss.queue(PEER, (eip.address, *port)) == worker;
            let odd = all.iter().take_while(|port| **port >= 1024 && **port % 2 == 1).count();
            assert!(odd >= 480, "{odd} ports of the range and the parity");
            let home = all.iter().take_while(|port| is_home(port)).count();
            assert!(home >= odd / 8, "{home} of {odd} come home one after another");
        }
        let expected = (1000..=5000).filter(|port| !(1030..=1040).contains(port) && *port != 2000);
        assert_eq!(given, expected.collect(), "every allowed port was given once");
    }

    #[test]
    fn shared_ports_come_home_too() {
        let eip = eip(&[]);
        let (mut ports, rss) = ports_behind_a_nic(2);
        for n in 0..200 {
            let peer = (0x0808_0800 + n, 53);
            let towards = ports.towards(PortIndex(0), peer, eip.address);
            let request = PortRequest { towards, ..request(40_001, 1, 65535) };
            let port = ports.take_shared(&eip, request, peer, Tick(7), |_| true).unwrap();
            assert_eq!((rss.queue(peer, (eip.address, port)), owner_of_port(port, 4)), (2, 2));
            assert_eq!(port % 2, 1);
        }
    }
}
