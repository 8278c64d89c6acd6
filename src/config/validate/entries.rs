//! Rules of `[[dnat]]` and `[[snat]]`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use hashbrown::{HashMap, HashSet};

use super::gateways::Tally;
use super::{Check, is_edge, name_of, value_of};
use crate::config::allocation::{self, Broken, Entry, Wish};
use crate::config::document::{Field, Spot};
use crate::config::error::Code;
use crate::config::file::{DnatTable, GatewayTable, SnatTable, VpcTable};
use crate::config::model::{Dnat, Forward, Snat, Source, Transport};
use crate::config::settings::{Quotas, System};
use crate::config::values::Ports;
use crate::policy::{Allocation, Filtering, Mapping, PortRange, Prefix, Timeouts};

/// An entry that another may conflict with: its place and name.
type Owner<'c> = (Spot, Option<&'c str>);

/// Ranges of ports that do not overlap.
#[derive(Default)]
struct Ranges<'c>(BTreeMap<u16, (u16, Owner<'c>)>);

impl<'c> Ranges<'c> {
    /// Adds a range, or says who has some of its ports.
    fn claim(&mut self, range: PortRange, owner: Owner<'c>) -> Result<(), Owner<'c>> {
        // The ranges here are disjoint, so the last that starts within or before the new one ends last, too.
        match self.0.range(..=range.last).next_back() {
            Some((_, (last, other))) if *last >= range.first => Err(*other),
            _ => {
                self.0.insert(range.first, (range.last, owner));
                Ok(())
            }
        }
    }
}

/// What DNAT entries have claimed so far.
#[derive(Default)]
struct Claims<'c> {
    public: HashMap<(Ipv4Addr, Transport), Ranges<'c>>,
    private: HashMap<(&'c str, Ipv4Addr, Transport), Ranges<'c>>,
    /// The any-port entry of an EIP.
    any_port: HashMap<Ipv4Addr, Owner<'c>>,
    /// The first entry by port of an EIP.
    by_port: HashMap<Ipv4Addr, Owner<'c>>,
    /// The any-port entry of a private host.
    private_any: HashMap<(&'c str, Ipv4Addr), Owner<'c>>,
}

/// EIPs that an any-port entry has for itself.
pub(super) type AnyPortEips<'c> = HashMap<Ipv4Addr, Owner<'c>>;

impl<'c> Check<'c, '_> {
    pub(super) fn dnat(&self, quotas: Quotas, timeouts: Timeouts) -> (Vec<Dnat>, AnyPortEips<'c>) {
        let mut claims = Claims::default();
        let mut tally =
            Tally::new(Code::QuotaDnat, "dnat_entries_per_gateway", quotas.dnat_entries_per_gateway);
        let tables = self.file.dnat.iter();
        let entries = tables.filter_map(|t| self.dnat_entry(t, timeouts, &mut claims, &mut tally)).collect();
        (entries, claims.any_port)
    }

    fn dnat_entry(
        &self,
        table: &'c DnatTable,
        timeouts: Timeouts,
        claims: &mut Claims<'c>,
        tally: &mut Tally<'c>,
    ) -> Option<Dnat> {
        let here = table.here;
        let gateway = self.gateway_of(here, table.gateway.as_ref());
        if let (Some(_), Some(name)) = (gateway, &table.gateway) {
            tally.add(self, here, name);
        }
        if let Some(eip) = &table.eip {
            self.may_use(here, eip, gateway);
        }
        if let (Some(gateway), Some(host)) = (gateway, &table.private_ip) {
            self.private_host(here, host, gateway);
        }
        let forward = self.forward(table);
        if let Some(forward) = forward {
            self.claim(table, forward, claims);
        }
        let overrides = self.timeouts(table.timeouts.as_ref(), timeouts);
        Some(Dnat {
            name: value_of(table.name.as_ref()),
            description: value_of(table.description.as_ref()),
            gateway: value_of(table.gateway.as_ref())?,
            eip: value_of(table.eip.as_ref())?,
            private_ip: value_of(table.private_ip.as_ref())?,
            forward: forward?,
            timeouts: overrides,
        })
    }

    fn vpc_of(&self, gateway: &GatewayTable) -> Option<&'c VpcTable> {
        self.names.vpcs.get(gateway.vpc.as_ref()?.value.as_str()).copied()
    }

    /// The private host of an entry lies in the VPC and can be a host there.
    fn private_host(&self, here: Spot, host: &Field<Ipv4Addr>, gateway: &GatewayTable) {
        let Some(vpc) = self.vpc_of(gateway) else { return };
        let address = u32::from(host.value);
        if let Some(cidr) = vpc.cidr.as_ref().filter(|cidr| !cidr.value.contains(address)) {
            self.at(here, host, Code::DnatPrivateOutsideVpc)
                .conflicts(vpc.here.of(cidr), name_of(vpc.name.as_ref()))
                .hint(format!("choose an address of {}", cidr.value))
                .emit();
            return;
        }
        for vswitch in &vpc.vswitches {
            let Some(cidr) = &vswitch.cidr else { continue };
            let own = vswitch.address.as_ref().filter(|own| own.value == host.value);
            let place = match own {
                Some(own) => vswitch.here.of(own),
                None if is_edge(cidr.value, address) => vswitch.here.of(cidr),
                None => continue,
            };
            self.at(here, host, Code::DnatPrivateUnusable)
                .conflicts(place, name_of(vswitch.name.as_ref()))
                .emit();
        }
    }

    /// What an entry forwards, by its ports and protocol together.
    fn forward(&self, table: &DnatTable) -> Option<Forward> {
        let (public, private, protocol) =
            (table.public_port.as_ref()?, table.private_port.as_ref()?, table.protocol.as_ref()?);
        let refuse = |field: Spot, hint: &str| {
            self.document.error(field, Code::DnatProtocol).hint(hint).emit();
        };
        let here = table.here;
        match (public.value, private.value, protocol.value) {
            (Ports::Any, Ports::Any, None) => return Some(Forward::AnyPort),
            (Ports::Any, Ports::Any, Some(_)) => {
                refuse(here.of(protocol), "for IP mapping set protocol = \"Any\", otherwise give ports");
            }
            (Ports::Any, Ports::Range(_), _) => {
                refuse(here.of(public), "give public ports, or set private_port and protocol to \"Any\"");
            }
            (Ports::Range(_), Ports::Any, _) => {
                refuse(here.of(private), "give private ports, or set public_port and protocol to \"Any\"");
            }
            (Ports::Range(_), Ports::Range(_), None) => {
                refuse(here.of(protocol), "set protocol to \"TCP\" or \"UDP\", or all ports to \"Any\"");
            }
            (Ports::Range(public), Ports::Range(host), Some(protocol)) => {
                let (outer, inner) = (Ports::len(public), Ports::len(host));
                if outer == inner {
                    return Some(Forward::Ports { protocol, public, private_first: host.first });
                }
                self.at(here, private, Code::DnatRangeLength)
                    .hint(format!("public_port has {outer} ports, private_port has {inner}"))
                    .emit();
            }
        }
        None
    }

    /// Claims what an entry uses; whoever was there before keeps it.
    fn claim(&self, table: &'c DnatTable, forward: Forward, claims: &mut Claims<'c>) {
        let here = table.here;
        let owner: Owner<'c> = (here, name_of(table.name.as_ref()));
        let refuse = |field: Spot, code: Code, other: Owner<'_>, hint: &str| {
            self.document.error(field, code).conflicts(other.0, other.1).hint(hint).emit();
        };
        let gateway = table.gateway.as_ref().map(|gateway| gateway.value.as_str());
        let another_eip = "use another EIP for one of them";
        match forward {
            Forward::AnyPort => {
                if let Some(eip) = &table.eip {
                    let other = claims.any_port.get(&eip.value).or_else(|| claims.by_port.get(&eip.value));
                    if let Some(other) = other {
                        refuse(here.of(eip), Code::DnatAnyPortConflict, *other, another_eip);
                    } else {
                        claims.any_port.insert(eip.value, owner);
                    }
                }
                if let (Some(gateway), Some(host)) = (gateway, &table.private_ip) {
                    if let Some(other) = claims.private_any.get(&(gateway, host.value)) {
                        refuse(
                            here.of(host),
                            Code::DnatPrivateConflict,
                            *other,
                            "a private host has one any-port entry of a gateway",
                        );
                    } else {
                        claims.private_any.insert((gateway, host.value), owner);
                    }
                }
            }
            Forward::Ports { protocol, public, private_first } => {
                if let (Some(eip), Some(port)) = (&table.eip, &table.public_port) {
                    if let Some(other) = claims.any_port.get(&eip.value) {
                        refuse(here.of(eip), Code::DnatAnyPortConflict, *other, another_eip);
                    } else {
                        claims.by_port.entry(eip.value).or_insert(owner);
                    }
                    let ranges = claims.public.entry((eip.value, protocol)).or_default();
                    if let Err(other) = ranges.claim(public, owner) {
                        let hint = format!("use another public port, protocol or EIP than {}", eip.value);
                        refuse(here.of(port), Code::DnatPortConflict, other, &hint);
                    }
                }
                if let (Some(gateway), Some(host), Some(port)) =
                    (gateway, &table.private_ip, &table.private_port)
                {
                    let last = private_first + (public.last - public.first);
                    let ranges = claims.private.entry((gateway, host.value, protocol)).or_default();
                    if let Err(other) = ranges.claim(PortRange { first: private_first, last }, owner) {
                        let hint = format!("use another private port of {}, or another gateway", host.value);
                        refuse(here.of(port), Code::DnatPrivateConflict, other, &hint);
                    }
                }
            }
        }
    }

    pub(super) fn snat(
        &self,
        system: &System,
        quotas: Quotas,
        timeouts: Timeouts,
        any_port: &AnyPortEips<'c>,
    ) -> Vec<Snat> {
        let mut tally =
            Tally::new(Code::QuotaSnat, "snat_entries_per_gateway", quotas.snat_entries_per_gateway);
        let mut sources: HashMap<(&str, Prefix), Owner<'_>> = HashMap::new();
        let mut entries = Vec::with_capacity(self.file.snat.len());
        let mut pools: HashSet<Ipv4Addr> = HashSet::new();
        let mut users: HashMap<Ipv4Addr, (Owner<'_>, bool)> = HashMap::new();
        for table in &self.file.snat {
            let here = table.here;
            let gateway = self.gateway_of(here, table.gateway.as_ref());
            if let (Some(_), Some(name)) = (gateway, &table.gateway) {
                tally.add(self, here, name);
            }
            let prefix = gateway.and_then(|gateway| self.source(table, gateway));
            let vpc = gateway.and_then(|gateway| gateway.vpc.as_ref());
            if let (Some(prefix), Some(vpc), Some(source)) = (prefix, vpc, &table.source) {
                let owner = (here, name_of(table.name.as_ref()));
                if let Some(other) = sources.get(&(vpc.value.as_str(), prefix)) {
                    self.at(here, source, Code::SnatSourceConflict)
                        .conflicts(other.0, other.1)
                        .hint(format!("both translate {prefix}: put the EIPs into one entry"))
                        .emit();
                } else {
                    sources.insert((vpc.value.as_str(), prefix), owner);
                }
            }
            let eips = self.pool(table, gateway, any_port);
            let had_room = pools.len() <= system.snat_eips;
            pools.extend(&eips);
            if had_room && pools.len() > system.snat_eips {
                self.document
                    .error(here.missing("eips"), Code::SnatEips)
                    .hint(format!("raise snat_eips in [system] above {}", system.snat_eips))
                    .emit();
            }
            let overrides = self.timeouts(table.timeouts.as_ref(), timeouts);
            let (mapping, filtering) = self.behaviour(table);
            let ftp = self.ftp(table, mapping);
            let ports = value_of(table.ports.as_ref()).unwrap_or(PortRange::ALL);
            let source = prefix.unwrap_or(Prefix::host(0));
            let allocation =
                self.allocation(table, Entry { mapping, ports, eips: eips.len().max(1), source });
            self.blocks_alone(table, &eips, allocation, &mut users);
            let mut untranslated: Vec<Prefix> = table.untranslated.iter().map(|field| field.value).collect();
            untranslated.sort_unstable();
            untranslated.dedup();
            if let (Some(gateway), Some(source), Some(prefix)) = (&table.gateway, &table.source, prefix) {
                entries.push(Snat {
                    name: value_of(table.name.as_ref()),
                    description: value_of(table.description.as_ref()),
                    gateway: gateway.value.clone(),
                    source: source.value.clone(),
                    prefix,
                    eips,
                    mapping,
                    filtering,
                    ports,
                    allocation,
                    ftp,
                    untranslated,
                    timeouts: overrides,
                });
            }
        }
        entries
    }

    /// The addresses of an SNAT entry's source.
    fn source(&self, table: &SnatTable, gateway: &GatewayTable) -> Option<Prefix> {
        let here = table.here;
        let vpc = self.vpc_of(gateway)?;
        let source = table.source.as_ref()?;
        let cidr = vpc.cidr.as_ref()?;
        let prefix = match &source.value {
            Source::Vpc => return Some(cidr.value),
            Source::VSwitch(name) => {
                return Some(self.vswitch(vpc, here.of(source), name)?.cidr.as_ref()?.value);
            }
            Source::Host(host) => Prefix::host((*host).into()),
            Source::Cidr(prefix) => *prefix,
        };
        if !cidr.value.covers(prefix) {
            self.at(here, source, Code::SnatSourceOutsideVpc)
                .conflicts(vpc.here.of(cidr), name_of(vpc.name.as_ref()))
                .hint(format!("choose a part of {}, or \"vpc\" for all of it", cidr.value))
                .emit();
        }
        Some(prefix)
    }

    /// The EIPs of an SNAT entry.
    fn pool(
        &self,
        table: &SnatTable,
        gateway: Option<&GatewayTable>,
        any_port: &AnyPortEips<'_>,
    ) -> Vec<Ipv4Addr> {
        const MOST: usize = 64;
        let Some(fields) = &table.eips else { return Vec::new() };
        let here = table.here;
        let mut seen: HashMap<Ipv4Addr, Spot> = HashMap::new();
        for field in fields {
            let spot = here.of(field);
            if let Some(first) = seen.insert(field.value, spot) {
                self.document.error(spot, Code::SnatPoolDuplicate).conflicts(first, None).emit();
                continue;
            }
            self.may_use(here, field, gateway);
            if let Some((place, name)) = any_port.get(&field.value) {
                self.document
                    .error(spot, Code::DnatAnyPortConflict)
                    .conflicts(*place, *name)
                    .hint("take the EIP out of the pool")
                    .emit();
            }
        }
        if fields.is_empty() || fields.len() > MOST {
            self.document
                .error(here.missing("eips"), Code::SnatPoolSize)
                .hint(format!("this entry has {}", fields.len()))
                .emit();
        }
        fields.iter().map(|field| field.value).collect()
    }

    /// How private hosts of an SNAT entry come to external ports.
    fn allocation(&self, table: &SnatTable, entry: Entry) -> Allocation {
        let wish = Wish {
            port_blocks: value_of(table.port_blocks.as_ref()).map(|size| size as u16),
            blocks_per_host: value_of(table.blocks_per_host.as_ref()).map(|count| count as u8),
            deterministic: value_of(table.deterministic.as_ref()).unwrap_or(false),
        };
        allocation::judge(wish, entry).unwrap_or_else(|broken| {
            let Broken { code, key, hint } = broken;
            let here = table.here;
            let spot = match key {
                "port_blocks" => table.port_blocks.as_ref().map(|field| here.of(field)),
                "blocks_per_host" => table.blocks_per_host.as_ref().map(|field| here.of(field)),
                _ => table.deterministic.as_ref().map(|field| here.of(field)),
            };
            self.document.error(spot.unwrap_or(here), code).hint(hint).emit();
            Allocation::Ports
        })
    }

    /// Ports of an EIP are given out in blocks by one entry, or port by port by any number of them.
    fn blocks_alone<'t>(
        &self,
        table: &'t SnatTable,
        eips: &[Ipv4Addr],
        allocation: Allocation,
        users: &mut HashMap<Ipv4Addr, (Owner<'t>, bool)>,
    ) {
        let in_blocks = allocation != Allocation::Ports;
        let owner = (table.here, name_of(table.name.as_ref()));
        for eip in eips {
            match users.get(eip) {
                Some((other, others)) if in_blocks || *others => {
                    self.document
                        .error(table.here.missing("eips"), Code::SnatBlocksShared)
                        .conflicts(other.0, other.1)
                        .hint(format!("take {eip} out of one of the pools"))
                        .emit();
                }
                Some(_) => {}
                None => {
                    users.insert(*eip, (owner, in_blocks));
                }
            }
        }
    }

    /// Whether an SNAT entry reads FTP control connections. A server that is told of an endpoint comes from a port that is not known
    /// before, which a mapping for one peer's port does not admit.
    fn ftp(&self, table: &SnatTable, mapping: Mapping) -> bool {
        let Some(ftp) = table.ftp.as_ref().filter(|ftp| ftp.value) else { return false };
        if mapping == Mapping::EndpointDependent {
            self.at(table.here, ftp, Code::SnatFtp)
                .hint("remove the key, or choose endpoint-independent mapping")
                .emit();
        }
        true
    }

    /// Mapping and filtering of an SNAT entry. With endpoint-dependent mapping one external port serves many peers, each
    /// with a private host of its own, so a stranger's packet cannot be told whose it is.
    fn behaviour(&self, table: &SnatTable) -> (Mapping, Filtering) {
        let mapping = value_of(table.mapping.as_ref()).unwrap_or_default();
        let default = match mapping {
            Mapping::EndpointIndependent => Filtering::EndpointIndependent,
            Mapping::EndpointDependent => Filtering::AddressAndPortDependent,
        };
        if let Some(filtering) = &table.filtering
            && mapping == Mapping::EndpointDependent
            && filtering.value != Filtering::AddressAndPortDependent
        {
            self.at(table.here, filtering, Code::SnatFiltering)
                .hint("remove the key, or choose endpoint-independent mapping")
                .emit();
        }
        (mapping, value_of(table.filtering.as_ref()).unwrap_or(default))
    }
}
