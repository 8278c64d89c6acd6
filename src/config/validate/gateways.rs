//! Rules of `[[gateway]]` and `[[eip]]`.

use std::net::Ipv4Addr;

use hashbrown::HashMap;

use super::{Check, is_edge, name_of, value_of};
use crate::config::document::{Field, Spot};
use crate::config::error::Code;
use crate::config::file::{EipTable, GatewayTable, PlanTable};
use crate::config::model::{Eip, Gateway, Plan, Specification};
use crate::config::settings::Quotas;
use crate::config::words::Name;
use crate::policy::{Lpm, Prefix};

/// Private hosts are many: without a quota one of them could use up what all share (RFC 6888 REQ-4).
pub(crate) const HOST_SESSIONS: u32 = 100_000;

/// Counts what a quota limits, and says once when it is passed.
pub(super) struct Tally<'c> {
    counts: HashMap<&'c str, u32>,
    quota: u32,
    key: &'static str,
    code: Code,
}

impl<'c> Tally<'c> {
    pub(super) fn new(code: Code, key: &'static str, quota: u32) -> Self {
        Self { counts: HashMap::new(), quota, key, code }
    }

    /// Counts one more for the owner that a field names.
    pub(super) fn add(&mut self, check: &Check<'_, '_>, here: Spot, owner: &'c Field<Name>) {
        let count = self.counts.entry(owner.value.as_str()).or_default();
        *count += 1;
        if *count == self.quota.saturating_add(1) {
            check
                .at(here, owner, self.code)
                .hint(format!("this is one more than {}; raise {} in [quotas]", self.quota, self.key))
                .emit();
        }
    }
}

impl<'c> Check<'c, '_> {
    pub(super) fn gateways(&self, quotas: Quotas) -> Vec<Gateway> {
        let mut tally = Tally::new(Code::QuotaGateways, "gateways_per_vpc", quotas.gateways_per_vpc);
        self.file.gateways.iter().filter_map(|table| self.gateway(table, &mut tally)).collect()
    }

    fn gateway(&self, table: &'c GatewayTable, tally: &mut Tally<'c>) -> Option<Gateway> {
        let here = table.here;
        if let Some(vpc) = self.resolve(here, table.vpc.as_ref(), &self.names.vpcs, Code::UnknownVpc) {
            if let Some(name) = &table.vpc {
                tally.add(self, here, name);
            }
            if let Some(wanted) = &table.vswitch {
                self.vswitch(vpc, here.of(wanted), &wanted.value);
            }
        }
        let mut specification = value_of(table.specification.as_ref()).unwrap_or_default();
        if let Specification::PayByLcu { sessions, new_per_second } = &mut specification {
            if let Some(asked) = &table.sessions {
                *sessions = asked.value as u32;
            }
            if let Some(asked) = &table.new_sessions_per_second {
                *new_per_second = asked.value as u32;
            }
        } else {
            for limit in [&table.sessions, &table.new_sessions_per_second].into_iter().flatten() {
                self.at(here, limit, Code::SpecificationLimits)
                    .hint("set specification = \"PayByLcu\", or remove the limit")
                    .emit();
            }
        }
        Some(Gateway {
            name: value_of(table.name.as_ref())?,
            description: value_of(table.description.as_ref()),
            vpc: value_of(table.vpc.as_ref())?,
            vswitch: value_of(table.vswitch.as_ref())?,
            specification,
            host_sessions: table.host_sessions.as_ref().map_or(Some(HOST_SESSIONS), |quota| quota.value),
            deletion_protection: value_of(table.deletion_protection.as_ref()).unwrap_or(false),
        })
    }

    pub(super) fn plans(&self) -> Vec<Plan> {
        let plan = |table: &PlanTable| {
            Some(Plan {
                name: value_of(table.name.as_ref())?,
                description: value_of(table.description.as_ref()),
                bandwidth: value_of(table.bandwidth.as_ref())?,
            })
        };
        self.file.plans.iter().filter_map(plan).collect()
    }

    pub(super) fn eips(&self, quotas: Quotas) -> Vec<Eip> {
        let mut tally = Tally::new(Code::QuotaEips, "eips_per_gateway", quotas.eips_per_gateway);
        let mut seen: HashMap<Ipv4Addr, Spot> = HashMap::new();
        let ranges: Lpm<usize> = (self.file.outside.iter().enumerate())
            .flat_map(|(i, table)| table.public.iter().map(move |range| (range.value, i)))
            .collect();
        let used = self.outside_addresses();
        let mut eips = Vec::with_capacity(self.file.eips.len());
        for table in &self.file.eips {
            let Some(address) = &table.address else { continue };
            let spot = table.here.of(address);
            if let Some(first) = seen.insert(address.value, spot) {
                self.document
                    .error(spot, Code::EipDuplicate)
                    .conflicts(first, None)
                    .hint("remove one of the two")
                    .emit();
            }
            let outside = ranges.lookup(address.value.into()).copied();
            if outside.is_none() {
                let known: Vec<String> = ranges.iter().map(|(range, _)| range.to_string()).take(4).collect();
                let hint = if known.is_empty() {
                    "give an [[outside]] a public range".to_owned()
                } else {
                    format!("public ranges are {}", known.join(", "))
                };
                self.document.error(spot, Code::EipOutsideRanges).hint(hint).emit();
            }
            if let Some(owner) = used.get(&address.value) {
                self.document.error(spot, Code::EipIsOwnAddress).conflicts(*owner, None).emit();
            }
            if self.on_link_edge(address.value) {
                self.document.error(spot, Code::UnusableAddress).emit();
            }
            self.eip_binding(table, &mut tally);
            self.resolve(table.here, table.plan.as_ref(), &self.names.plans, Code::UnknownPlan);
            if let (Some(plan), Some(_)) = (&table.plan, &table.bandwidth) {
                self.at(table.here, plan, Code::EipLimits).hint("remove one of the two").emit();
            }
            if let Some(outside) = outside {
                eips.push(Eip {
                    address: address.value,
                    name: value_of(table.name.as_ref()),
                    description: value_of(table.description.as_ref()),
                    gateway: value_of(table.gateway.as_ref()),
                    ping: value_of(table.ping.as_ref()).unwrap_or(true),
                    bandwidth: value_of(table.bandwidth.as_ref()),
                    plan: value_of(table.plan.as_ref()),
                    outside,
                });
            }
        }
        eips
    }

    fn eip_binding(&self, table: &'c EipTable, tally: &mut Tally<'c>) {
        let gateway = table.gateway.as_ref();
        if self.resolve(table.here, gateway, &self.names.gateways, Code::UnknownGateway).is_some()
            && let Some(gateway) = gateway
        {
            tally.add(self, table.here, gateway);
        }
    }

    /// Own addresses and next hops on the Internet side.
    fn outside_addresses(&self) -> HashMap<Ipv4Addr, Spot> {
        let mut used = HashMap::new();
        for table in &self.file.outside {
            for via in table.routes.iter().filter_map(|route| Some((route.here, route.via.as_ref()?))) {
                used.insert(via.1.value, via.0.of(via.1));
            }
            if let Some(gateway) = &table.gateway {
                used.insert(gateway.value, table.here.of(gateway));
            }
            if let Some(own) = &table.address {
                used.insert(own.value.0, table.here.of(own));
            }
        }
        used
    }

    fn on_link_edge(&self, address: Ipv4Addr) -> bool {
        let prefixes = self.file.outside.iter().filter_map(|table| Some(table.address.as_ref()?.value.1));
        prefixes.into_iter().any(|prefix: Prefix| is_edge(prefix, address.into()))
    }

    /// The gateway of an entry.
    pub(super) fn gateway_of(&self, here: Spot, name: Option<&Field<Name>>) -> Option<&'c GatewayTable> {
        self.resolve(here, name, &self.names.gateways, Code::UnknownGateway)
    }

    /// Whether the gateway of an entry may use an EIP: it is declared, and bound to that gateway.
    pub(super) fn may_use(&self, here: Spot, eip: &Field<Ipv4Addr>, gateway: Option<&GatewayTable>) -> bool {
        let Some(table) = self.names.eips.get(&eip.value) else {
            self.at(here, eip, Code::UnknownEip).hint("declare it as [[eip]]").emit();
            return false;
        };
        let Some(gateway) = gateway.and_then(|gateway| gateway.name.as_ref()) else { return false };
        let bound = name_of(table.gateway.as_ref());
        if bound == Some(gateway.value.as_str()) {
            return true;
        }
        let hint = match bound {
            Some(other) => {
                format!("the EIP is bound to \"{other}\", the entry belongs to \"{}\"", gateway.value)
            }
            None => format!("the EIP is not bound: set its gateway = \"{}\"", gateway.value),
        };
        let place = table.address.as_ref().map_or(table.here, |address| table.here.of(address));
        self.at(here, eip, Code::EipNotBound)
            .conflicts(place, name_of(table.name.as_ref()))
            .hint(hint)
            .emit();
        false
    }
}
