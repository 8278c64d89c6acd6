//! What one configuration changes about another, in words.

use std::fmt;
use std::hash::Hash;
use std::net::Ipv4Addr;

use hashbrown::{HashMap, HashSet};
use serde::Serialize;

use super::model::{
    Backend, Dnat, Eip, Forward, Gateway, Link, Model, Outside, Plan, Port, SegmentSize, Snat, StaticRoute,
    Transport, VSwitch, Vpc,
};
use super::settings::{Idle, TimeoutOverrides, WorkerFailure, Workers};
use super::units::{format_duration, format_rate};
use super::words::{Description, Name, Vlan};
use crate::base::{PortIndex, Tick};
use crate::policy::{Allocation, Filtering, Mapping, Prefix, Timeouts};

/// What happens to a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It was not there before.
    Added,
    /// It stays, and is not the same.
    Changed,
    /// It is no more.
    Removed,
}

/// A key that has another value than before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The key.
    pub key: &'static str,
    /// The value before; none if it had none.
    pub old: Option<String>,
    /// The value after; none if it has none.
    pub new: Option<String>,
}

/// A resource that is added, changed or removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What happens to it.
    pub action: Action,
    /// Its kind, as the file's table is called.
    pub kind: &'static str,
    /// What it is called.
    pub name: String,
    /// What it is, in a few words; what it was, if it is removed.
    pub summary: String,
    /// If it is changed, what of it.
    pub differences: Vec<Difference>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.action {
            Action::Added => '+',
            Action::Changed => '~',
            Action::Removed => '-',
        };
        write!(f, "{sign} {}", self.kind)?;
        if !self.name.is_empty() {
            write!(f, " {}", self.name)?;
        }
        if self.action != Action::Changed {
            return if self.summary.is_empty() { Ok(()) } else { write!(f, ": {}", self.summary) };
        }
        for (i, difference) in self.differences.iter().enumerate() {
            let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
            let separator = if i == 0 { ": " } else { "; " };
            write!(
                f,
                "{separator}{} {} -> {}",
                difference.key,
                text(&difference.old),
                text(&difference.new)
            )?;
        }
        Ok(())
    }
}

/// All that changes when `old` becomes `new`: settings first, then resources in the order of the file, removed ones last
/// of their kind. Empty if nothing does.
pub fn diff(old: &Model, new: &Model) -> Vec<Change> {
    let models = [old, new];
    let mut changes = Vec::new();
    settings(models, &mut changes);
    compare(models, &ports_kind(), &mut changes);
    compare(models, &outside_kind(), &mut changes);
    compare(models, &vpcs_kind(), &mut changes);
    compare(models, &vswitches_kind(), &mut changes);
    compare(models, &gateways_kind(), &mut changes);
    compare(models, &plans_kind(), &mut changes);
    compare(models, &eips_kind(), &mut changes);
    compare(models, &dnat_kind(), &mut changes);
    compare(models, &snat_kind(), &mut changes);
    changes
}

type Fields = Vec<(&'static str, Option<String>)>;

/// How resources of one kind are compared. `I` is what makes a resource the same one in two models.
struct Kind<'m, I, T> {
    table: &'static str,
    items: fn(&'m Model) -> Vec<(I, T)>,
    name: fn(&'m Model, T) -> String,
    summary: fn(T) -> String,
    fields: fn(&'m Model, T) -> Fields,
}

fn compare<'m, I: Eq + Hash + Copy, T: Copy + PartialEq>(
    [old, new]: [&'m Model; 2],
    kind: &Kind<'m, I, T>,
    changes: &mut Vec<Change>,
) {
    let change = |action, model, item, differences| Change {
        action,
        kind: kind.table,
        name: (kind.name)(model, item),
        summary: (kind.summary)(item),
        differences,
    };
    let (before, after) = ((kind.items)(old), (kind.items)(new));
    let known: HashMap<I, T> = before.iter().copied().collect();
    let kept: HashSet<I> = after.iter().map(|(id, _)| *id).collect();
    for (id, item) in after {
        match known.get(&id) {
            None => changes.push(change(Action::Added, new, item, Vec::new())),
            Some(before) if *before == item => {}
            Some(before) => {
                let differences = differences((kind.fields)(old, *before), (kind.fields)(new, item));
                if !differences.is_empty() {
                    changes.push(change(Action::Changed, new, item, differences));
                }
            }
        }
    }
    let gone = before.into_iter().filter(|(id, _)| !kept.contains(id));
    changes.extend(gone.map(|(_, item)| change(Action::Removed, old, item, Vec::new())));
}

fn differences(old: Fields, new: Fields) -> Vec<Difference> {
    let pairs = old.into_iter().zip(new);
    pairs
        .filter(|(old, new)| old.1 != new.1)
        .map(|(old, new)| Difference { key: new.0, old: old.1, new: new.1 })
        .collect()
}

fn settings([old, new]: [&Model; 2], changes: &mut Vec<Change>) {
    for (kind, old, new) in [
        ("system", system(old), system(new)),
        ("timeouts", timeouts(old.timeouts()), timeouts(new.timeouts())),
        ("quotas", quotas(old), quotas(new)),
    ] {
        let differences = differences(old, new);
        if !differences.is_empty() {
            changes.push(Change {
                action: Action::Changed,
                kind,
                name: String::new(),
                summary: String::new(),
                differences,
            });
        }
    }
}

pub(super) fn workers(workers: &Workers) -> String {
    match workers {
        Workers::PerCore => "one per core, less the first".to_owned(),
        Workers::Count(count) => count.to_string(),
        Workers::Cores(cores) => format!("on cores {}", list(cores.iter())),
    }
}

pub(super) fn idle(idle: Option<Idle>) -> String {
    match idle {
        None => "as the back ends need",
        Some(Idle::Poll) => "poll",
        Some(Idle::Sleep) => "sleep",
    }
    .to_owned()
}

pub(super) fn worker_failure(failure: WorkerFailure) -> String {
    match failure {
        WorkerFailure::Restart => "restart",
        WorkerFailure::Exit => "exit",
    }
    .to_owned()
}

pub(super) fn backend(backend: &Backend) -> String {
    let shared = |share: bool| if share { ", shared" } else { "" };
    match backend {
        Backend::Auto { device, share } => format!("auto on {device}{}", shared(*share)),
        Backend::AfXdp { device, share } => format!("af_xdp on {device}{}", shared(*share)),
        Backend::AfPacket { device } => format!("af_packet on {device}"),
        Backend::Dpdk { device, promiscuous } => {
            format!("dpdk on {device}{}", if *promiscuous { ", promiscuous" } else { "" })
        }
        Backend::Capsule { device } => format!("capsule on {device}"),
        Backend::Pcap { replay, capture, mac } => {
            let path = |path: &Option<std::path::PathBuf>| {
                path.as_ref().map_or("nothing".to_owned(), |path| path.display().to_string())
            };
            let mac: Vec<String> = mac.iter().map(|octet| format!("{octet:02x}")).collect();
            format!("pcap from {} to {}, {}", path(replay), path(capture), mac.join(":"))
        }
    }
}

fn list<T: ToString>(items: impl Iterator<Item = T>) -> String {
    items.map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

fn some_list<T: ToString>(items: impl Iterator<Item = T>) -> Option<String> {
    Some(list(items)).filter(|text| !text.is_empty())
}

fn system(model: &Model) -> Fields {
    let s = model.system();
    vec![
        ("workers", Some(workers(&s.workers))),
        ("sessions", Some(s.sessions.to_string())),
        ("neighbours", Some(s.neighbours.to_string())),
        ("snat_eips", Some(s.snat_eips.to_string())),
        ("buffers", s.buffers.map(|buffers| buffers.to_string())),
        ("buffer_size", Some(s.buffer_size.to_string())),
        ("idle", Some(idle(s.idle))),
        ("worker_failure", Some(worker_failure(s.worker_failure))),
        ("control", Some(s.control.display().to_string())),
        ("log", Some(s.log.to_string().to_lowercase())),
    ]
}

fn timeouts(timeouts: Timeouts) -> Fields {
    let text =
        |ticks: u32| Some(format_duration(std::time::Duration::from_nanos(u64::from(ticks) * Tick::NANOS)));
    vec![
        ("tcp_established", text(timeouts.tcp_established)),
        ("tcp_transitory", text(timeouts.tcp_transitory)),
        ("udp", text(timeouts.udp)),
        ("icmp", text(timeouts.icmp)),
        ("other", text(timeouts.other)),
        ("tcp_reset", Some(timeouts.tcp_reset.to_string())),
    ]
}

fn quotas(model: &Model) -> Fields {
    let q = model.quotas();
    vec![
        ("dnat_entries_per_gateway", Some(q.dnat_entries_per_gateway.to_string())),
        ("snat_entries_per_gateway", Some(q.snat_entries_per_gateway.to_string())),
        ("eips_per_gateway", Some(q.eips_per_gateway.to_string())),
        ("gateways_per_vpc", Some(q.gateways_per_vpc.to_string())),
    ]
}

fn name_field(name: Option<&Name>) -> (&'static str, Option<String>) {
    ("name", name.map(Name::to_string))
}

fn description_field(description: Option<&Description>) -> (&'static str, Option<String>) {
    ("description", description.map(|d| d.as_str().to_owned()))
}

fn timeouts_field(timeouts: &TimeoutOverrides) -> (&'static str, Option<String>) {
    ("timeouts", Some(timeouts.to_string()).filter(|text| !text.is_empty()))
}

fn routes(routes: &[StaticRoute]) -> Option<String> {
    some_list(routes.iter().map(|route| format!("{} via {}", route.to, route.via)))
}

fn port_name(model: &Model, port: PortIndex) -> String {
    model.ports().get(port.index()).map_or_else(|| port.to_string(), |port| port.name.to_string())
}

/// The name of an interface: its port's, and its VLAN if it has one.
pub(super) fn interface_name(model: &Model, link: &Link) -> String {
    let port = port_name(model, link.port);
    link.vlan.map_or_else(|| port.clone(), |vlan| format!("{port}.{}", vlan.get()))
}

fn ports_kind<'m>() -> Kind<'m, &'m Name, &'m Port> {
    Kind {
        table: "port",
        items: |model| model.ports().iter().map(|port| (&port.name, port)).collect(),
        name: |_, port| port.name.to_string(),
        summary: |port| backend(&port.backend),
        fields: |_, port| vec![("backend", Some(backend(&port.backend)))],
    }
}

fn outside_address(outside: &Outside) -> String {
    format!("{}/{}", outside.link.address, outside.prefix.len())
}

fn outside_kind<'m>() -> Kind<'m, (PortIndex, Option<Vlan>), &'m Outside> {
    Kind {
        table: "outside",
        items: |model| model.outside().iter().map(|o| ((o.link.port, o.link.vlan), o)).collect(),
        name: |model, outside| interface_name(model, &outside.link),
        summary: outside_address,
        fields: |_, outside| {
            vec![
                ("address", Some(outside_address(outside))),
                ("gateway", outside.gateway.map(|gateway| gateway.to_string())),
                ("routes", routes(&outside.routes)),
                ("mtu", outside.link.mtu.map(|mtu| mtu.to_string())),
                (
                    "tcp_mss",
                    outside.tcp_mss.map(|size| match size {
                        SegmentSize::Mtu => "mtu".to_owned(),
                        SegmentSize::Bytes(bytes) => bytes.to_string(),
                    }),
                ),
                ("public", some_list(outside.public.iter())),
            ]
        },
    }
}

fn vpcs_kind<'m>() -> Kind<'m, &'m Name, &'m Vpc> {
    Kind {
        table: "vpc",
        items: |model| model.vpcs().iter().map(|vpc| (&vpc.name, vpc)).collect(),
        name: |_, vpc| vpc.name.to_string(),
        summary: |vpc| vpc.cidr.to_string(),
        fields: |_, vpc| {
            vec![
                ("cidr", Some(vpc.cidr.to_string())),
                ("routes", routes(&vpc.routes)),
                description_field(vpc.description.as_ref()),
            ]
        },
    }
}

type InVpc<'m> = (&'m Name, &'m VSwitch);

fn vswitches_kind<'m>() -> Kind<'m, (&'m Name, &'m Name), InVpc<'m>> {
    Kind {
        table: "vswitch",
        items: |model| {
            let vpcs = model.vpcs().iter();
            vpcs.flat_map(|vpc| vpc.vswitches.iter().map(|v| ((&vpc.name, &v.name), (&vpc.name, v))))
                .collect()
        },
        name: |_, (vpc, vswitch)| format!("{vpc}/{}", vswitch.name),
        summary: |(_, vswitch)| vswitch.cidr.to_string(),
        fields: |model, (_, vswitch)| {
            let link = vswitch.link.as_ref();
            vec![
                ("cidr", Some(vswitch.cidr.to_string())),
                ("interface", link.map(|link| interface_name(model, link))),
                ("address", link.map(|link| link.address.to_string())),
                ("mtu", link.and_then(|link| Some(link.mtu?.to_string()))),
                description_field(vswitch.description.as_ref()),
            ]
        },
    }
}

fn gateways_kind<'m>() -> Kind<'m, &'m Name, &'m Gateway> {
    Kind {
        table: "gateway",
        items: |model| model.gateways().iter().map(|gateway| (&gateway.name, gateway)).collect(),
        name: |_, gateway| gateway.name.to_string(),
        summary: |gateway| format!("in {}/{}", gateway.vpc, gateway.vswitch),
        fields: |_, gateway| {
            let host_sessions =
                gateway.host_sessions.map_or("unlimited".to_owned(), |quota| quota.to_string());
            vec![
                ("vpc", Some(gateway.vpc.to_string())),
                ("vswitch", Some(gateway.vswitch.to_string())),
                ("specification", Some(gateway.specification.to_string())),
                ("host_sessions", Some(host_sessions)),
                ("deletion_protection", Some(gateway.deletion_protection.to_string())),
                description_field(gateway.description.as_ref()),
            ]
        },
    }
}

fn plans_kind<'m>() -> Kind<'m, &'m Name, &'m Plan> {
    Kind {
        table: "plan",
        items: |model| model.plans().iter().map(|plan| (&plan.name, plan)).collect(),
        name: |_, plan| plan.name.to_string(),
        summary: |plan| format_rate(plan.bandwidth),
        fields: |_, plan| {
            vec![
                ("bandwidth", Some(format_rate(plan.bandwidth))),
                description_field(plan.description.as_ref()),
            ]
        },
    }
}

fn eips_kind<'m>() -> Kind<'m, Ipv4Addr, &'m Eip> {
    Kind {
        table: "eip",
        items: |model| model.eips().iter().map(|eip| (eip.address, eip)).collect(),
        name: |_, eip| eip.address.to_string(),
        summary: |eip| {
            eip.gateway.as_ref().map_or("not bound".to_owned(), |gateway| format!("bound to {gateway}"))
        },
        fields: |model, eip| {
            let outside = model.outside().get(eip.outside);
            vec![
                ("gateway", eip.gateway.as_ref().map(Name::to_string)),
                ("ping", Some(eip.ping.to_string())),
                ("bandwidth", eip.bandwidth.map(format_rate)),
                ("plan", eip.plan.as_ref().map(Name::to_string)),
                ("interface", outside.map(|outside| interface_name(model, &outside.link))),
                name_field(eip.name.as_ref()),
                description_field(eip.description.as_ref()),
            ]
        },
    }
}

/// An entry is the same one as long as its EIP, protocol and first public port are.
type DnatId = (Ipv4Addr, Option<(Transport, u16)>);

fn dnat_kind<'m>() -> Kind<'m, DnatId, &'m Dnat> {
    Kind {
        table: "dnat",
        items: |model| {
            let id = |entry: &Dnat| match entry.forward {
                Forward::AnyPort => (entry.eip, None),
                Forward::Ports { protocol, public, .. } => (entry.eip, Some((protocol, public.first))),
            };
            model.dnat().iter().map(|entry| (id(entry), entry)).collect()
        },
        name: |_, entry| entry.label(),
        summary: |entry| entry.effect().to_string(),
        fields: |_, entry| {
            vec![
                ("gateway", Some(entry.gateway.to_string())),
                ("public", Some(entry.public_side())),
                ("private", Some(entry.private_side())),
                timeouts_field(&entry.timeouts),
                name_field(entry.name.as_ref()),
                description_field(entry.description.as_ref()),
            ]
        },
    }
}

fn snat_kind<'m>() -> Kind<'m, (&'m Name, Prefix), &'m Snat> {
    Kind {
        table: "snat",
        items: |model| model.snat().iter().map(|entry| ((&entry.gateway, entry.prefix), entry)).collect(),
        name: |_, entry| entry.label(),
        summary: |entry| entry.effect().to_string(),
        fields: |_, entry| {
            let mapping = match entry.mapping {
                Mapping::EndpointIndependent => "endpoint-independent",
                Mapping::EndpointDependent => "endpoint-dependent",
            };
            let filtering = match entry.filtering {
                Filtering::EndpointIndependent => "endpoint-independent",
                Filtering::AddressDependent => "address-dependent",
                Filtering::AddressAndPortDependent => "address-and-port-dependent",
            };
            vec![
                ("source", Some(entry.source.to_string())),
                ("eips", Some(list(entry.eips.iter()))),
                ("mapping", Some(mapping.to_owned())),
                ("filtering", Some(filtering.to_owned())),
                ("ports", Some(format!("{}/{}", entry.ports.first, entry.ports.last))),
                ("port_blocks", entry.allocation.block_size().map(|size| size.to_string())),
                (
                    "blocks_per_host",
                    match entry.allocation {
                        Allocation::Blocks { per_host, .. } => Some(per_host.to_string()),
                        _ => None,
                    },
                ),
                (
                    "deterministic",
                    Some(matches!(entry.allocation, Allocation::Deterministic { .. }).to_string()),
                ),
                ("ftp", Some(entry.ftp.to_string())),
                ("untranslated", some_list(entry.untranslated.iter())),
                timeouts_field(&entry.timeouts),
                name_field(entry.name.as_ref()),
                description_field(entry.description.as_ref()),
            ]
        },
    }
}
