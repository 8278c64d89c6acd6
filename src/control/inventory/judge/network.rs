//! VPCs, vSwitches and gateways.

use std::net::Ipv4Addr;

use super::{Beside, Case, Judged, meta, optional, read, required, scalar, unchanged};
use crate::config::validate::gateways::HOST_SESSIONS;
use crate::config::validate::{is_edge, overlap};
use crate::config::values;
use crate::config::{Code, Link, Specification, StaticRoute, Vlan};
use crate::control::inventory::id::Kind;
use crate::control::inventory::resource::{Gateway, Resource, VSwitch, Vpc};
use crate::control::inventory::spec::{GatewaySpec, RouteSpec, VSwitchSpec, VpcSpec};
use crate::control::inventory::{Inventory, Refusal};
use crate::policy::Prefix;

impl Inventory {
    pub(super) fn judge_vpc(&self, spec: &VpcSpec, case: Case<'_>) -> Judged<Vpc> {
        let before = case.before.and_then(|r| if let Resource::Vpc(vpc) = r { Some(vpc) } else { None });
        let text = required("cidr", spec.cidr.as_deref())?;
        let cidr = read("cidr", text, values::unicast_prefix)?;
        unchanged("cidr", text, before.map(|vpc| &vpc.cidr), &cidr)?;
        if let Some((range, _)) = self.public_ranges.iter().find(|(range, _)| overlap(*range, cidr)) {
            return Err(Refusal::new(Code::PublicRangeInVpc, "cidr")
                .value(cidr)
                .hint(format!("{range} is a public range of the configuration file")));
        }
        let routes = self.judge_routes(spec.routes.as_deref().unwrap_or_default(), case)?;
        Ok(Vpc { meta: meta!(case, spec)?, cidr, routes })
    }

    fn judge_routes(&self, specs: &[RouteSpec], case: Case<'_>) -> Judged<Vec<StaticRoute>> {
        let mut routes: Vec<StaticRoute> = Vec::with_capacity(specs.len());
        for (i, spec) in specs.iter().enumerate() {
            let (to_key, via_key) = (format!("routes[{i}].to"), format!("routes[{i}].via"));
            let to = read(&to_key, &spec.to, values::prefix)?;
            let via = read(&via_key, &spec.via, values::address)?;
            let refuse = |code, key: &str, value: &str| Err(Refusal::new(code, key).value(value));
            if to == Prefix::ALL {
                return refuse(Code::VpcDefaultRoute, &to_key, &spec.to);
            }
            if routes.iter().any(|route| route.to == to) {
                return refuse(Code::RouteConflict, &to_key, &spec.to);
            }
            if case.beside != Beside::Earlier {
                let mut attached = self.vswitches_of(case.id).filter(|vswitch| vswitch.link.is_some());
                if let Some(vswitch) = attached.find(|vswitch| vswitch.cidr.contains(via.into())) {
                    if vswitch.link.is_some_and(|link| link.address == via) {
                        return refuse(Code::NextHopIsOwn, &via_key, &spec.via);
                    }
                    if is_edge(vswitch.cidr, via.into()) {
                        return refuse(Code::UnusableAddress, &via_key, &spec.via);
                    }
                } else {
                    return refuse(Code::NextHopNotOnLink, &via_key, &spec.via);
                }
                let mut attached = self.vswitches_of(case.id).filter(|vswitch| vswitch.link.is_some());
                if let Some(vswitch) = attached.find(|vswitch| vswitch.cidr == to) {
                    return Err(Refusal::new(Code::RouteConflict, to_key)
                        .value(&spec.to)
                        .conflict(vswitch.meta.id));
                }
            }
            routes.push(StaticRoute { to, via });
        }
        Ok(routes)
    }

    pub(super) fn judge_vswitch(&self, spec: &VSwitchSpec, case: Case<'_>) -> Judged<VSwitch> {
        let before = case.before.and_then(|r| if let Resource::VSwitch(v) = r { Some(v) } else { None });
        let text = required("vpc", spec.vpc.as_deref())?;
        let vpc_id = self.resolve(Kind::Vpc, "vpc", text)?;
        unchanged("vpc", text, before.map(|v| &v.vpc), &vpc_id)?;
        let vpc = self.vpc(vpc_id).ok_or_else(|| Refusal::new(Code::NotFound, "vpc").value(text))?;
        let text = required("cidr", spec.cidr.as_deref())?;
        let cidr = read("cidr", text, values::unicast_prefix)?;
        unchanged("cidr", text, before.map(|v| &v.cidr), &cidr)?;
        if !vpc.cidr.covers(cidr) {
            return Err(Refusal::new(Code::VSwitchOutsideVpc, "cidr")
                .value(cidr)
                .conflict(vpc_id)
                .hint(format!("choose a part of {}", vpc.cidr)));
        }
        // Those of a VPC do not overlap, so only the nearest below the end can.
        let mut below = self.cidrs.range((vpc_id, 0)..=(vpc_id, cidr.last())).rev().map(|(_, id)| *id);
        let below = below.find(|id| *id != case.id).and_then(|id| self.vswitch(id));
        if let Some(other) = below.filter(|other| overlap(other.cidr, cidr)) {
            return Err(Refusal::new(Code::VSwitchOverlap, "cidr").value(cidr).conflict(other.meta.id));
        }
        let link = self.judge_link(spec, cidr, case)?;
        if case.beside != Beside::Earlier {
            routes_stay(vpc, cidr, link.as_ref(), before)?;
            let edges = [cidr.address(), cidr.last()].into_iter().filter(|address| is_edge(cidr, *address));
            let mut taken = edges.map(Ipv4Addr::from).chain(link.map(|link| link.address));
            if let Some((address, entry)) =
                taken.find_map(|address| Some((address, self.of_host(vpc_id, address).next()?)))
            {
                return Err(Refusal::new(Code::DnatPrivateUnusable, "address")
                    .value(address)
                    .conflict(entry.meta.id));
            }
        }
        Ok(VSwitch { meta: meta!(case, spec)?, vpc: vpc_id, cidr, link })
    }

    fn judge_link(&self, spec: &VSwitchSpec, cidr: Prefix, case: Case<'_>) -> Judged<Option<Link>> {
        let vlan = optional("vlan", scalar(spec.vlan.as_ref()), values::count(1, 4094))?;
        let mtu = optional("mtu", scalar(spec.mtu.as_ref()), values::count(576, 9216))?.map(|mtu| mtu as u16);
        let address = optional("address", spec.address.as_deref(), values::address)?;
        let (Some(port), Some(address)) = (&spec.port, address) else {
            let lacking = match (&spec.port, address, vlan, mtu) {
                (None, None, None, None) => return Ok(None),
                (Some(_), ..) => "address",
                _ => "port",
            };
            return Err(Refusal::new(Code::VSwitchLink, lacking));
        };
        let mut ports =
            self.settings.ports().iter().zip(0..).filter(|(known, _)| known.name.as_str() == port);
        let Some((_, index)) = ports.next() else {
            let known: Vec<_> = self.settings.ports().iter().map(|port| port.name.as_str()).collect();
            return Err(Refusal::new(Code::UnknownPort, "port")
                .value(port)
                .hint(format!("the configuration file has {}", known.join(", "))));
        };
        let port = crate::base::PortIndex(index);
        let vlan = vlan.and_then(|vlan| Vlan::new(vlan as u16));
        let outside = self.settings.outside().iter().any(|o| (o.link.port, o.link.vlan) == (port, vlan));
        let other = self.links.get(&(port, vlan)).filter(|id| **id != case.id);
        if outside || other.is_some() {
            let parameter = if vlan.is_some() { "vlan" } else { "port" };
            let refusal = Refusal::new(Code::InterfaceConflict, parameter);
            return Err(match other {
                Some(other) => refusal.conflict(other).hint("give one of them another vlan or port"),
                None => refusal.hint("an outside interface of the configuration file has it"),
            });
        }
        if !cidr.contains(address.into()) {
            return Err(Refusal::new(Code::VSwitchAddress, "address")
                .value(address)
                .hint(format!("choose an address of {cidr}")));
        }
        if is_edge(cidr, address.into()) {
            return Err(Refusal::new(Code::UnusableAddress, "address").value(address));
        }
        if let (Some(mtu), Some(most)) = (mtu, self.mtus.get(port.index()))
            && mtu > *most
        {
            return Err(Refusal::new(Code::MtuAbovePort, "mtu")
                .value(mtu)
                .hint(format!("the port carries {most} bytes")));
        }
        Ok(Some(Link { port, vlan, address, mtu }))
    }

    pub(super) fn judge_gateway(&self, spec: &GatewaySpec, case: Case<'_>) -> Judged<Gateway> {
        let before = case.before.and_then(|r| if let Resource::Gateway(g) = r { Some(g) } else { None });
        let text = required("vpc", spec.vpc.as_deref())?;
        let vpc = self.resolve(Kind::Vpc, "vpc", text)?;
        unchanged("vpc", text, before.map(|g| &g.vpc), &vpc)?;
        let text = required("vswitch", spec.vswitch.as_deref())?;
        let of_vpc = |id| self.vswitch(id).is_some_and(|vswitch| vswitch.vpc == vpc);
        let vswitch = self.resolve_among(Kind::VSwitch, "vswitch", text, of_vpc)?;
        if !of_vpc(vswitch) {
            return Err(Refusal::new(Code::UnknownVSwitch, "vswitch")
                .rule("the vSwitch must be one of the VPC's")
                .value(text)
                .conflict(vpc));
        }
        unchanged("vswitch", text, before.map(|g| &g.vswitch), &vswitch)?;
        let quotas = self.settings.quotas();
        self.within_quota(
            case,
            vpc,
            Code::QuotaGateways,
            "vpc",
            quotas.gateways_per_vpc,
            "gateways_per_vpc",
        )?;
        let words = values::choice(&values::SPECIFICATIONS);
        let mut specification =
            optional("specification", spec.specification.as_deref(), words)?.unwrap_or_default();
        let asked = optional("sessions", scalar(spec.sessions.as_ref()), values::count(1, 10_000_000))?;
        let rate = scalar(spec.new_sessions_per_second.as_ref());
        let rate = optional("new_sessions_per_second", rate, values::count(1, 1_000_000))?;
        if let Specification::PayByLcu { sessions, new_per_second } = &mut specification {
            *sessions = asked.map_or(*sessions, |asked| asked as u32);
            *new_per_second = rate.map_or(*new_per_second, |rate| rate as u32);
        } else if asked.is_some() || rate.is_some() {
            let parameter = if asked.is_some() { "sessions" } else { "new_sessions_per_second" };
            return Err(Refusal::new(Code::SpecificationLimits, parameter)
                .value(specification)
                .hint("set specification to PayByLcu, or leave the limit out"));
        }
        let host_sessions =
            optional("host_sessions", scalar(spec.host_sessions.as_ref()), values::count_or_unlimited)?;
        Ok(Gateway {
            meta: meta!(case, spec)?,
            vpc,
            vswitch,
            specification,
            host_sessions: host_sessions.unwrap_or(Some(HOST_SESSIONS)),
            deletion_protection: spec.deletion_protection.unwrap_or(false),
        })
    }
}

/// A next hop of the VPC stays on the link of a vSwitch that changes.
fn routes_stay(vpc: &Vpc, cidr: Prefix, link: Option<&Link>, before: Option<&VSwitch>) -> Judged<()> {
    for route in &vpc.routes {
        let via_here = cidr.contains(route.via.into());
        if via_here && before.is_some_and(|v| v.link.is_some()) && link.is_none() {
            return Err(Refusal::new(Code::NextHopNotOnLink, "port")
                .conflict(vpc.meta.id)
                .hint(format!("the VPC has a route by {}: remove it first", route.via)));
        }
        if link.is_some_and(|link| link.address == route.via) {
            return Err(Refusal::new(Code::NextHopIsOwn, "address").value(route.via).conflict(vpc.meta.id));
        }
        if link.is_some() && route.to == cidr {
            return Err(Refusal::new(Code::RouteConflict, "cidr").value(cidr).conflict(vpc.meta.id));
        }
    }
    Ok(())
}
