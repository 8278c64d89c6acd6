//! The snapshot itself: what a worker may ask of the configuration.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use crate::base::{EipIndex, EntryId, GatewayIndex, Generation, InterfaceIndex, PortIndex, VpcIndex};
use crate::policy::persist::{Generations, Map};
use crate::policy::{
    Eip, Gateway, Host, Interface, Limiter, Lpm, Mark, PortVlans, Prefix, Realm, Recent, SnatEntry, Touched,
};

/// Where a destination is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// The interface to leave by.
    pub interface: InterfaceIndex,
    /// The next hop, or none when the destination is on the link.
    pub next_hop: Option<u32>,
}

/// A VPC as the workers see it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vpc {
    /// Its address range: the only sources that may come from it.
    pub cidr: Option<Prefix>,
    /// Routes inside the VPC: its vSwitches on the link, others behind routers of its own.
    pub routes: Lpm<Route>,
}

/// Ports, interfaces and routes: what changes rarely. Each packet reads it, so it shares no cache line with the count of the
/// snapshots that have it, which changes with each of them.
#[derive(Clone, Debug, Default, PartialEq)]
#[repr(align(64))]
pub struct Topology {
    /// The interfaces of each port.
    pub ports: Vec<PortVlans>,
    /// All interfaces.
    pub interfaces: Vec<Interface>,
    /// All VPCs.
    pub vpcs: Vec<Vpc>,
    /// Routes on the Internet side.
    pub outside_routes: Lpm<Route>,
    /// Public ranges from which EIPs come: anything to them that is no EIP is nobody's.
    pub public_ranges: Lpm<InterfaceIndex>,
}

/// Addresses that follow from the topology.
#[derive(Clone, Debug, Default)]
pub(super) struct Addresses {
    /// The gateway's own, each with its realm.
    own: HashSet<(Realm, u32)>,
    /// Those of all VPCs.
    private: Lpm<()>,
}

impl Addresses {
    pub(super) fn of(topology: &Topology) -> Self {
        Self {
            own: topology.interfaces.iter().map(|i| (i.realm, i.address)).collect(),
            private: topology.vpcs.iter().filter_map(|vpc| Some((vpc.cidr?, ()))).collect(),
        }
    }
}

/// SNAT entries of one VPC by source prefix.
pub type SnatTable = Lpm<Arc<SnatEntry>>;

/// One published configuration.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub(super) generation: Generation,
    pub(super) topology: Arc<Topology>,
    pub(super) addresses: Arc<Addresses>,
    pub(super) gateways: Arc<Vec<Gateway>>,
    pub(super) eips: Map<Arc<Eip>>,
    pub(super) limiters: Map<Arc<Limiter>>,
    /// The limits that several EIPs share, by plan.
    pub(super) plans: Map<Arc<Limiter>>,
    pub(super) hosts: Map<Arc<Host>>,
    pub(super) snat: Vec<Arc<SnatTable>>,
    pub(super) snat_by_id: Vec<Arc<SnatById>>,
    pub(super) blocks: Vec<Arc<BlockEntries>>,
    pub(super) has_blocks: bool,
    /// When each class of EIPs and hosts was last changed.
    pub(super) changed: Generations,
    /// What changed lately.
    pub(super) touched: Recent<Touched>,
    pub(super) topology_changed: Generation,
    pub(super) announcements: Recent<Announcement>,
    pub(super) leaving: Map<Leaving>,
}

/// What becomes of the sessions of an entry that the configuration does not stand behind any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// They go on.
    Kept,
    /// They end, and both ends of TCP connections are told.
    Reset,
}

/// SNAT entries of one VPC by their id.
pub(super) type SnatById = HashMap<EntryId, Arc<SnatEntry>>;

/// SNAT entries of one VPC that give out ports in blocks, by the addresses of their EIPs.
pub(super) type BlockEntries = HashMap<u32, Arc<SnatEntry>>;

/// An EIP that is to be announced by gratuitous ARP (RFC 5227 §2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Where.
    pub interface: InterfaceIndex,
    /// The address.
    pub address: u32,
}

impl Snapshot {
    /// Its number.
    #[inline]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Ports, interfaces and routes.
    #[inline]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The interface that a frame on this port with this VLAN identifier (0 when untagged) belongs to.
    #[inline]
    pub fn interface_of(&self, port: PortIndex, vlan: u16) -> Option<InterfaceIndex> {
        self.topology.ports.get(port.index())?.interface(vlan)
    }

    /// An interface.
    #[inline]
    pub fn interface(&self, index: InterfaceIndex) -> Option<&Interface> {
        self.topology.interfaces.get(index.index())
    }

    /// A VPC.
    #[inline]
    pub fn vpc(&self, index: VpcIndex) -> Option<&Vpc> {
        self.topology.vpcs.get(index.index())
    }

    /// A gateway.
    pub fn gateway(&self, index: GatewayIndex) -> Option<&Gateway> {
        self.gateways.get(index.index())
    }

    /// The EIP of an address.
    #[inline]
    pub fn eip(&self, address: u32) -> Option<&Arc<Eip>> {
        self.eips.get(u64::from(address))
    }

    /// All EIPs, in no particular order.
    pub fn eips(&self) -> impl Iterator<Item = &Arc<Eip>> {
        self.eips.iter().map(|(_, eip)| eip)
    }

    /// Number of EIPs.
    pub fn eip_count(&self) -> usize {
        self.eips.len()
    }

    /// When anything last changed that a session of this EIP and this private host stands on: if it was checked since then it
    /// needs no check, unless the [topology](Self::topology_changed) changed.
    #[inline]
    pub fn changed(&self, eip: EipIndex, host: u32) -> Generation {
        self.eip_changed(eip).max(self.changed.get(Mark::of_host(host).index()))
    }

    /// When anything about an EIP last changed, or about another of its [class](Mark).
    #[inline]
    pub fn eip_changed(&self, index: EipIndex) -> Generation {
        self.changed.get(Mark::of_eip(index).index())
    }

    /// EIPs and hosts about which something changed lately.
    pub fn touched(&self) -> &Recent<Touched> {
        &self.touched
    }

    /// Whether any EIP has a bandwidth limit.
    #[inline]
    pub fn has_limiters(&self) -> bool {
        !self.limiters.is_empty()
    }

    /// The bandwidth limit of an EIP.
    #[inline]
    pub fn limiter(&self, index: EipIndex) -> Option<&Limiter> {
        self.limiters.get(u64::from(index.0)).map(|limiter| &**limiter)
    }

    /// The DNAT entries of a private host.
    #[inline]
    pub fn host(&self, vpc: VpcIndex, address: u32) -> Option<&Arc<Host>> {
        self.hosts.get(host_key(vpc, address))
    }

    /// The SNAT entry of a private source: the longest prefix wins.
    #[inline]
    pub fn snat(&self, vpc: VpcIndex, source: u32) -> Option<&Arc<SnatEntry>> {
        self.snat.get(vpc.index())?.lookup(source)
    }

    /// Whether a private source talks to a destination without translation (RFC 6888 REQ-6).
    pub fn is_exempt(&self, vpc: VpcIndex, source: u32, destination: u32) -> bool {
        self.snat(vpc, source).is_some_and(|entry| entry.untranslated.lookup(destination).is_some())
    }

    /// All SNAT entries of a VPC.
    pub fn snat_table(&self, vpc: VpcIndex) -> Option<&Arc<SnatTable>> {
        self.snat.get(vpc.index())
    }

    /// A SNAT entry of a VPC by its id.
    pub fn snat_entry(&self, vpc: VpcIndex, id: EntryId) -> Option<&Arc<SnatEntry>> {
        self.snat_by_id.get(vpc.index())?.get(&id)
    }

    /// Whether that is said of any entry.
    pub fn is_any_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// What becomes of the sessions of an entry that are not in force any more, if they do not just end.
    pub fn leaving(&self, entry: EntryId) -> Option<Leaving> {
        self.leaving.get(u64::from(entry.0)).copied()
    }

    /// When ports, interfaces or routes last changed.
    #[inline]
    pub fn topology_changed(&self) -> Generation {
        self.topology_changed
    }

    /// EIPs that are to be announced: those of the latest generations.
    pub fn announcements(&self) -> &Recent<Announcement> {
        &self.announcements
    }

    /// The route to a destination on one side.
    #[inline]
    pub fn route(&self, realm: Realm, destination: u32) -> Option<Route> {
        match realm {
            Realm::Outside => self.topology.outside_routes.lookup(destination).copied(),
            Realm::Vpc(vpc) => self.vpc(vpc)?.routes.lookup(destination).copied(),
        }
    }

    /// Whether an address lies in any VPC.
    pub fn is_private(&self, address: u32) -> bool {
        self.addresses.private.lookup(address).is_some()
    }

    /// The VPC whose host `inside` talks to `outside` without translation (RFC 6888 REQ-6).
    pub fn untranslated_vpc(&self, outside: u32, inside: u32) -> Option<VpcIndex> {
        if !self.is_private(inside) {
            return None;
        }
        let vpcs = self.topology.vpcs.iter().zip(0..);
        let of_inside = vpcs.filter(|(vpc, _)| vpc.cidr.is_some_and(|cidr| cidr.contains(inside)));
        of_inside.map(|(_, index)| VpcIndex(index)).find(|vpc| self.is_exempt(*vpc, inside, outside))
    }

    /// Whether the gateway itself has this address on this side.
    pub fn is_own_address(&self, realm: Realm, address: u32) -> bool {
        self.addresses.own.contains(&(realm, address))
    }
}

/// The key of a private host in the map of hosts.
pub(super) fn host_key(vpc: VpcIndex, address: u32) -> u64 {
    u64::from(vpc.0) << 32 | u64::from(address)
}
