//! What the entries of the configuration say of an address.

use std::net::Ipv4Addr;

use natgate::policy::Timeouts;

use super::session::{Endpoint, Flow, Session};
use super::{Inside, Reference};
use crate::support::{Config, Dnat, Ports, Snat};

impl Reference {
    pub(super) fn is_exempt(&self, vpc: usize, host: Ipv4Addr, peer: Ipv4Addr) -> bool {
        let entry = self.snat_entry(vpc, host);
        entry.is_some_and(|entry| entry.untranslated.iter().any(|prefix| prefix.contains(peer.into())))
    }

    /// Who a DNAT entry makes of an external endpoint.
    pub(super) fn static_inside(&self, protocol: u8, (eip, port): Endpoint) -> Option<Inside> {
        self.config.dnat.iter().filter(|d| d.eip == eip).find_map(|d| {
            let port = match d.ports {
                Ports::Any => port,
                Ports::Range { protocol: of, public, private, count } => {
                    let offset =
                        port.checked_sub(public).filter(|offset| of == protocol && *offset < count)?;
                    private + offset
                }
            };
            Some(Inside { vpc: d.vpc, host: (d.host, port) })
        })
    }

    /// The external endpoint that DNAT entries give a flow: the entry by port before the any-port entry.
    pub(super) fn static_external(&self, flow: &Flow) -> Option<Endpoint> {
        let by_port = self.config.dnat.iter().find_map(|d| public_port(d, flow));
        by_port.or_else(|| Some((self.any_port_of_host(flow.vpc, flow.inside.0)?.eip, flow.inside.1)))
    }

    pub(super) fn any_port_of_host(&self, vpc: usize, host: Ipv4Addr) -> Option<&Dnat> {
        self.config.dnat.iter().find(|d| (d.vpc, d.host, d.ports) == (vpc, host, Ports::Any))
    }

    pub(super) fn dnat_timeouts(&self, protocol: u8, (eip, port): Endpoint) -> Timeouts {
        static_entry(&self.config, protocol, (eip, port)).map_or(Timeouts::RFC, |entry| entry.timeouts)
    }

    /// The SNAT entry of a private source: the longest prefix.
    pub(super) fn snat_entry(&self, vpc: usize, source: Ipv4Addr) -> Option<&Snat> {
        let covering = self.config.snat.iter().filter(|s| s.vpc == vpc && s.source.contains(source.into()));
        covering.max_by_key(|s| s.source.len())
    }

    /// The SNAT entry that made a session.
    pub(super) fn entry_of(&self, session: &Session) -> Option<&Snat> {
        self.config.snat.iter().find(|s| (s.vpc, Some(s.source)) == (session.flow.vpc, session.entry))
    }

    /// Whether the gateway itself answers an echo request to an EIP: if it is to be pinged and no host takes it.
    pub(super) fn answers_ping(&self, eip: Ipv4Addr) -> bool {
        self.config.eips.iter().any(|e| e.address == eip && e.ping)
            && !self.config.dnat.iter().any(|d| d.eip == eip && d.ports == Ports::Any)
    }
}

/// The public endpoint of a flow by an entry by port.
fn public_port(entry: &Dnat, flow: &Flow) -> Option<Endpoint> {
    let Ports::Range { protocol, public, private, count } = entry.ports else { return None };
    let of_host = (entry.vpc, entry.host, protocol) == (flow.vpc, flow.inside.0, flow.protocol);
    let offset = flow.inside.1.checked_sub(private).filter(|offset| of_host && *offset < count)?;
    Some((entry.eip, public + offset))
}

/// The DNAT entry of an external endpoint.
pub(super) fn static_entry(config: &Config, protocol: u8, (eip, port): Endpoint) -> Option<&Dnat> {
    config.dnat.iter().filter(|d| d.eip == eip).find(|d| match d.ports {
        Ports::Any => true,
        Ports::Range { protocol: of, public, count, .. } => {
            of == protocol && port.checked_sub(public).is_some_and(|offset| offset < count)
        }
    })
}
