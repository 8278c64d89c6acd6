//! Rules of `[[outside]]`, `[[vpc]]` and `[[vpc.vswitch]]`: interfaces, prefixes and routes.

use std::net::Ipv4Addr;

use hashbrown::HashMap;

use super::{Check, is_edge, name_of, overlap, value_of};
use crate::base::PortIndex;
use crate::config::document::{Field, Spot};
use crate::config::error::Code;
use crate::config::file::{OutsideTable, RouteTable, VSwitchTable, VpcTable};
use crate::config::model::{Link, Outside, StaticRoute, VSwitch, Vpc};
use crate::config::words::{Name, Vlan};
use crate::policy::Prefix;

/// What [`Check::topology`] has found good.
pub(super) struct Topology {
    pub(super) outside: Vec<Outside>,
    pub(super) vpcs: Vec<Vpc>,
}

/// Who has a (port, VLAN).
type Taken = HashMap<(PortIndex, Option<Vlan>), Spot>;

/// A link of one side: its prefix, the gateway's address on it, and where that is said.
struct OnLink {
    prefix: Prefix,
    address: Ipv4Addr,
    spot: Spot,
}

impl Check<'_, '_> {
    pub(super) fn topology(&self) -> Topology {
        // A worker keeps what its interfaces are like at hand, and a VPC is a tenant number of 16 bits.
        const INTERFACES: usize = 256;
        const VPCS: usize = 60_000;
        let attached = self.file.vpcs.iter().flat_map(|vpc| &vpc.vswitches).filter(|v| v.port.is_some());
        let mut interfaces = self.file.outside.iter().map(|t| t.here).chain(attached.map(|t| t.here));
        if let Some(extra) = interfaces.nth(INTERFACES) {
            let hint = format!("at most {INTERFACES} interfaces, outside and attached vSwitches together");
            self.document.error(extra, Code::TooMany).hint(hint).emit();
        }
        if let Some(extra) = self.file.vpcs.get(VPCS) {
            self.document.error(extra.here, Code::TooMany).hint(format!("at most {VPCS} VPCs")).emit();
        }
        let mut taken = Taken::new();
        let outside = self.outside(&mut taken);
        let vpcs = self.file.vpcs.iter().filter_map(|table| self.vpc(table, &mut taken)).collect();
        self.public_ranges();
        Topology { outside, vpcs }
    }

    fn outside(&self, taken: &mut Taken) -> Vec<Outside> {
        let mut on_link: Vec<OnLink> = Vec::new();
        let mut routes: HashMap<Prefix, Spot> = HashMap::new();
        for table in &self.file.outside {
            let Some(field) = &table.address else { continue };
            let (address, prefix) = field.value;
            let spot = table.here.of(field);
            if is_edge(prefix, address.into()) {
                self.document.error(spot, Code::UnusableAddress).emit();
            }
            if let Some(other) = on_link.iter().find(|o| overlap(o.prefix, prefix)) {
                self.document.error(spot, Code::OutsideOverlap).conflicts(other.spot, None).emit();
            } else {
                routes.insert(prefix, spot);
                on_link.push(OnLink { prefix, address, spot });
            }
        }
        let tables = self.file.outside.iter();
        tables.filter_map(|table| self.outside_interface(table, taken, &mut routes)).collect()
    }

    fn outside_interface(
        &self,
        table: &OutsideTable,
        taken: &mut Taken,
        routes: &mut HashMap<Prefix, Spot>,
    ) -> Option<Outside> {
        let here = table.here;
        let own = table.address.as_ref().map(|f| (f.value.0, f.value.1, here.of(f)));
        let on_link: Vec<OnLink> = own
            .iter()
            .map(|(address, prefix, spot)| OnLink { prefix: *prefix, address: *address, spot: *spot })
            .collect();
        let port = self.port_of(here, table.port.as_ref(), table.vlan.as_ref(), taken);
        if let Some(gateway) = &table.gateway {
            self.next_hop(here, gateway, &on_link, "the interface's own link");
            let spot = here.of(gateway);
            if let Some(first) = routes.get(&Prefix::ALL) {
                self.document
                    .error(spot, Code::RouteConflict)
                    .conflicts(*first, None)
                    .hint("only one outside interface has the default route")
                    .emit();
            } else {
                routes.insert(Prefix::ALL, spot);
            }
        }
        let static_routes = self.routes(&table.routes, &on_link, routes, "the interface's own link");
        let (address, prefix, _) = own?;
        Some(Outside {
            link: Link {
                port: port?,
                vlan: value_of(table.vlan.as_ref()),
                address,
                mtu: value_of(table.mtu.as_ref()),
            },
            prefix,
            gateway: value_of(table.gateway.as_ref()),
            routes: static_routes,
            tcp_mss: value_of(table.tcp_mss.as_ref()),
            public: table.public.iter().map(|field| field.value).collect(),
        })
    }

    /// The port of an interface, if nobody else is on its VLAN.
    fn port_of(
        &self,
        here: Spot,
        port: Option<&Field<Name>>,
        vlan: Option<&Field<Vlan>>,
        taken: &mut Taken,
    ) -> Option<PortIndex> {
        let (index, _) = self.resolve(here, port, &self.names.ports, Code::UnknownPort)?;
        let key = (index, vlan.map(|vlan| vlan.value));
        let spot = match (vlan, port) {
            (Some(vlan), _) => here.of(vlan),
            (None, Some(port)) => here.of(port),
            (None, None) => here,
        };
        if let Some(first) = taken.get(&key) {
            self.document
                .error(spot, Code::InterfaceConflict)
                .conflicts(*first, None)
                .hint("give one of them another vlan or port")
                .emit();
            return None;
        }
        taken.insert(key, here);
        Some(index)
    }

    /// Judges a next hop by the links of its side.
    fn next_hop(&self, here: Spot, field: &Field<Ipv4Addr>, links: &[OnLink], where_: &str) {
        let address = u32::from(field.value);
        let Some(link) = links.iter().find(|link| link.prefix.contains(address)) else {
            if !links.is_empty() {
                let prefixes: Vec<String> = links.iter().map(|link| link.prefix.to_string()).collect();
                self.at(here, field, Code::NextHopNotOnLink)
                    .hint(format!("choose an address of {where_}: {}", prefixes.join(", ")))
                    .emit();
            }
            return;
        };
        if link.address == field.value {
            self.at(here, field, Code::NextHopIsOwn).conflicts(link.spot, None).emit();
        } else if is_edge(link.prefix, address) {
            self.at(here, field, Code::UnusableAddress).emit();
        }
    }

    fn routes(
        &self,
        tables: &[RouteTable],
        links: &[OnLink],
        known: &mut HashMap<Prefix, Spot>,
        where_: &str,
    ) -> Vec<StaticRoute> {
        let mut routes = Vec::with_capacity(tables.len());
        for table in tables {
            if let Some(via) = &table.via {
                self.next_hop(table.here, via, links, where_);
            }
            let Some(to) = &table.to else { continue };
            let spot = table.here.of(to);
            if let Some(first) = known.get(&to.value) {
                self.document.error(spot, Code::RouteConflict).conflicts(*first, None).emit();
            } else {
                known.insert(to.value, spot);
            }
            if let Some(via) = &table.via {
                routes.push(StaticRoute { to: to.value, via: via.value });
            }
        }
        routes
    }

    fn vpc(&self, table: &VpcTable, taken: &mut Taken) -> Option<Vpc> {
        let mut names: HashMap<&str, Spot> = HashMap::new();
        let mut cidrs: Vec<(Prefix, Spot, Option<&str>)> = Vec::new();
        let mut links: Vec<OnLink> = Vec::new();
        let mut vswitches = Vec::new();
        let mut routes: HashMap<Prefix, Spot> = HashMap::new();
        for vswitch in &table.vswitches {
            if let Some(name) = &vswitch.name
                && let Some(first) = names.insert(name.value.as_str(), vswitch.here)
            {
                self.at(vswitch.here, name, Code::DuplicateName)
                    .conflicts(first, Some(name.value.as_str()))
                    .hint("rename one of them")
                    .emit();
            }
            if let Some(cidr) = &vswitch.cidr {
                let spot = vswitch.here.of(cidr);
                if let Some(vpc) = table.cidr.as_ref().filter(|vpc| !vpc.value.covers(cidr.value)) {
                    self.document
                        .error(spot, Code::VSwitchOutsideVpc)
                        .conflicts(table.here.of(vpc), name_of(table.name.as_ref()))
                        .hint(format!("choose a part of {}", vpc.value))
                        .emit();
                }
                if let Some((_, first, name)) = cidrs.iter().find(|(other, ..)| overlap(*other, cidr.value)) {
                    self.document.error(spot, Code::VSwitchOverlap).conflicts(*first, *name).emit();
                }
                cidrs.push((cidr.value, spot, name_of(vswitch.name.as_ref())));
            }
            let link = self.vswitch_link(vswitch, taken);
            if let (Some(cidr), Some(address)) = (&vswitch.cidr, &vswitch.address) {
                let spot = vswitch.here.of(address);
                links.push(OnLink { prefix: cidr.value, address: address.value, spot });
                routes.insert(cidr.value, vswitch.here.of(cidr));
            }
            if let (Some(name), Some(cidr)) = (&vswitch.name, &vswitch.cidr) {
                vswitches.push(VSwitch {
                    name: name.value.clone(),
                    description: value_of(vswitch.description.as_ref()),
                    cidr: cidr.value,
                    link,
                });
            }
        }
        for route in &table.routes {
            if let Some(to) = route.to.as_ref().filter(|to| to.value == Prefix::ALL) {
                self.at(route.here, to, Code::VpcDefaultRoute).emit();
            }
            let all_known = table.vswitches.iter().all(|vswitch| vswitch.cidr.is_some());
            if let (Some(via), true) = (&route.via, links.is_empty() && all_known) {
                self.at(route.here, via, Code::NextHopNotOnLink)
                    .hint("the VPC has no vSwitch with a port and an address")
                    .emit();
            }
        }
        let static_routes = self.routes(&table.routes, &links, &mut routes, "an attached vSwitch of the VPC");
        Some(Vpc {
            name: value_of(table.name.as_ref())?,
            description: value_of(table.description.as_ref()),
            cidr: value_of(table.cidr.as_ref())?,
            routes: static_routes,
            vswitches,
        })
    }

    /// How a vSwitch is attached, if it is.
    fn vswitch_link(&self, table: &VSwitchTable, taken: &mut Taken) -> Option<Link> {
        let here = table.here;
        let missing = |key, hint: &str| {
            self.document.error(here.missing(key), Code::VSwitchLink).hint(hint).emit();
        };
        match (&table.port, &table.address) {
            (None, Some(_)) => missing("port", "name the port, or remove the address"),
            (Some(_), None) => missing("address", "give the gateway's own address in the vSwitch"),
            (None, None) => {
                if table.vlan.is_some() || table.mtu.is_some() {
                    missing("port", "vlan and mtu belong to a vSwitch with a port and an address");
                }
            }
            (Some(_), Some(_)) => {}
        }
        if let (Some(address), Some(cidr)) = (&table.address, &table.cidr) {
            if !cidr.value.contains(address.value.into()) {
                self.at(here, address, Code::VSwitchAddress)
                    .conflicts(here.of(cidr), None)
                    .hint(format!("choose an address of {}", cidr.value))
                    .emit();
            } else if is_edge(cidr.value, address.value.into()) {
                self.at(here, address, Code::UnusableAddress).emit();
            }
        }
        let port = self.port_of(here, table.port.as_ref(), table.vlan.as_ref(), taken)?;
        Some(Link {
            port,
            vlan: value_of(table.vlan.as_ref()),
            address: value_of(table.address.as_ref())?,
            mtu: value_of(table.mtu.as_ref()),
        })
    }

    /// Public ranges overlap neither each other nor a VPC.
    fn public_ranges(&self) {
        let ranges: Vec<(Prefix, Spot)> = (self.file.outside.iter())
            .flat_map(|table| table.public.iter().map(|field| (field.value, table.here.of(field))))
            .collect();
        let vpcs: Vec<(Prefix, Spot, Option<&str>)> = (self.file.vpcs.iter())
            .filter_map(|vpc| {
                let cidr = vpc.cidr.as_ref()?;
                Some((cidr.value, vpc.here.of(cidr), name_of(vpc.name.as_ref())))
            })
            .collect();
        for (i, (range, spot)) in ranges.iter().enumerate() {
            if let Some((_, first)) = ranges[..i].iter().find(|(other, _)| overlap(*other, *range)) {
                self.document.error(*spot, Code::PublicRangeOverlap).conflicts(*first, None).emit();
            }
            if let Some((_, vpc, name)) = vpcs.iter().find(|(cidr, ..)| overlap(*cidr, *range)) {
                self.document.error(*spot, Code::PublicRangeInVpc).conflicts(*vpc, *name).emit();
            }
        }
    }
}
