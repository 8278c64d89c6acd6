//! EIPs and entries.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use super::Compiler;
use super::host::host_of;
use crate::base::{EipIndex, PlanIndex, VpcIndex};
use crate::config::model::{Forward, Model, Vpc};
use crate::config::words::Name;
use crate::policy::snapshot::SnatTable;
use crate::policy::{
    Edit, Eip, HostForward, HostOneToOne, OneToOne, PoolAddress, PortForward, Snapshot, SnatEntry,
};

impl Compiler {
    /// EIPs with their DNAT entries, and private hosts with theirs.
    pub(super) fn dnat(&self, model: &Model, previous: &Snapshot, edit: &mut Edit) {
        let vpcs = gateway_vpcs(model, |vpc| self.vpc_index(&vpc.name));
        let mut any_port: HashMap<u32, OneToOne> = HashMap::new();
        let mut forwards: HashMap<u32, Vec<PortForward>> = HashMap::new();
        let mut hosts: HashMap<(VpcIndex, u32), (Vec<HostOneToOne>, Vec<HostForward>)> = HashMap::new();
        for entry in model.dnat() {
            let Some(vpc) = vpcs.get(&entry.gateway).copied() else { continue };
            let (id, timeouts) = (self.entry_id(self.dnat_key(entry)), entry.timeouts.over(model.timeouts()));
            let (address, host) = (u32::from(entry.eip), u32::from(entry.private_ip));
            let eip = EipIndex(self.eips.get(&address));
            let (of_host, by_port) = hosts.entry((vpc, host)).or_default();
            match entry.forward {
                Forward::AnyPort => {
                    any_port.insert(address, OneToOne { id, vpc, host, timeouts });
                    of_host.push(HostOneToOne { id, eip, address, timeouts });
                }
                Forward::Ports { protocol, public, private_first } => {
                    let (first, last, protocol) = (public.first, public.last, protocol.number());
                    forwards.entry(address).or_default().push(PortForward {
                        id,
                        protocol,
                        first,
                        last,
                        vpc,
                        host,
                        host_first: private_first,
                        timeouts,
                    });
                    by_port.push(HostForward {
                        id,
                        protocol,
                        first: private_first,
                        last: private_first + (last - first),
                        eip,
                        address,
                        public_first: first,
                        timeouts,
                    });
                }
            }
        }
        for old in previous.eips() {
            let of_any = old.any_port.iter().map(|entry| (entry.vpc, entry.host));
            for (vpc, host) in of_any.chain(old.forwards().iter().map(|entry| (entry.vpc, entry.host))) {
                if !hosts.contains_key(&(vpc, host)) {
                    edit.put_host(vpc, host, None);
                }
            }
        }
        for ((vpc, host), (any_port, by_port)) in hosts {
            edit.put_host(vpc, host, Some(host_of(any_port, by_port)));
        }
        let rates: HashMap<&Name, u64> =
            model.plans().iter().map(|plan| (&plan.name, plan.bandwidth)).collect();
        let mut kept: HashSet<u32> = HashSet::with_capacity(model.eips().len());
        for eip in model.eips() {
            let address = u32::from(eip.address);
            kept.insert(address);
            let outside = &model.outside()[eip.outside];
            let index = EipIndex(self.eips.get(&address));
            let mut compiled = Eip::new(index, address, self.interface_index(&outside.link));
            compiled.gateway = eip.gateway.as_ref().map(|gateway| self.gateway_index(gateway));
            compiled.ping = eip.ping;
            compiled.bandwidth = eip.bandwidth;
            if let Some(plan) = &eip.plan {
                compiled.plan = Some(PlanIndex(self.plans.get(plan)));
                compiled.bandwidth = rates.get(plan).copied();
            }
            compiled.any_port = any_port.remove(&address);
            compiled.set_forwards(forwards.remove(&address).unwrap_or_default());
            edit.put_eip(compiled);
        }
        for old in previous.eips().filter(|old| !kept.contains(&old.address)) {
            edit.remove_eip(old.address);
        }
    }

    pub(super) fn snat(&self, model: &Model, previous: &Snapshot, edit: &mut Edit) {
        let vpcs = gateway_vpcs(model, |vpc| self.vpc_index(&vpc.name));
        let quotas: HashMap<&Name, u32> =
            model.gateways().iter().map(|g| (&g.name, g.host_sessions.unwrap_or(u32::MAX))).collect();
        let mut tables: Vec<Vec<_>> = vec![Vec::new(); self.vpcs.len()];
        for entry in model.snat() {
            let Some(vpc) = vpcs.get(&entry.gateway).copied() else { continue };
            let pool = entry.eips.iter().map(|eip| {
                let address = u32::from(*eip);
                PoolAddress { index: EipIndex(self.eips.get(&address)), address }
            });
            let compiled = SnatEntry {
                id: self.entry_id(self.snat_key(entry)),
                gateway: self.gateway_index(&entry.gateway),
                pool: pool.collect(),
                mapping: entry.mapping,
                filtering: entry.filtering,
                ports: entry.ports,
                allocation: entry.allocation,
                ftp: entry.ftp,
                untranslated: entry.untranslated.iter().map(|prefix| (*prefix, ())).collect(),
                timeouts: entry.timeouts.over(model.timeouts()),
                host_quota: quotas.get(&entry.gateway).copied().unwrap_or(u32::MAX),
            };
            tables[vpc.index()].push((entry.prefix, Arc::new(compiled)));
        }
        for (i, entries) in tables.into_iter().enumerate() {
            let mut table: SnatTable = entries.into_iter().collect();
            let vpc = VpcIndex(i as u16);
            let old = previous.snat_table(vpc).cloned().unwrap_or_default();
            for (prefix, entry) in table.iter_mut() {
                if let Some(same) = old.exact(prefix).filter(|same| *same == entry) {
                    *entry = Arc::clone(same);
                }
            }
            edit.set_snat(vpc, table);
        }
    }
}

/// The VPC of each gateway.
fn gateway_vpcs(model: &Model, index: impl Fn(&Vpc) -> VpcIndex) -> HashMap<&Name, VpcIndex> {
    let by_name: HashMap<&Name, VpcIndex> = model.vpcs().iter().map(|vpc| (&vpc.name, index(vpc))).collect();
    model.gateways().iter().filter_map(|g| Some((&g.name, by_name.get(&g.vpc).copied()?))).collect()
}
