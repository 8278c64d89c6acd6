//! Making the next snapshot from the one before.

use std::sync::Arc;

use crate::base::{EipIndex, Generation, VpcIndex};
use crate::policy::snapshot::{Addresses, Announcement, SnatTable, host_key};
use crate::policy::{Eip, Gateway, Host, Limiter, Snapshot, Topology};

/// The next snapshot while it is being made. What is not changed is shared with the one before; what is changed is noted
/// under the new generation, so that sessions are checked again only where something happened.
#[derive(Debug)]
pub struct Edit {
    next: Snapshot,
    announce: Vec<Announcement>,
}

/// Announcements that a snapshot remembers: more than one batch of a worker can miss.
const ANNOUNCEMENTS: usize = 4096;

impl Snapshot {
    /// Starts the next snapshot.
    pub fn edit(&self) -> Edit {
        let mut next = self.clone();
        next.generation = Generation(self.generation.0 + 1);
        Edit { next, announce: Vec::new() }
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
            let generation = self.next.generation;
            self.announce.push(Announcement { generation, interface: eip.interface, address: eip.address });
        }
        self.touch(eip.index);
        self.limit(eip.index, eip.bandwidth);
        self.next.eips.insert(u64::from(eip.address), Arc::new(eip));
    }

    /// Sets the bandwidth limit of an EIP. One that stays the same goes on with what is used of it.
    fn limit(&mut self, index: EipIndex, bandwidth: Option<u64>) {
        let key = u64::from(index.0);
        if self.next.limiter(index).map(Limiter::bits_per_second) == bandwidth {
            return;
        }
        match bandwidth {
            Some(rate) => self.next.limiters.insert(key, Arc::new(Limiter::new(rate))),
            None => self.next.limiters.remove(key),
        };
    }

    /// Removes an EIP.
    pub fn remove_eip(&mut self, address: u32) {
        if let Some(eip) = self.next.eips.remove(u64::from(address)) {
            self.touch(eip.index);
            self.limit(eip.index, None);
        }
    }

    /// Notes that sessions of an EIP must be checked again.
    pub fn touch(&mut self, index: EipIndex) {
        self.next.eip_changed.set(index.index(), self.next.generation);
    }

    /// Sets the DNAT entries of a private host, or takes them away; the EIPs concerned are put separately. Where an
    /// entry is new, SNAT sessions of the host must be checked again: a static entry beats them.
    pub fn put_host(&mut self, vpc: VpcIndex, address: u32, host: Option<Host>) {
        let key = host_key(vpc, address);
        match host {
            Some(host) if self.next.hosts.get(key).is_some_and(|old| **old == host) => {}
            Some(host) => {
                let old = self.next.hosts.get(key);
                if old.is_none_or(|old| host.answers_more_than(old))
                    && let Some(entry) = self.next.snat(vpc, address).cloned()
                {
                    entry.pool.iter().for_each(|member| self.touch(member.index));
                }
                self.next.hosts.insert(key, Arc::new(host));
            }
            None => {
                self.next.hosts.remove(key);
            }
        }
    }

    /// Replaces the SNAT entries of a VPC. The caller touches the EIPs of entries that changed.
    pub fn set_snat(&mut self, vpc: VpcIndex, table: SnatTable) {
        if self.next.snat.len() <= vpc.index() {
            self.next.snat.resize_with(vpc.index() + 1, Arc::default);
        }
        if self.next.snat_by_id.len() <= vpc.index() {
            self.next.snat_by_id.resize_with(vpc.index() + 1, Arc::default);
        }
        let by_id = table.iter().map(|(_, entry)| (entry.id, Arc::clone(entry))).collect();
        self.next.snat_by_id[vpc.index()] = Arc::new(by_id);
        self.next.snat[vpc.index()] = Arc::new(table);
    }

    /// The finished snapshot.
    pub fn finish(mut self) -> Arc<Snapshot> {
        if !self.announce.is_empty() {
            let all = self.next.announcements.iter().chain(&self.announce).copied();
            let skip = (self.next.announcements.len() + self.announce.len()).saturating_sub(ANNOUNCEMENTS);
            self.next.announcements = all.skip(skip).collect();
        }
        Arc::new(self.next)
    }
}
