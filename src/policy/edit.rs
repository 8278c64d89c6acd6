//! Making the next snapshot from the one before.

use std::sync::Arc;

use hashbrown::HashSet;

use crate::base::{EipIndex, EntryId, Generation, PlanIndex, VpcIndex};
use crate::policy::snapshot::{Addresses, Announcement, SnatTable, host_key};
use crate::policy::{
    Allocation, Eip, Gateway, Host, Leaving, Limiter, Lpm, Mark, Prefix, Snapshot, SnatEntry, Topology,
    Touched,
};

/// The next snapshot while it is being made. What is not changed is shared with the one before; what is changed is noted
/// under the new generation, so that sessions are checked again only where something happened.
#[derive(Debug)]
pub struct Edit {
    next: Snapshot,
    announce: Vec<Announcement>,
    touched: Vec<Touched>,
    /// The EIPs among them.
    eips: HashSet<u32>,
}

/// Announcements that a snapshot remembers: more than one batch of a worker can miss.
const ANNOUNCEMENTS: usize = 4096;
/// What they touched that it remembers: that of some publications. A worker that missed more looks at all sessions.
const TOUCHED: usize = 1024;

impl Snapshot {
    /// Starts the next snapshot.
    pub fn edit(&self) -> Edit {
        let mut next = self.clone();
        next.generation = Generation(self.generation.0 + 1);
        Edit { next, announce: Vec::new(), touched: Vec::new(), eips: HashSet::new() }
    }
}

impl Edit {
    /// The generation that the next snapshot will have.
    pub fn generation(&self) -> Generation {
        self.next.generation
    }

    /// The snapshot as it stands.
    pub fn snapshot(&self) -> &Snapshot {
        &self.next
    }

    /// Replaces ports, interfaces and routes; no change if they are the same.
    pub fn set_topology(&mut self, topology: Topology) {
        if *self.next.topology == topology {
            return;
        }
        self.next.topology_changed = self.next.generation;
        self.next.snat.resize_with(topology.vpcs.len(), Arc::default);
        self.next.addresses = Arc::new(Addresses::of(&topology));
        self.next.topology = Arc::new(topology);
    }

    /// Replaces the gateways. A gateway that goes on keeps its meter.
    pub fn set_gateways(&mut self, gateways: Vec<Gateway>) {
        self.next.gateways = Arc::new(gateways);
    }

    /// Adds an EIP or replaces it; no change if it is the same.
    pub fn put_eip(&mut self, eip: Eip) {
        let old = self.next.eip(eip.address);
        if old.is_some_and(|old| **old == eip) {
            return;
        }
        if old.is_none_or(|old| old.interface != eip.interface) {
            self.announce.push(Announcement { interface: eip.interface, address: eip.address });
        }
        let limit = |eip: &Eip| (eip.bandwidth, eip.plan);
        if old.map_or((None, None), |old| limit(old)) != limit(&eip) {
            self.limit(&eip);
        }
        self.touch(eip.index);
        self.next.eips.insert(u64::from(eip.address), Arc::new(eip));
    }

    /// Sets the bandwidth limit of an EIP, of its own or its plan's.
    fn limit(&mut self, eip: &Eip) {
        let key = u64::from(eip.index.0);
        let limiter = match (eip.bandwidth, eip.plan) {
            (None, _) => None,
            (Some(rate), None) => Some(Arc::new(Limiter::new(rate))),
            (Some(rate), Some(plan)) => Some(self.shared(plan, rate)),
        };
        match limiter {
            Some(limiter) => self.next.limiters.insert(key, limiter),
            None => self.next.limiters.remove(key),
        };
    }

    /// The limit of a plan. While its rate stays the same it goes on with what is used of it, whoever joins or leaves.
    fn shared(&mut self, plan: PlanIndex, rate: u64) -> Arc<Limiter> {
        let key = u64::from(plan.0);
        match self.next.plans.get(key) {
            Some(known) if known.bits_per_second() == rate => Arc::clone(known),
            _ => {
                let limiter = Arc::new(Limiter::new(rate));
                self.next.plans.insert(key, Arc::clone(&limiter));
                limiter
            }
        }
    }

    /// Removes an EIP.
    pub fn remove_eip(&mut self, address: u32) {
        if let Some(eip) = self.next.eips.remove(u64::from(address)) {
            self.touch(eip.index);
            self.next.limiters.remove(u64::from(eip.index.0));
        }
    }

    /// Notes that sessions of an EIP must be checked again.
    pub fn touch(&mut self, index: EipIndex) {
        self.next.changed.set(Mark::of_eip(index).index(), self.next.generation);
        if self.eips.insert(index.0) {
            self.touched.push(Touched::Eip(index));
        }
    }

    fn touch_host(&mut self, vpc: VpcIndex, address: u32) {
        self.next.changed.set(Mark::of_host(address).index(), self.next.generation);
        self.touched.push(Touched::Host(vpc, address));
    }

    /// Says what becomes of the sessions of an entry that are not in force any more; nothing said, they end. The caller touches the
    /// EIPs of those that were kept before.
    pub fn set_leaving(&mut self, entry: EntryId, leaving: Option<Leaving>) {
        let key = u64::from(entry.0);
        match leaving {
            Some(leaving) => self.next.leaving.insert(key, leaving),
            None => self.next.leaving.remove(key),
        };
    }

    /// Sets the DNAT entries of a private host, or takes them away; the EIPs concerned are put separately. Where an
    /// entry is new, SNAT sessions of the host must be checked again: a static entry beats them.
    pub fn put_host(&mut self, vpc: VpcIndex, address: u32, host: Option<Host>) {
        let key = host_key(vpc, address);
        match host {
            Some(host) if self.next.hosts.get(key).is_some_and(|old| **old == host) => {}
            Some(host) => {
                if self.next.hosts.get(key).is_none_or(|old| host.answers_more_than(old)) {
                    self.touch_host(vpc, address);
                }
                self.next.hosts.insert(key, Arc::new(host));
            }
            None => {
                self.next.hosts.remove(key);
            }
        }
    }

    /// Replaces the SNAT entries of a VPC; no change if they are the same. Where entries differ, sessions that may now belong
    /// elsewhere must be checked again.
    pub fn set_snat(&mut self, vpc: VpcIndex, table: SnatTable) {
        let old = self.next.snat.get(vpc.index()).cloned().unwrap_or_default();
        if *old == table {
            return;
        }
        self.touch_snat(vpc, &old, &table);
        if self.next.snat.len() <= vpc.index() {
            self.next.snat.resize_with(vpc.index() + 1, Arc::default);
        }
        if self.next.snat_by_id.len() <= vpc.index() {
            self.next.snat_by_id.resize_with(vpc.index() + 1, Arc::default);
        }
        if self.next.blocks.len() <= vpc.index() {
            self.next.blocks.resize_with(vpc.index() + 1, Arc::default);
        }
        let in_blocks = table.iter().filter(|(_, entry)| entry.allocation != Allocation::Ports);
        let blocks = in_blocks
            .flat_map(|(_, entry)| entry.pool.iter().map(|member| (member.address, Arc::clone(entry))))
            .collect();
        self.next.blocks[vpc.index()] = Arc::new(blocks);
        self.next.has_blocks = self.next.blocks.iter().any(|entries| !entries.is_empty());
        let by_id = table.iter().map(|(_, entry)| (entry.id, Arc::clone(entry))).collect();
        self.next.snat_by_id[vpc.index()] = Arc::new(by_id);
        self.next.snat[vpc.index()] = Arc::new(table);
    }

    /// Notes what the step from one table of a VPC to the next concerns: the pools of an entry that came, changed or went, and of
    /// the entry that its sources had before; and where their exemptions changed, all EIPs of the VPC, for sessions that were kept
    /// when their entry went give way to an exemption, too.
    fn touch_snat(&mut self, vpc: VpcIndex, old: &SnatTable, new: &SnatTable) {
        let mut are_exemptions_others = false;
        let prefixes = old.iter().map(|(prefix, _)| prefix);
        let added = new.iter().map(|(prefix, _)| prefix).filter(|prefix| old.exact(*prefix).is_none());
        for prefix in prefixes.chain(added) {
            let (before, after) = (old.exact(prefix), new.exact(prefix));
            if before == after {
                continue;
            }
            let (had, has) =
                (before.or_else(|| covering(old, prefix)), after.or_else(|| covering(new, prefix)));
            are_exemptions_others |= exemptions(had) != exemptions(has);
            for member in had.into_iter().chain(after).flat_map(|entry| entry.pool.iter()) {
                self.touch(member.index);
            }
        }
        if are_exemptions_others {
            let of_vpc = |eip: &&Arc<Eip>| {
                eip.gateway.and_then(|gateway| self.next.gateway(gateway)).is_some_and(|g| g.vpc == vpc)
            };
            let eips: Vec<EipIndex> = self.next.eips().filter(of_vpc).map(|eip| eip.index).collect();
            for eip in eips {
                self.touch(eip);
            }
        }
    }

    /// The finished snapshot.
    pub fn finish(self) -> Arc<Snapshot> {
        let Self { mut next, announce, touched, .. } = self;
        next.announcements.extend(next.generation, &announce, ANNOUNCEMENTS);
        next.touched.extend(next.generation, &touched, TOUCHED);
        Arc::new(next)
    }
}

/// The entry of the sources of a prefix as far as none is for just these.
fn covering(table: &SnatTable, prefix: Prefix) -> Option<&Arc<SnatEntry>> {
    (0..prefix.len()).rev().find_map(|len| table.exact(Prefix::of(prefix.address(), len)))
}

/// Destinations that the sources of an entry, if there is one, talk to untranslated.
fn exemptions(entry: Option<&Arc<SnatEntry>>) -> Option<&Lpm<()>> {
    entry.map(|entry| &entry.untranslated).filter(|exemptions| !exemptions.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{GatewayIndex, InterfaceIndex};
    use crate::policy::{Filtering, HostForward, Limits, Mapping, PoolAddress, PortRange, Timeouts};

    const HOST: u32 = 0x0a00_0105;

    fn host(ports: &[u16]) -> Host {
        let forward = |port: &u16| HostForward {
            id: EntryId(1),
            protocol: 6,
            first: *port,
            last: *port,
            eip: EipIndex(9),
            address: 0xcb00_7109,
            public_first: *port,
            timeouts: Timeouts::RFC,
        };
        Host::new(None, ports.iter().map(forward).collect())
    }

    #[test]
    fn an_entry_that_a_host_gains_concerns_its_sessions_and_one_that_it_loses_nobodys() {
        let mut snapshot = Arc::new(Snapshot::default());
        let mut put = |ports: &[u16]| {
            let mut edit = snapshot.edit();
            edit.put_host(VpcIndex(0), HOST, Some(host(ports)));
            snapshot = edit.finish();
            let changed = |host| snapshot.changed(EipIndex(0), host).0;
            let touched = snapshot.touched().since(Generation(snapshot.generation().0 - 1)).len();
            (changed(HOST), changed(HOST + 1), touched)
        };
        assert_eq!(put(&[80]), (1, 0, 1));
        assert_eq!(put(&[80, 443]), (2, 0, 1));
        assert_eq!(put(&[443]), (2, 0, 0));
        assert_eq!(put(&[443]), (2, 0, 0));
        assert_eq!(put(&[443, 25]), (5, 0, 1));
    }

    #[test]
    fn eips_of_one_class_are_told_each_for_itself_and_once() {
        let mut edit = Snapshot::default().edit();
        let eips = [1, 1 + 8192, 1].map(EipIndex);
        assert_eq!(Mark::of_eip(eips[0]), Mark::of_eip(eips[1]));
        for eip in eips {
            edit.touch(eip);
        }
        let told: Vec<_> =
            edit.finish().touched().since(Generation(0)).iter().map(|(_, what)| *what).collect();
        assert_eq!(told, [Touched::Eip(eips[0]), Touched::Eip(eips[1])]);
    }

    /// An entry with one EIP in its pool, and destinations that its sources talk to untranslated.
    fn snat(eip: u32, untranslated: &[Prefix]) -> Arc<SnatEntry> {
        Arc::new(SnatEntry {
            id: EntryId(eip),
            gateway: GatewayIndex(0),
            pool: [PoolAddress { index: EipIndex(eip), address: eip }].into(),
            mapping: Mapping::default(),
            filtering: Filtering::default(),
            ports: PortRange { first: 1024, last: 65535 },
            allocation: Allocation::Ports,
            untranslated: untranslated.iter().map(|prefix| (*prefix, ())).collect(),
            timeouts: Timeouts::RFC,
            ftp: false,
            host_quota: u32::MAX,
        })
    }

    #[test]
    fn entries_that_differ_touch_their_pools_and_exemptions_all_eips_of_the_vpc() {
        let mut edit = Snapshot::default().edit();
        let gateway = |vpc| Gateway { vpc: VpcIndex(vpc), limits: Limits::UNLIMITED, meter: Arc::default() };
        edit.set_gateways(vec![gateway(0), gateway(1)]);
        for index in 1..=9 {
            let mut eip = Eip::new(EipIndex(index), index, InterfaceIndex(0));
            eip.gateway = Some(GatewayIndex(u32::from(index == 9)));
            edit.put_eip(eip);
        }
        let mut snapshot = edit.finish();
        let (wide, narrow) = (Prefix::of(0x0a00_0000, 8), Prefix::of(0x0a01_0000, 16));
        let exempt = [Prefix::of(0xc0a8_0000, 16)];
        let mut step = |table: &[(Prefix, Arc<SnatEntry>)]| {
            let mut edit = snapshot.edit();
            edit.set_snat(VpcIndex(0), table.iter().cloned().collect());
            snapshot = edit.finish();
            let is_touched = |eip: &u32| snapshot.eip_changed(EipIndex(*eip)) == snapshot.generation();
            (1..=9).filter(is_touched).collect::<Vec<u32>>()
        };
        assert_eq!(step(&[(wide, snat(1, &[]))]), [1]);
        assert_eq!(step(&[(wide, snat(1, &[]))]), [0u32; 0]);
        // One that comes takes sources from the entry around it; one that goes gives them back.
        assert_eq!(step(&[(wide, snat(1, &[])), (narrow, snat(2, &[]))]), [1, 2]);
        assert_eq!(step(&[(wide, snat(1, &[])), (narrow, snat(3, &[]))]), [2, 3]);
        assert_eq!(step(&[(wide, snat(1, &[]))]), [3]);
        // Sessions that were kept may be on any EIP of the VPC, but on none of another one.
        let all = [1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(step(&[(wide, snat(1, &exempt))]), all);
        assert_eq!(step(&[(wide, snat(1, &exempt)), (narrow, snat(2, &exempt))]), [1, 2]);
        assert_eq!(step(&[(wide, snat(1, &exempt)), (narrow, snat(2, &[]))]), all);
        assert_eq!(step(&[(wide, snat(1, &exempt))]), all);
        assert_eq!(step(&[]), all);
    }
}
