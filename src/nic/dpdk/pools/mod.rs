//! Where packet buffers lie: in a pool of DPDK's for each NUMA node that a port sits on, so that a NIC writes what it receives
//! to memory near it. A frame leaves by a port of any node, and its buffer goes back to the pool that it came from.

mod sys;

use std::ffi::{CString, c_int};
use std::io;
use std::sync::Arc;

use super::eal::{Eal, explained};
use crate::base::hugepage::Pages;
pub(super) use sys::{Mempool, Pools, pool_over};

/// Memory of whichever node has some.
const ANY: c_int = -1;

/// A pool that there is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    /// The NUMA node whose ports receive into it; negative if none of them says on which it sits.
    pub(super) node: c_int,
    /// Its buffers.
    pub(super) buffers: u32,
}

/// Which pools there are to be for ports on these NUMA nodes, of so many buffers in all: one for each node, with as many buffers
/// as its ports' share of all ports is. A port that does not say its node is counted with the first that does.
pub(super) fn shares(nodes: &[Option<c_int>], buffers: u32) -> Vec<Share> {
    let known = nodes.iter().flatten().copied().filter(|&node| node >= 0);
    let first = known.clone().next().unwrap_or(ANY);
    let mut others: Vec<c_int> = known.clone().filter(|&node| node != first).collect();
    others.sort_unstable();
    others.dedup();
    let share_of = |node| {
        let ports = known.clone().filter(|&of_port| of_port == node).count();
        let buffers = (u64::from(buffers) * ports as u64 / nodes.len() as u64) as u32;
        Share { node, buffers }
    };
    let others: Vec<Share> = others.into_iter().map(share_of).filter(|share| share.buffers > 0).collect();
    // The first has the rest.
    let rest = buffers - others.iter().map(|share| share.buffers).sum::<u32>();
    [Share { node: first, buffers: rest }].into_iter().chain(others).collect()
}

impl Pools {
    /// Makes these pools of buffers of `size` bytes. Where a node has no memory for its pool, that lies on any; this is logged.
    ///
    /// # Errors
    /// There is no memory for one of them, with what DPDK said.
    pub(super) fn make(eal: &Arc<Eal>, shares: &[Share], size: u16) -> io::Result<Arc<Self>> {
        let make = |shares: &[Share]| {
            let owned = shares.iter().map(|share| make_one(eal, *share, size, shares.len() == 1));
            Self::of(owned.collect::<io::Result<_>>()?, eal).map(Arc::new)
        };
        make(shares).or_else(|error| {
            let ([first, _, ..], true) = (shares, error.kind() == io::ErrorKind::OutOfMemory) else {
                return Err(error);
            };
            log::warn!(
                "packet buffers cannot lie near each NIC, so all are in one pool, which costs speed: {error}"
            );
            make(&[Share { node: first.node, buffers: shares.iter().map(|share| share.buffers).sum() }])
        })
    }
}

fn make_one(eal: &Eal, share: Share, size: u16, is_only: bool) -> io::Result<sys::Owned> {
    let Share { node, buffers } = share;
    let name = if is_only { "natgate".to_owned() } else { format!("natgate-node{node}") };
    let name = CString::new(name)?;
    // Ordinary pages are of no node that DPDK knows.
    if node < 0 || eal.pages == Pages::Small {
        return sys::Owned::new(&name, buffers, size, node, ANY);
    }
    sys::Owned::new(&name, buffers, size, node, node).or_else(|error| {
        log::warn!(
            "NUMA node {node} has no memory for {buffers} packet buffers of its NICs ({}), so they lie on another node, which \
             costs speed: `dpdk-env/setup hugepages --node {node} --mib N` sets huge pages there",
            explained(&error)
        );
        sys::Owned::new(&name, buffers, size, node, ANY)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::base::{Checksum, PortIndex};
    use crate::nic::af_packet::Steering;
    use crate::nic::dpdk::device::DeviceName;
    use crate::nic::dpdk::queue::Device;
    use crate::nic::dpdk::sys::{self, Lane};
    use crate::nic::dpdk::tests::started;
    use crate::nic::dpdk::{Dpdk, PortOptions, take};
    use crate::nic::{BURST, Burst};

    fn of(nodes: &[Option<c_int>], buffers: u32) -> Vec<(c_int, u32)> {
        shares(nodes, buffers).iter().map(|share| (share.node, share.buffers)).collect()
    }

    #[test]
    fn there_is_a_pool_for_each_node_that_a_port_sits_on() {
        assert_eq!(of(&[Some(0), Some(1)], 8192), [(0, 4096), (1, 4096)]);
        // By the number of ports, and none is left over.
        assert_eq!(of(&[Some(1), Some(0), Some(1)], 8192), [(1, 5462), (0, 2730)]);
        assert_eq!(of(&[Some(3), Some(2), Some(1), Some(2)], 100), [(3, 25), (1, 25), (2, 50)]);
    }

    #[test]
    fn there_is_one_pool_where_there_is_one_node() {
        assert_eq!(of(&[Some(0), Some(0)], 4096), [(0, 4096)]);
        assert_eq!(of(&[Some(1)], 4096), [(1, 4096)]);
        // Virtual devices sit on none, and are counted with the first that does.
        assert_eq!(of(&[None, None], 4096), [(-1, 4096)]);
        assert_eq!(of(&[None, Some(1), None], 4096), [(1, 4096)]);
        assert_eq!(of(&[None, Some(1), Some(0), None], 4096), [(1, 3072), (0, 1024)]);
        assert_eq!(of(&[Some(-1), Some(1)], 4096), [(1, 4096)]);
        assert_eq!(of(&[], 4096), [(-1, 4096)]);
    }

    #[test]
    fn no_pool_is_empty() {
        assert_eq!(of(&[Some(0), Some(1)], 1), [(0, 1)]);
    }

    /// Two pools of two nodes by name only, as a test machine has one node.
    #[test]
    fn buffers_of_several_pools_go_anywhere_and_come_back_to_their_own() {
        const EACH: usize = 1024;
        let eal = started();
        let shares = [0, 1].map(|node| Share { node, buffers: EACH as u32 });
        let dpdk = Dpdk::on(&eal, &shares, 4, 2048).unwrap();
        let free = || dpdk.pools.free().collect::<Vec<_>>();
        let near = |node| dpdk.pools.near(node);
        assert!(near(0) != near(1) && near(-1) == near(0) && near(7) == near(0));
        assert_eq!((free(), dpdk.pool().slots()), (vec![EACH; 2], 2 * EACH));

        // A port on the second node receives into the second pool.
        let device = DeviceName::parse("net_null20,size=64").unwrap();
        let port = take(&device).unwrap();
        let mut facts = sys::facts(port).unwrap();
        facts.node = 1;
        sys::start_port(port, &dpdk.pools, 1, 64, 0, &[], &mut facts).unwrap();
        assert!(!facts.fast_free, "the first pool would get all that it sends");
        let device = Device::new(port, 1, &dpdk.pools, &Arc::default());
        let mut lane = Lane::new(port, 0, &dpdk.pools, dpdk.pool());
        let mut cache = dpdk.pool().cache();
        let (mut burst, mut refused) = (Burst::new(), 0);
        assert_eq!(lane.receive(PortIndex(0), Checksum::Unverified, &mut burst, &mut refused), BURST);
        assert_eq!(free(), [EACH, EACH - BURST]);

        // Frames of both pass through one ring, and are what they were.
        let options = PortOptions { steering: Steering::FlowHash, ..PortOptions::default() };
        let mut ring = dpdk.open("net_ring20", PortIndex(1), 1, options).unwrap();
        let ring = &mut ring.queues[0];
        burst.drain(BURST / 2..).for_each(|frame| cache.give(frame));
        let mut own = dpdk.pool().cache();
        let mut first = Vec::new();
        while burst.len() < BURST {
            let mut frame = own.take().unwrap();
            assert!(frame.fill(&[burst.len() as u8; 60]));
            first.push(frame.slot());
            burst.push(frame);
        }
        assert_eq!(ring.transmit(&mut cache, &mut burst), BURST);
        assert_eq!(ring.receive(&mut cache, &mut burst), BURST);
        for (frame, slot) in burst[BURST / 2..].iter().zip(first) {
            assert_eq!((frame.slot(), frame.len()), (slot, 60));
        }
        assert_eq!(burst[BURST - 1].bytes(), [(BURST - 1) as u8; 60]);
        burst.drain(..).for_each(|frame| cache.give(frame));

        // When the first has none left, the second serves.
        let all: Vec<_> = std::iter::from_fn(|| cache.take()).collect();
        assert_eq!((all.len(), free()), (2 * EACH, vec![0, 0]));
        for frame in all {
            cache.give(frame);
        }
        drop(device);
        drop((cache, own));
        assert_eq!((free(), refused), (vec![EACH; 2], 0));
    }
}
