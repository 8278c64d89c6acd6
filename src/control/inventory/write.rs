//! From resources to specifications.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::Inventory;
use super::resource::{Meta, Resource, Source};
use super::spec::{
    DnatSpec, EipSpec, GatewaySpec, PlanSpec, RouteSpec, Scalar, SnatSpec, Spec, TimeoutSpec, VSwitchSpec,
    VpcSpec,
};
use crate::config::units::{format_duration, format_rate};
use crate::config::values::{FILTERS, MAPPINGS};
use crate::config::{Forward, Name, Specification, TimeoutOverrides, Transport};
use crate::control::time;
use crate::policy::{Allocation, PortRange, Prefix};

/// Fills in what every specification has.
macro_rules! with_meta {
    ($type:ident, $meta:expr, $status:expr, { $($field:ident: $value:expr),* $(,)? }) => {{
        let Meta { id, name, description, tags, created } = $meta;
        $type {
            id: Some(id.to_string()),
            name: name.as_ref().map(Name::to_string),
            description: description.as_ref().map(|text| text.as_str().to_owned()),
            tags: (!tags.is_empty()).then(|| tags.clone()),
            status: Some($status.to_owned()),
            created_at: Some(time::format(*created)),
            $($field: $value,)*
        }
    }};
}

#[allow(
    clippy::needless_pass_by_value,
    clippy::unnecessary_wraps,
    reason = "what stands in specifications is optional"
)]
fn text(value: impl ToString) -> Option<String> {
    Some(value.to_string())
}

#[allow(
    clippy::needless_pass_by_value,
    clippy::unnecessary_wraps,
    reason = "what stands in specifications is optional"
)]
fn scalar(value: impl ToString) -> Option<Scalar> {
    Some(Scalar(value.to_string()))
}

fn range(range: PortRange) -> String {
    if range.first == range.last {
        range.first.to_string()
    } else {
        format!("{}/{}", range.first, range.last)
    }
}

fn word<T: PartialEq + Copy>(words: &[(&str, T)], value: T) -> Option<String> {
    words.iter().find(|(_, known)| *known == value).map(|(word, _)| (*word).to_owned())
}

fn timeouts(overrides: TimeoutOverrides) -> Option<TimeoutSpec> {
    let duration = |value: Option<Duration>| value.map(format_duration);
    let spec = TimeoutSpec {
        profile: None,
        tcp_established: duration(overrides.tcp_established),
        tcp_transitory: duration(overrides.tcp_transitory),
        udp: duration(overrides.udp),
        icmp: duration(overrides.icmp),
        other: duration(overrides.other),
        tcp_reset: overrides.tcp_reset,
    };
    (spec != TimeoutSpec::default()).then_some(spec)
}

impl Inventory {
    /// A resource as it is written.
    pub fn specify(&self, resource: &Resource) -> Spec {
        const AVAILABLE: &str = "Available";
        match resource {
            Resource::Vpc(vpc) => {
                let routes = vpc.routes.iter();
                let routes: Vec<_> =
                    routes.map(|r| RouteSpec { to: r.to.to_string(), via: r.via.to_string() }).collect();
                Spec::Vpc(with_meta!(VpcSpec, &vpc.meta, AVAILABLE, {
                    cidr: text(vpc.cidr),
                    routes: (!routes.is_empty()).then_some(routes),
                }))
            }
            Resource::VSwitch(vswitch) => {
                let link = vswitch.link.as_ref();
                let ports = self.settings.ports();
                Spec::VSwitch(with_meta!(VSwitchSpec, &vswitch.meta, AVAILABLE, {
                    vpc: text(vswitch.vpc),
                    cidr: text(vswitch.cidr),
                    port: link.and_then(|link| text(&ports.get(link.port.index())?.name)),
                    vlan: link.and_then(|link| scalar(link.vlan?.get())),
                    address: link.and_then(|link| text(link.address)),
                    mtu: link.and_then(|link| scalar(link.mtu?)),
                }))
            }
            Resource::Gateway(gateway) => {
                let id = gateway.meta.id;
                let (name, limits) = match gateway.specification {
                    Specification::PayByLcu { sessions, new_per_second } => {
                        ("PayByLcu".to_owned(), Some((sessions, new_per_second)))
                    }
                    fixed => (fixed.to_string(), None),
                };
                Spec::Gateway(with_meta!(GatewaySpec, &gateway.meta, AVAILABLE, {
                    vpc: text(gateway.vpc),
                    vswitch: text(gateway.vswitch),
                    specification: Some(name),
                    sessions: limits.and_then(|(sessions, _)| scalar(sessions)),
                    new_sessions_per_second: limits.and_then(|(_, rate)| scalar(rate)),
                    host_sessions: gateway.host_sessions.map_or_else(|| scalar("unlimited"), scalar),
                    deletion_protection: Some(gateway.deletion_protection),
                    dnat_table: Some(format!("ftb-{}", id.suffix())),
                    snat_table: Some(format!("stb-{}", id.suffix())),
                }))
            }
            Resource::Plan(plan) => Spec::Plan(with_meta!(PlanSpec, &plan.meta, AVAILABLE, {
                bandwidth: text(format_rate(plan.bandwidth)),
            })),
            Resource::Eip(eip) => {
                let status = if eip.gateway.is_some() { "InUse" } else { AVAILABLE };
                Spec::Eip(with_meta!(EipSpec, &eip.meta, status, {
                    address: text(eip.address),
                    gateway: eip.gateway.and_then(text),
                    ping: Some(eip.ping),
                    bandwidth: eip.bandwidth.map(format_rate),
                    plan: eip.plan.and_then(text),
                }))
            }
            Resource::Dnat(entry) => {
                let (public, private) = (entry.public_range(), entry.private_range());
                let protocol = match entry.forward {
                    Forward::AnyPort => "Any",
                    Forward::Ports { protocol: Transport::Tcp, .. } => "TCP",
                    Forward::Ports { protocol: Transport::Udp, .. } => "UDP",
                };
                let ports = |side: Option<(u8, PortRange)>| {
                    side.map_or_else(|| scalar("Any"), |(_, ports)| scalar(range(ports)))
                };
                Spec::Dnat(with_meta!(DnatSpec, &entry.meta, AVAILABLE, {
                    gateway: text(entry.gateway),
                    eip: text(entry.eip),
                    public_port: ports(public),
                    private_ip: text(entry.private_ip),
                    private_port: ports(private),
                    protocol: text(protocol),
                    timeouts: timeouts(entry.timeouts),
                    public_ip: text(entry.address),
                }))
            }
            Resource::Snat(entry) => {
                let source = match entry.source {
                    Source::Host(host) => host.to_string(),
                    Source::Cidr(prefix) => prefix.to_string(),
                    Source::VSwitch(id) => format!("vswitch:{id}"),
                    Source::Vpc => "vpc".to_owned(),
                };
                let untranslated: Vec<_> = entry.untranslated.iter().map(Prefix::to_string).collect();
                Spec::Snat(with_meta!(SnatSpec, &entry.meta, AVAILABLE, {
                    gateway: text(entry.gateway),
                    source: Some(source),
                    eips: Some(entry.eips.iter().map(|(id, _)| id.to_string()).collect()),
                    mapping: word(&MAPPINGS, entry.mapping),
                    filtering: word(&FILTERS, entry.filtering),
                    ports: scalar(range(entry.ports)),
                    port_blocks: entry.allocation.block_size().and_then(scalar),
                    blocks_per_host: match entry.allocation {
                        Allocation::Blocks { per_host, .. } => scalar(per_host),
                        _ => None,
                    },
                    deterministic: matches!(entry.allocation, Allocation::Deterministic { .. }).then_some(true),
                    ftp: entry.ftp.then_some(true),
                    untranslated: (!untranslated.is_empty()).then_some(untranslated),
                    timeouts: timeouts(entry.timeouts),
                    public_ips: Some(entry.eips.iter().map(|(_, address): &(_, Ipv4Addr)| address.to_string()).collect()),
                }))
            }
        }
    }
}
