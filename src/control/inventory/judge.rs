//! The rules: from a specification to the resource that it becomes in this inventory.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::id::{Id, Kind};
use super::resource::{Dnat, Eip, Gateway, Meta, Resource, Snat, Source, VSwitch, Vpc};
use super::spec::{
    DnatSpec, EipSpec, GatewaySpec, RouteSpec, Scalar, SnatSpec, Spec, TimeoutSpec, VSwitchSpec, VpcSpec,
};
use super::{Inventory, Refusal};
use crate::config::validate::gateways::HOST_SESSIONS;
use crate::config::validate::{is_edge, overlap};
use crate::config::values::{self, Ports};
use crate::config::{Code, Forward, Link, Name, Problem, Specification, StaticRoute, TimeoutOverrides, Vlan};
use crate::policy::{Filtering, Mapping, PortRange, Prefix};

/// What a judgement starts from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case<'a> {
    /// The identifier that the resource has or will have.
    pub(super) id: Id,
    /// When it was created.
    pub(super) created: u64,
    /// What it is now, if it is there already.
    pub(super) before: Option<&'a Resource>,
    /// What of the inventory the judgement may rely on.
    pub(super) beside: Beside,
}

/// What stands beside a resource while it is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beside {
    /// All others, and they stay as they are: a request.
    Others,
    /// Only what it may refer to, others come after it. Rules that ask for those, and quotas, are left out: it comes out of the
    /// store, or is judged once more with all others.
    Earlier,
    /// It is there already, and so are all others: all of them change together.
    All,
}

type Judged<T> = Result<T, Refusal>;

/// Reads a value that is there.
fn read<T>(
    parameter: &str,
    text: &str,
    reader: impl Fn(&toml::de::DeValue<'_>) -> Result<T, Problem>,
) -> Judged<T> {
    values::read(text, reader).map_err(|problem| Refusal::of(problem, parameter, text))
}

/// Reads a value that may be there.
fn optional<T>(
    parameter: &str,
    text: Option<&str>,
    reader: impl Fn(&toml::de::DeValue<'_>) -> Result<T, Problem>,
) -> Judged<Option<T>> {
    text.map(|text| read(parameter, text, reader)).transpose()
}

/// A parameter that must be there.
fn required<'s>(parameter: &str, text: Option<&'s str>) -> Judged<&'s str> {
    text.ok_or_else(|| Refusal::new(Code::MissingKey, parameter))
}

fn scalar(scalar: Option<&Scalar>) -> Option<&str> {
    scalar.map(|scalar| scalar.0.as_str())
}

/// What the value was must be what it is.
fn unchanged<T: PartialEq>(parameter: &str, value: &str, before: Option<&T>, after: &T) -> Judged<()> {
    match before {
        Some(before) if before != after => Err(Refusal::new(Code::ReadOnly, parameter)
            .value(value)
            .hint("create another resource and delete this one")),
        _ => Ok(()),
    }
}

fn meta(
    case: Case<'_>,
    name: Option<&str>,
    description: Option<&str>,
    tags: Option<&BTreeMap<String, String>>,
) -> Judged<Meta> {
    let tags = tags.cloned().unwrap_or_default();
    let within = |text: &str, least, most| (least..=most).contains(&text.chars().count());
    if let Some((key, value)) =
        tags.iter().find(|(key, value)| !within(key, 1, 128) || !within(value, 0, 256))
    {
        return Err(Refusal::new(Code::InvalidTag, format!("tags.{key}")).value(value));
    }
    if tags.len() > 20 {
        return Err(Refusal::new(Code::InvalidTag, "tags").hint(format!("these are {}", tags.len())));
    }
    Ok(Meta {
        id: case.id,
        name: optional("name", name, values::name)?,
        description: optional("description", description, values::description)?,
        tags,
        created: case.created,
    })
}

/// The meta of any specification.
macro_rules! meta {
    ($case:expr, $spec:expr) => {
        meta($case, $spec.name.as_deref(), $spec.description.as_deref(), $spec.tags.as_ref())
    };
}

impl Inventory {
    /// The resource that a specification becomes, if no rule is broken.
    pub(super) fn judge(&self, spec: &Spec, case: Case<'_>) -> Judged<Resource> {
        Ok(match spec {
            Spec::Vpc(spec) => Resource::Vpc(self.judge_vpc(spec, case)?),
            Spec::VSwitch(spec) => Resource::VSwitch(self.judge_vswitch(spec, case)?),
            Spec::Gateway(spec) => Resource::Gateway(self.judge_gateway(spec, case)?),
            Spec::Eip(spec) => Resource::Eip(self.judge_eip(spec, case)?),
            Spec::Dnat(spec) => Resource::Dnat(self.judge_dnat(spec, case)?),
            Spec::Snat(spec) => Resource::Snat(self.judge_snat(spec, case)?),
        })
    }

    /// The resource that a text stands for: its identifier, the address of an EIP, or a name that only one has.
    pub fn resolve(&self, kind: Kind, parameter: &str, text: &str) -> Judged<Id> {
        self.resolve_among(kind, parameter, text, |_| true)
    }

    /// The same among some of the resources.
    fn resolve_among(
        &self,
        kind: Kind,
        parameter: &str,
        text: &str,
        among: impl Fn(Id) -> bool,
    ) -> Judged<Id> {
        let missing = || Refusal::new(Code::NotFound, parameter).value(text);
        if let Ok(id) = text.parse::<Id>() {
            return if id.kind() == kind && self.resources.contains_key(&id) {
                Ok(id)
            } else {
                Err(missing().hint(format!("there is no {kind} with this identifier")))
            };
        }
        if kind == Kind::Eip
            && let Ok(address) = text.parse::<Ipv4Addr>()
        {
            return self
                .addresses
                .get(&address)
                .copied()
                .ok_or_else(|| missing().hint("no EIP has this address"));
        }
        let named = Name::new(text).and_then(|name| self.names.get(&(kind, name)));
        let mut named = named.into_iter().flatten().copied().filter(|id| among(*id));
        match (named.next(), named.next()) {
            (Some(id), None) => Ok(id),
            (Some(first), Some(second)) => Err(Refusal::new(Code::AmbiguousName, parameter)
                .value(text)
                .conflict(first)
                .conflict(second)
                .hint("say which by its identifier")),
            (None, _) => Err(missing().hint(format!("there is no {kind} of this name"))),
        }
    }

    fn within_quota(
        &self,
        case: Case<'_>,
        target: Id,
        code: Code,
        parameter: &str,
        quota: u32,
        key: &str,
    ) -> Judged<()> {
        // What stood there before stays there, even where the quota has shrunk.
        let stood = case.before.is_some_and(|before| before.references().contains(&target));
        if stood || case.beside == Beside::Earlier {
            return Ok(());
        }
        let itself = u32::from(self.references.contains(&(target, case.id)));
        if self.count(target, case.id.kind()) - itself < quota {
            return Ok(());
        }
        let hint = format!(
            "it has {quota} already; delete one, or raise {key} in [quotas] of the configuration file"
        );
        Err(Refusal::new(code, parameter).value(target).hint(hint))
    }

    fn judge_vpc(&self, spec: &VpcSpec, case: Case<'_>) -> Judged<Vpc> {
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

    fn judge_vswitch(&self, spec: &VSwitchSpec, case: Case<'_>) -> Judged<VSwitch> {
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

    fn judge_gateway(&self, spec: &GatewaySpec, case: Case<'_>) -> Judged<Gateway> {
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

    fn judge_eip(&self, spec: &EipSpec, case: Case<'_>) -> Judged<Eip> {
        let before = case.before.and_then(|r| if let Resource::Eip(eip) = r { Some(eip) } else { None });
        let bandwidth = optional("bandwidth", spec.bandwidth.as_deref(), values::rate)?;
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
        Ok(Eip { meta: meta!(case, spec)?, address, gateway, ping: spec.ping.unwrap_or(true), bandwidth })
    }

    /// The gateway of an entry, which does not change.
    fn entry_gateway(&self, text: Option<&str>, before: Option<&Id>) -> Judged<&Gateway> {
        let text = required("gateway", text)?;
        let id = self.resolve(Kind::Gateway, "gateway", text)?;
        unchanged("gateway", text, before, &id)?;
        self.gateway(id).ok_or_else(|| Refusal::new(Code::NotFound, "gateway").value(text))
    }

    /// An EIP that a gateway's entry may use.
    fn entry_eip(&self, parameter: &str, text: &str, gateway: Id) -> Judged<&Eip> {
        let id = self.resolve(Kind::Eip, parameter, text)?;
        let eip = self.eip(id).ok_or_else(|| Refusal::new(Code::NotFound, parameter).value(text))?;
        if eip.gateway == Some(gateway) {
            return Ok(eip);
        }
        let hint = match eip.gateway {
            Some(other) => format!("the EIP is bound to {other}"),
            None => "bind the EIP to the gateway first".to_owned(),
        };
        Err(Refusal::new(Code::EipNotBound, parameter).value(text).conflict(id).hint(hint))
    }

    fn judge_dnat(&self, spec: &DnatSpec, case: Case<'_>) -> Judged<Dnat> {
        let before = case.before.and_then(|r| if let Resource::Dnat(entry) = r { Some(entry) } else { None });
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
                if let Some(other) = self.public.owner((eip, number), public, id) {
                    let hint = "use another public port, protocol or EIP";
                    let value = text(public.first, public.last);
                    return taken(Code::DnatPortConflict, "public_port", &value, other, hint);
                }
                let last = private_first + (public.last - public.first);
                let private = PortRange { first: private_first, last };
                if let Some(other) = self.private.owner((entry.gateway, host, number), private, id) {
                    let hint = "use another private port or private IP, or another gateway";
                    let value = text(private_first, last);
                    return taken(Code::DnatPrivateConflict, "private_port", &value, other, hint);
                }
            }
        }
        Ok(())
    }

    fn judge_timeouts(&self, spec: Option<&TimeoutSpec>) -> Judged<TimeoutOverrides> {
        let Some(spec) = spec else { return Ok(TimeoutOverrides::default()) };
        let value = |key: &str, text: &Option<String>| {
            optional(&format!("timeouts.{key}"), text.as_deref(), values::timeout)
        };
        let own = TimeoutOverrides {
            tcp_established: value("tcp_established", &spec.tcp_established)?,
            tcp_transitory: value("tcp_transitory", &spec.tcp_transitory)?,
            udp: value("udp", &spec.udp)?,
            icmp: value("icmp", &spec.icmp)?,
            other: value("other", &spec.other)?,
        };
        let profile =
            optional("timeouts.profile", spec.profile.as_deref(), values::choice(&values::PROFILES))?;
        let own = profile.map_or(own, |profile| own.or(TimeoutOverrides::all(profile)));
        let all = own.over(self.settings.timeouts());
        if all.tcp_established < all.tcp_transitory {
            return Err(Refusal::new(Code::TimeoutOrder, "timeouts"));
        }
        Ok(own)
    }

    fn judge_snat(&self, spec: &SnatSpec, case: Case<'_>) -> Judged<Snat> {
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
        let ports = optional("ports", scalar(spec.ports.as_ref()), values::port_range)?;
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
            ports: ports.unwrap_or(PortRange::ALL),
            untranslated,
            timeouts: self.judge_timeouts(spec.timeouts.as_ref())?,
        })
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
