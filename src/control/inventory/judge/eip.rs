//! EIPs and bandwidth plans.

use super::{Beside, Case, Judged, meta, optional, read, required, unchanged};
use crate::config::{Code, values};
use crate::control::inventory::id::{Id, Kind};
use crate::control::inventory::resource::{Eip, Plan, Resource};
use crate::control::inventory::spec::{EipSpec, PlanSpec};
use crate::control::inventory::{Inventory, Refusal};

impl Inventory {
    pub(super) fn judge_eip(&self, spec: &EipSpec, case: Case<'_>) -> Judged<Eip> {
        let before = case.before.and_then(|r| if let Resource::Eip(eip) = r { Some(eip) } else { None });
        let bandwidth = optional("bandwidth", spec.bandwidth.as_deref(), values::rate)?;
        let plan = spec.plan.as_deref().map(|text| self.resolve(Kind::Plan, "plan", text)).transpose()?;
        if let (Some(plan), Some(_)) = (plan, bandwidth) {
            return Err(Refusal::new(Code::EipLimits, "plan")
                .value(plan)
                .hint("take away the one that it has, as null in a patch"));
        }
        let address = match &spec.address {
            Some(text) => read("address", text, values::address)?,
            None => self.free_address().ok_or_else(|| {
                Refusal::new(Code::NoFreeAddress, "address")
                    .hint("release an EIP, or add a public range to an [[outside]] of the configuration file")
            })?,
        };
        unchanged("address", &address.to_string(), before.map(|eip| &eip.address), &address)?;
        let refuse = |code| Refusal::new(code, "address").value(address);
        if let Some(other) = self.addresses.get(&address).filter(|id| **id != case.id) {
            return Err(refuse(Code::EipDuplicate).conflict(other));
        }
        if self.outside_of(address).is_none() {
            let ranges: Vec<_> =
                self.public_ranges.iter().take(4).map(|(range, _)| range.to_string()).collect();
            return Err(refuse(Code::EipOutsideRanges).hint(match ranges.as_slice() {
                [] => "give an [[outside]] of the configuration file a public range".to_owned(),
                ranges => format!("public ranges are {}", ranges.join(", ")),
            }));
        }
        if self.outside_addresses.contains(&address) {
            return Err(refuse(Code::EipIsOwnAddress));
        }
        if self.is_outside_edge(address) {
            return Err(refuse(Code::UnusableAddress));
        }
        let gateway = spec.gateway.as_deref();
        let gateway = gateway.map(|text| self.resolve(Kind::Gateway, "gateway", text)).transpose()?;
        let moved = before.filter(|before| before.gateway != gateway && case.beside == Beside::Others);
        if let Some(before) = moved {
            let users: Vec<Id> = [Kind::Dnat, Kind::Snat]
                .into_iter()
                .flat_map(|kind| self.referring(before.meta.id, kind))
                .take(Refusal::SHOWN)
                .collect();
            if !users.is_empty() {
                let refusal = Refusal::new(Code::InUse, "gateway")
                    .rule("an EIP that entries use stays with its gateway")
                    .hint("delete the entries first");
                return Err(users.iter().fold(refusal, Refusal::conflict));
            }
        }
        if let Some(gateway) = gateway {
            let quota = self.settings.quotas().eips_per_gateway;
            self.within_quota(case, gateway, Code::QuotaEips, "gateway", quota, "eips_per_gateway")?;
        }
        let ping = spec.ping.unwrap_or(true);
        Ok(Eip { meta: meta!(case, spec)?, address, gateway, ping, bandwidth, plan })
    }

    #[allow(clippy::unused_self, reason = "as the other kinds")]
    pub(super) fn judge_plan(&self, spec: &PlanSpec, case: Case<'_>) -> Judged<Plan> {
        let bandwidth = read("bandwidth", required("bandwidth", spec.bandwidth.as_deref())?, values::rate)?;
        Ok(Plan { meta: meta!(case, spec)?, bandwidth })
    }
}
