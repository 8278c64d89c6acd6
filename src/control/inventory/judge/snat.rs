//! SNAT entries.

use std::net::Ipv4Addr;

use super::{Case, Judged, meta, optional, read, required, scalar};
use crate::config::{Code, allocation, values};
use crate::control::inventory::id::{Id, Kind};
use crate::control::inventory::resource::{Resource, Snat, Source};
use crate::control::inventory::spec::{Scalar, SnatSpec};
use crate::control::inventory::{Inventory, Refusal};
use crate::policy::{Allocation, Filtering, Mapping, PortRange, Prefix};

impl Inventory {
    pub(super) fn judge_snat(&self, spec: &SnatSpec, case: Case<'_>) -> Judged<Snat> {
        let before = case.before.and_then(|r| if let Resource::Snat(entry) = r { Some(entry) } else { None });
        let gateway = self.entry_gateway(spec.gateway.as_deref(), before.map(|entry| &entry.gateway))?;
        let (gateway_id, vpc) = (gateway.meta.id, gateway.vpc);
        let (source, prefix) = self.judge_source(required("source", spec.source.as_deref())?, vpc)?;
        if let Some(other) = self.sources.get(&(vpc, prefix)).filter(|other| **other != case.id) {
            return Err(Refusal::new(Code::SnatSourceConflict, "source")
                .value(prefix)
                .conflict(other)
                .hint("put the EIPs into one entry"));
        }
        let eips = self.judge_pool(spec.eips.as_deref(), gateway_id, case.id)?;
        let mapping = optional("mapping", spec.mapping.as_deref(), values::choice(&values::MAPPINGS))?;
        let mapping = mapping.unwrap_or_default();
        let filtering = optional("filtering", spec.filtering.as_deref(), values::choice(&values::FILTERS))?;
        let filtering = match (mapping, filtering) {
            (Mapping::EndpointIndependent, filtering) => filtering.unwrap_or_default(),
            (Mapping::EndpointDependent, None | Some(Filtering::AddressAndPortDependent)) => {
                Filtering::AddressAndPortDependent
            }
            (Mapping::EndpointDependent, Some(_)) => {
                return Err(Refusal::new(Code::SnatFiltering, "filtering")
                    .value(spec.filtering.as_deref().unwrap_or_default()));
            }
        };
        let ftp = spec.ftp.unwrap_or_default();
        if ftp && mapping == Mapping::EndpointDependent {
            return Err(Refusal::new(Code::SnatFtp, "ftp").value(ftp));
        }
        let ports = optional("ports", scalar(spec.ports.as_ref()), values::port_range)?;
        let ports = ports.unwrap_or(PortRange::ALL);
        let entry = allocation::Entry { mapping, ports, eips: eips.len(), source: prefix };
        let allocation = judge_allocation(spec, entry)?;
        self.blocks_alone(&eips, allocation, case.id)?;
        if let Some(before) = before
            && (before.allocation, allocation) != (Allocation::Ports, Allocation::Ports)
            && (before.allocation, before.ports) != (allocation, ports)
        {
            return Err(Refusal::new(Code::ReadOnly, "port_blocks")
                .rule("how ports are given out in blocks, and which, does not change while the entry lives")
                .hint("delete the entry and create another"));
        }
        let mut untranslated = Vec::new();
        for (i, text) in spec.untranslated.iter().flatten().enumerate() {
            untranslated.push(read(&format!("untranslated[{i}]"), text, values::prefix)?);
        }
        untranslated.sort_unstable();
        untranslated.dedup();
        let quota = self.settings.quotas().snat_entries_per_gateway;
        self.within_quota(case, gateway_id, Code::QuotaSnat, "gateway", quota, "snat_entries_per_gateway")?;
        Ok(Snat {
            meta: meta!(case, spec)?,
            gateway: gateway_id,
            vpc,
            source,
            prefix,
            eips,
            mapping,
            filtering,
            ports,
            allocation,
            ftp,
            untranslated,
            timeouts: self.judge_timeouts(spec.timeouts.as_ref())?,
        })
    }

    /// Ports of an EIP are given out in blocks by one entry, or port by port by any number of them.
    fn blocks_alone(&self, eips: &[(Id, Ipv4Addr)], allocation: Allocation, entry: Id) -> Judged<()> {
        for (i, (eip, address)) in eips.iter().enumerate() {
            for other in self.referring(*eip, Kind::Snat).filter(|other| *other != entry) {
                let others = match self.get(other).map(|resource| &**resource) {
                    Some(Resource::Snat(other)) => other.allocation,
                    _ => Allocation::Ports,
                };
                if allocation != Allocation::Ports || others != Allocation::Ports {
                    return Err(Refusal::new(Code::SnatBlocksShared, format!("eips[{i}]"))
                        .value(address)
                        .conflict(other)
                        .hint("take the EIP out of one of the pools"));
                }
            }
        }
        Ok(())
    }

    fn judge_source(&self, text: &str, vpc: Id) -> Judged<(Source, Prefix)> {
        let cidr = self.vpc(vpc).map_or(Prefix::ALL, |vpc| vpc.cidr);
        // Names of the file have no colon; identifiers are names.
        if let Some(vswitch) = text.strip_prefix("vswitch:") {
            let of_vpc = |id| self.vswitch(id).is_some_and(|vswitch| vswitch.vpc == vpc);
            let id = self.resolve_among(Kind::VSwitch, "source", vswitch, of_vpc)?;
            return match self.vswitch(id).filter(|vswitch| vswitch.vpc == vpc) {
                Some(vswitch) => Ok((Source::VSwitch(id), vswitch.cidr)),
                None => Err(Refusal::new(Code::SnatSourceOutsideVpc, "source").value(text).conflict(vpc)),
            };
        }
        let (source, prefix) = match read("source", text, values::source)? {
            crate::config::Source::Host(host) => (Source::Host(host), Prefix::host(host.into())),
            crate::config::Source::Cidr(prefix) => (Source::Cidr(prefix), prefix),
            crate::config::Source::Vpc | crate::config::Source::VSwitch(_) => return Ok((Source::Vpc, cidr)),
        };
        if cidr.covers(prefix) {
            return Ok((source, prefix));
        }
        Err(Refusal::new(Code::SnatSourceOutsideVpc, "source")
            .value(text)
            .conflict(vpc)
            .hint(format!("choose a part of {cidr}, or \"vpc\" for all of it")))
    }

    fn judge_pool(&self, texts: Option<&[String]>, gateway: Id, entry: Id) -> Judged<Vec<(Id, Ipv4Addr)>> {
        const MOST: usize = 64;
        let texts = texts.ok_or_else(|| Refusal::new(Code::MissingKey, "eips"))?;
        if texts.is_empty() || texts.len() > MOST {
            return Err(Refusal::new(Code::SnatPoolSize, "eips").hint(format!("these are {}", texts.len())));
        }
        let mut eips: Vec<(Id, Ipv4Addr)> = Vec::with_capacity(texts.len());
        for (i, text) in texts.iter().enumerate() {
            let parameter = format!("eips[{i}]");
            let eip = self.entry_eip(&parameter, text, gateway)?;
            let id = eip.meta.id;
            if eips.iter().any(|(other, _)| *other == id) {
                return Err(Refusal::new(Code::SnatPoolDuplicate, parameter).value(text));
            }
            if let Some(other) = self.any_port.get(&id).filter(|other| **other != entry) {
                return Err(Refusal::new(Code::DnatAnyPortConflict, parameter)
                    .value(text)
                    .conflict(other)
                    .hint("take the EIP out of the pool"));
            }
            eips.push((id, eip.address));
        }
        let more = eips.iter().filter(|(id, _)| self.count(*id, Kind::Snat) == 0).count();
        if more > 0 && self.pooled + more > self.pool_room {
            return Err(Refusal::new(Code::RestartNeeded, "eips")
                .rule(format!("workers have room for {} EIPs in SNAT pools", self.pool_room))
                .hint("restart natgate to make room"));
        }
        Ok(eips)
    }
}

fn judge_allocation(spec: &SnatSpec, entry: allocation::Entry) -> Judged<Allocation> {
    let number = |key: &str, value: Option<&Scalar>, (least, most): (u64, u64)| {
        optional(key, scalar(value), values::count(least, most))
    };
    let size = number("port_blocks", spec.port_blocks.as_ref(), allocation::BLOCK_SIZES)?;
    let per_host = number("blocks_per_host", spec.blocks_per_host.as_ref(), allocation::BLOCKS_PER_HOST)?;
    let wish = allocation::Wish {
        port_blocks: size.map(|size| size as u16),
        blocks_per_host: per_host.map(|count| count as u8),
        deterministic: spec.deterministic.unwrap_or(false),
    };
    allocation::judge(wish, entry).map_err(|broken| Refusal::new(broken.code, broken.key).hint(broken.hint))
}
