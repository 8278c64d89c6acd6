//! DNAT entries.

use std::net::Ipv4Addr;

use super::{Beside, Case, Judged, meta, read, required, scalar};
use crate::config::validate::is_edge;
use crate::config::values::{self, Ports};
use crate::config::{Code, Forward};
use crate::control::inventory::id::{Id, Kind};
use crate::control::inventory::resource::{Dnat, Resource};
use crate::control::inventory::spec::DnatSpec;
use crate::control::inventory::{Inventory, Refusal};
use crate::policy::{PortRange, Prefix};

impl Inventory {
    pub(super) fn judge_dnat(&self, spec: &DnatSpec, case: Case<'_>) -> Judged<Dnat> {
        let before = case.before.and_then(Resource::as_dnat);
        let gateway = self.entry_gateway(spec.gateway.as_deref(), before.map(|entry| &entry.gateway))?;
        let gateway_id = gateway.meta.id;
        let eip = self.entry_eip("eip", required("eip", spec.eip.as_deref())?, gateway_id)?;
        let host = read("private_ip", required("private_ip", spec.private_ip.as_deref())?, values::address)?;
        if case.beside != Beside::Earlier {
            self.private_host(gateway.vpc, host)?;
        }
        let forward = forward(spec)?;
        let entry = Dnat {
            meta: meta!(case, spec)?,
            gateway: gateway_id,
            vpc: gateway.vpc,
            eip: eip.meta.id,
            address: eip.address,
            private_ip: host,
            forward,
            timeouts: self.judge_timeouts(spec.timeouts.as_ref())?,
        };
        self.claim(&entry)?;
        let quota = self.settings.quotas().dnat_entries_per_gateway;
        self.within_quota(case, gateway_id, Code::QuotaDnat, "gateway", quota, "dnat_entries_per_gateway")?;
        Ok(entry)
    }

    /// A private host lies in the VPC, and can be a host there.
    fn private_host(&self, vpc: Id, host: Ipv4Addr) -> Judged<()> {
        let address = u32::from(host);
        let cidr = self.vpc(vpc).map_or(Prefix::ALL, |vpc| vpc.cidr);
        if !cidr.contains(address) {
            return Err(Refusal::new(Code::DnatPrivateOutsideVpc, "private_ip")
                .value(host)
                .conflict(vpc)
                .hint(format!("choose an address of {cidr}")));
        }
        let below = self.cidrs.range((vpc, 0)..=(vpc, address)).next_back();
        let vswitch = below.and_then(|(_, id)| self.vswitch(*id)).filter(|v| v.cidr.contains(address));
        match vswitch {
            Some(vswitch)
                if is_edge(vswitch.cidr, address)
                    || vswitch.link.is_some_and(|link| link.address == host) =>
            {
                Err(Refusal::new(Code::DnatPrivateUnusable, "private_ip")
                    .value(host)
                    .conflict(vswitch.meta.id))
            }
            _ => Ok(()),
        }
    }

    /// Nobody else has what an entry claims.
    fn claim(&self, entry: &Dnat) -> Judged<()> {
        let (id, eip, host) = (entry.meta.id, entry.eip, entry.private_ip);
        let another_eip = "use another EIP for one of them";
        let taken = |code, parameter: &str, value: &dyn std::fmt::Display, other: Id, hint: &str| {
            Err(Refusal::new(code, parameter).value(value).conflict(other).hint(hint))
        };
        if let Some(other) = self.any_port.get(&eip).filter(|other| **other != id) {
            return taken(Code::DnatAnyPortConflict, "eip", &entry.address, *other, another_eip);
        }
        match entry.forward {
            Forward::AnyPort => {
                let others = [Kind::Dnat, Kind::Snat];
                if let Some(other) = others.into_iter().find_map(|kind| self.another(eip, kind, id)) {
                    return taken(Code::DnatAnyPortConflict, "eip", &entry.address, other, another_eip);
                }
                if let Some(other) =
                    self.private_any.get(&(entry.gateway, host)).filter(|other| **other != id)
                {
                    let hint = "a private host has one any-port entry of a gateway";
                    return taken(Code::DnatPrivateConflict, "private_ip", &host, *other, hint);
                }
            }
            Forward::Ports { protocol, public, private_first } => {
                let number = protocol.number();
                let text = |first: u16, last: u16| {
                    if first == last { first.to_string() } else { format!("{first}/{last}") }
                };
                if let Some(other) = self.public.owner(&(eip, number), public, id) {
                    let hint = "use another public port, protocol or EIP";
                    let value = text(public.first, public.last);
                    return taken(Code::DnatPortConflict, "public_port", &value, other, hint);
                }
                let last = private_first + (public.last - public.first);
                let private = PortRange { first: private_first, last };
                if let Some(other) = self.private.owner(&(entry.gateway, host, number), private, id) {
                    let hint = "use another private port or private IP, or another gateway";
                    let value = text(private_first, last);
                    return taken(Code::DnatPrivateConflict, "private_port", &value, other, hint);
                }
            }
        }
        Ok(())
    }
}

/// What an entry forwards, by its ports and protocol together.
fn forward(spec: &DnatSpec) -> Judged<Forward> {
    let public_text = required("public_port", scalar(spec.public_port.as_ref()))?;
    let private_text = required("private_port", scalar(spec.private_port.as_ref()))?;
    let protocol_text = required("protocol", spec.protocol.as_deref())?;
    let public = read("public_port", public_text, values::ports)?;
    let private = read("private_port", private_text, values::ports)?;
    let protocol = read("protocol", protocol_text, values::protocol)?;
    let refuse = |parameter: &str, value: &str, hint: &str| {
        Err(Refusal::new(Code::DnatProtocol, parameter).value(value).hint(hint))
    };
    match (public, private, protocol) {
        (Ports::Any, Ports::Any, None) => Ok(Forward::AnyPort),
        (Ports::Any, Ports::Any, Some(_)) => {
            refuse("protocol", protocol_text, "for IP mapping set it to Any, otherwise give ports")
        }
        (Ports::Any, Ports::Range(_), _) => {
            refuse("public_port", public_text, "give public ports, or set private_port and protocol to Any")
        }
        (Ports::Range(_), Ports::Any, _) => {
            refuse("private_port", private_text, "give private ports, or set public_port and protocol to Any")
        }
        (Ports::Range(_), Ports::Range(_), None) => {
            refuse("protocol", protocol_text, "set it to TCP or UDP, or all ports to Any")
        }
        (Ports::Range(public), Ports::Range(host), Some(protocol)) => {
            let (outer, inner) = (Ports::len(public), Ports::len(host));
            if outer == inner {
                return Ok(Forward::Ports { protocol, public, private_first: host.first });
            }
            Err(Refusal::new(Code::DnatRangeLength, "private_port")
                .value(private_text)
                .hint(format!("public_port has {outer} ports, private_port has {inner}")))
        }
    }
}
