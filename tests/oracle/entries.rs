//! Configurations that somebody might make.

use std::net::Ipv4Addr;

use natgate::policy::{Filtering, Limits, Mapping, PortRange, Prefix, Timeouts};
use proptest::prelude::*;
use proptest::sample::select;

use crate::support::config::{EipConfig, prefix};
use crate::support::packet::{TCP, UDP};
use crate::support::{Config, Dnat, Ports, Snat};
use crate::{EIPS, HOSTS, port};

/// An entry that somebody might configure; it is left out where it breaks a rule of the product.
#[derive(Clone, Debug)]
pub enum Proposal {
    AnyPort { vpc: usize, eip: usize, host: usize },
    Forward { vpc: usize, eip: usize, host: usize, protocol: u8, public: u16, private: u16, count: u16 },
    Snat { vpc: usize, source: Prefix, pool: Vec<usize>, how: How },
}

#[derive(Clone, Debug)]
pub struct How {
    mapping: Mapping,
    filtering: Filtering,
    ports: PortRange,
    exempt: bool,
    host_quota: u32,
}

fn owner_of(config: &Config, eip: Ipv4Addr) -> Option<usize> {
    let dnat = config.dnat.iter().find(|d| d.eip == eip).map(|d| d.vpc);
    dnat.or_else(|| config.snat.iter().find(|s| s.pool.contains(&eip)).map(|s| s.vpc))
}

impl Proposal {
    /// Adds the entry if the rules allow it.
    fn apply(&self, config: &mut Config) {
        match self {
            Self::AnyPort { vpc, eip, host } => {
                let (eip, host) = (EIPS[*eip], HOSTS[*host]);
                let host_has_one =
                    config.dnat.iter().any(|d| (d.vpc, d.host, d.ports) == (*vpc, host, Ports::Any));
                if owner_of(config, eip).is_none() && !host_has_one {
                    config.dnat.push(Dnat {
                        eip,
                        vpc: *vpc,
                        host,
                        ports: Ports::Any,
                        timeouts: Timeouts::RFC,
                    });
                }
            }
            Self::Forward { vpc, eip, host, protocol, public, private, count } => {
                let (eip, host) = (EIPS[*eip], HOSTS[*host]);
                let count = (*count).min(u16::MAX - (*public).max(*private));
                let (protocol, public, private) = (*protocol, *public, *private);
                let overlaps =
                    |a: u16, b: u16, n: u16| a < b.saturating_add(n) && b < a.saturating_add(count);
                let conflict = config.dnat.iter().any(|d| match d.ports {
                    Ports::Any => d.eip == eip,
                    Ports::Range { protocol: p, public: other, private: other_private, count: n } => {
                        p == protocol
                            && (d.eip == eip && overlaps(public, other, n)
                                || (d.vpc, d.host) == (*vpc, host) && overlaps(private, other_private, n))
                    }
                });
                if count > 0 && !conflict && owner_of(config, eip).is_none_or(|owner| owner == *vpc) {
                    let ports = Ports::Range { protocol, public, private, count };
                    config.dnat.push(Dnat { eip, vpc: *vpc, host, ports, timeouts: Timeouts::RFC });
                }
            }
            Self::Snat { vpc, source, pool, how } => {
                let usable = |eip: &Ipv4Addr| {
                    !config.dnat.iter().any(|d| d.eip == *eip && d.ports == Ports::Any)
                        && owner_of(config, *eip).is_none_or(|owner| owner == *vpc)
                };
                let mut pool: Vec<_> = pool.iter().map(|eip| EIPS[*eip]).filter(usable).collect();
                pool.sort();
                pool.dedup();
                let same = config.snat.iter().any(|s| (s.vpc, s.source) == (*vpc, *source));
                if !pool.is_empty() && !same {
                    config.snat.push(Snat {
                        vpc: *vpc,
                        source: *source,
                        pool,
                        mapping: how.mapping,
                        filtering: how.filtering,
                        ports: how.ports,
                        allocation: natgate::policy::Allocation::Ports,
                        untranslated: if how.exempt { vec![prefix("192.0.2.0/24")] } else { vec![] },
                        timeouts: Timeouts::RFC,
                        host_quota: how.host_quota,
                        ftp: false,
                    });
                }
            }
        }
    }
}

pub fn configuration(proposals: &[Proposal], session_limit: u64) -> Config {
    let mut config = Config::new().vpc(20);
    config.eips = EIPS
        .iter()
        .map(|address| EipConfig {
            address: *address,
            ping: address.octets()[3] % 2 == 0,
            bandwidth: None,
            plan: None,
        })
        .collect();
    for vpc in &mut config.vpcs {
        vpc.limits = Limits { sessions: session_limit, ..Limits::UNLIMITED };
    }
    for proposal in proposals {
        proposal.apply(&mut config);
    }
    config
}

fn how(ports: Vec<PortRange>) -> impl Strategy<Value = How> {
    let mapping = prop_oneof![3 => Just(Mapping::EndpointIndependent), 1 => Just(Mapping::EndpointDependent)];
    let filtering = prop_oneof![
        2 => Just(Filtering::EndpointIndependent),
        1 => Just(Filtering::AddressDependent),
        1 => Just(Filtering::AddressAndPortDependent),
    ];
    let host_quota = prop_oneof![4 => Just(u32::MAX), 1 => 1..4_u32];
    (mapping, filtering, select(ports), any::<bool>(), host_quota).prop_map(
        |(mapping, filtering, ports, exempt, host_quota)| How {
            mapping,
            filtering,
            ports,
            exempt,
            host_quota,
        },
    )
}

/// `roomy` leaves out port ranges that could be exhausted.
pub fn proposal(roomy: bool) -> impl Strategy<Value = Proposal> {
    let mut ranges = vec![PortRange { first: 1024, last: 65535 }, PortRange::ALL];
    if !roomy {
        ranges.push(PortRange { first: 4000, last: 4002 });
        ranges.push(PortRange { first: 1022, last: 1025 });
    }
    let sources = ["10.0.0.0/16", "10.0.0.0/24", "10.0.1.0/24", "10.0.0.2/32", "10.0.1.3/32"];
    let vpc = || prop_oneof![3 => Just(0), 1 => Just(1)];
    let eip = || 0..EIPS.len();
    let forward =
        (vpc(), eip(), 0..HOSTS.len(), select(vec![TCP, UDP]), port(), port(), select(vec![1, 1, 2, 100]));
    prop_oneof![
        1 => (vpc(), eip(), 0..HOSTS.len()).prop_map(|(vpc, eip, host)| Proposal::AnyPort { vpc, eip, host }),
        2 => forward.prop_map(|(vpc, eip, host, protocol, public, private, count)| Proposal::Forward {
            vpc, eip, host, protocol, public, private, count,
        }),
        3 => (vpc(), select(sources.map(prefix).to_vec()), prop::collection::vec(eip(), 1..3), how(ranges))
            .prop_map(|(vpc, source, pool, how)| Proposal::Snat { vpc, source, pool, how }),
    ]
}

/// A configuration in a line for each entry.
pub fn describe(config: &Config) -> String {
    let limits: Vec<_> = config.vpcs.iter().map(|vpc| vpc.limits.sessions).collect();
    let dnat = config.dnat.iter().map(|Dnat { eip, vpc, host, ports, .. }| {
        format!("    DNAT {eip} to {host} in VPC {vpc}: {ports:?}")
    });
    let snat = config.snat.iter().map(|entry| {
        let Snat { vpc, source, pool, mapping, filtering, ports, untranslated, host_quota, .. } = entry;
        let exempt: Vec<_> = untranslated.iter().map(ToString::to_string).collect();
        format!(
            "    SNAT {source} in VPC {vpc} as {pool:?}: {mapping:?}, filtering {filtering:?}, \
             ports {}-{}, quota {host_quota}, exempt {exempt:?}",
            ports.first, ports.last
        )
    });
    let lines: Vec<_> = std::iter::once(format!("limits {limits:?}")).chain(dnat).chain(snat).collect();
    lines.join("\n")
}
