//! From tables to a [`Model`]: the rules that concern more than one value. A part that breaks a rule is noted and left
//! out, and the parts that refer to it are judged as far as they can be.

mod dpdk;
mod entries;
pub(crate) mod gateways;
mod system;
mod topology;

use std::net::Ipv4Addr;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use super::document::{Document, Field, Spot};
use super::error::Code;
use super::file::{EipTable, File, GatewayTable, PlanTable, PortTable, TimeoutTable, VSwitchTable, VpcTable};
use super::model::{Model, Places};
use super::settings::TimeoutOverrides;
use super::words::Name;
use crate::base::PortIndex;
use crate::policy::{Prefix, Timeouts};

/// The model, if no rule is broken; otherwise the document has the errors.
pub(super) fn validate(document: &Document<'_>, file: &File) -> Option<Model> {
    let check = Check { document, file, names: Names::of(document, file) };
    let system = check.system();
    let timeouts = check.timeouts(file.timeouts.as_ref(), Timeouts::RFC).over(Timeouts::RFC);
    let quotas = check.quotas();
    let store = check.store();
    let api = check.api(&system);
    let session_log = check.session_log();
    let metering = check.metering();
    let dpdk = check.dpdk();
    let ports = check.ports();
    let topology = check.topology();
    let gateways = check.gateways(quotas);
    let plans = check.plans();
    let eips = check.eips(quotas);
    let (dnat, any_port) = check.dnat(quotas, timeouts);
    let snat = check.snat(&system, quotas, timeouts, &any_port);
    if document.has_errors() {
        return None;
    }
    Some(Model {
        places: check.places(),
        system,
        timeouts,
        quotas,
        store,
        api,
        session_log,
        metering,
        dpdk,
        ports,
        outside: topology.outside,
        vpcs: topology.vpcs,
        gateways,
        plans,
        eips,
        dnat,
        snat,
    })
}

/// What is needed to judge.
struct Check<'c, 't> {
    document: &'c Document<'t>,
    file: &'c File,
    names: Names<'c>,
}

/// What other parts refer to.
struct Names<'c> {
    ports: HashMap<&'c str, (PortIndex, &'c PortTable)>,
    vpcs: HashMap<&'c str, &'c VpcTable>,
    gateways: HashMap<&'c str, &'c GatewayTable>,
    plans: HashMap<&'c str, &'c PlanTable>,
    eips: HashMap<Ipv4Addr, &'c EipTable>,
}

impl<'c> Names<'c> {
    fn of(document: &Document<'_>, file: &'c File) -> Self {
        let ports = file.ports.iter().enumerate();
        Self {
            ports: unique(
                document,
                ports.map(|(i, t)| (t.here, t.name.as_ref(), (PortIndex(i as u16), t))),
                |(_, t)| t.here,
            ),
            vpcs: unique(document, file.vpcs.iter().map(|t| (t.here, t.name.as_ref(), t)), |t| t.here),
            gateways: unique(document, file.gateways.iter().map(|t| (t.here, t.name.as_ref(), t)), |t| {
                t.here
            }),
            plans: unique(document, file.plans.iter().map(|t| (t.here, t.name.as_ref(), t)), |t| t.here),
            // Two declarations of one address are judged with the other rules of EIPs.
            eips: file.eips.iter().rev().filter_map(|t| Some((t.address.as_ref()?.value, t))).collect(),
        }
    }
}

/// The parts by name; the second of the same name is an error.
fn unique<'c, T: Copy>(
    document: &Document<'_>,
    parts: impl Iterator<Item = (Spot, Option<&'c Field<Name>>, T)>,
    place: impl Fn(T) -> Spot,
) -> HashMap<&'c str, T> {
    let mut map: HashMap<&str, T> = HashMap::new();
    for (here, name, part) in parts {
        let Some(name) = name else { continue };
        match map.entry(name.value.as_str()) {
            Entry::Occupied(first) => {
                document
                    .error(here.of(name), Code::DuplicateName)
                    .conflicts(place(*first.get()), Some(name.value.as_str()))
                    .hint("rename one of them")
                    .emit();
            }
            Entry::Vacant(free) => {
                free.insert(part);
            }
        }
    }
    map
}

/// The text of an optional name.
fn name_of(name: Option<&Field<Name>>) -> Option<&str> {
    name.map(|name| name.value.as_str())
}

/// The value of an optional field.
fn value_of<T: Clone>(field: Option<&Field<T>>) -> Option<T> {
    field.map(|field| field.value.clone())
}

/// Whether an address is the network or the broadcast address of a prefix (RFC 3021: /31 has neither).
pub(crate) fn is_edge(prefix: Prefix, address: u32) -> bool {
    prefix.len() <= 30 && (address == prefix.address() || address == prefix.last())
}

/// Whether two prefixes share addresses.
pub(crate) fn overlap(a: Prefix, b: Prefix) -> bool {
    a.covers(b) || b.covers(a)
}

impl<'c, 't> Check<'c, 't> {
    /// Starts an error at a value.
    fn at<T>(&self, here: Spot, field: &Field<T>, code: Code) -> super::document::Draft<'c, 't> {
        self.document.error(here.of(field), code)
    }

    /// The part that a name refers to; an error if there is none.
    fn resolve<T: Copy>(
        &self,
        here: Spot,
        name: Option<&Field<Name>>,
        among: &HashMap<&'c str, T>,
        code: Code,
    ) -> Option<T> {
        let name = name?;
        let found = among.get(name.value.as_str()).copied();
        if found.is_none() {
            let nearest = among
                .keys()
                .map(|known| (strsim::damerau_levenshtein(known, name.value.as_str()), *known))
                .min()
                .filter(|(distance, _)| *distance <= 2);
            let draft = self.at(here, name, code);
            match nearest {
                Some((_, known)) => draft.hint(format!("did you mean \"{known}\"?")).emit(),
                None => draft.emit(),
            }
        }
        found
    }

    /// The vSwitch of a VPC that has this name.
    fn vswitch(&self, vpc: &'c VpcTable, name: Spot, wanted: &Name) -> Option<&'c VSwitchTable> {
        let named = |v: &&VSwitchTable| v.name.as_ref().is_some_and(|n| n.value == *wanted);
        let found = vpc.vswitches.iter().find(named);
        if found.is_none() {
            let known: Vec<&str> = vpc.vswitches.iter().filter_map(|v| name_of(v.name.as_ref())).collect();
            let draft = self.document.error(name, Code::UnknownVSwitch);
            if known.is_empty() {
                draft.hint("the VPC has no vSwitch").emit();
            } else {
                draft.hint(format!("the VPC has {}", known.join(", "))).emit();
            }
        }
        found
    }

    /// The timeouts of a table over `base`, if they make sense together.
    fn timeouts(&self, table: Option<&TimeoutTable>, base: Timeouts) -> TimeoutOverrides {
        let Some(table) = table else { return TimeoutOverrides::default() };
        let overrides = table.overrides();
        let all = overrides.over(base);
        // What is wrong for the whole file is not said again for each entry.
        let is_sound = |t: Timeouts| t.tcp_established >= t.tcp_transitory;
        if is_sound(base) && !is_sound(all) {
            let draft = match (&table.tcp_established, &table.tcp_transitory) {
                (Some(established), _) => self.at(table.here, established, Code::TimeoutOrder),
                (None, Some(transitory)) => self.at(table.here, transitory, Code::TimeoutOrder),
                (None, None) => self.document.error(table.here, Code::TimeoutOrder),
            };
            draft.hint("give tcp_transitory a value that is not above tcp_established").emit();
        }
        overrides
    }

    /// The lines of what later checks speak of.
    fn places(&self) -> Places {
        let file = self.file;
        let tables = (file.ports.iter().map(|t| t.here))
            .chain(file.outside.iter().map(|t| t.here))
            .chain(file.gateways.iter().map(|t| t.here))
            .chain(file.vpcs.iter().flat_map(|vpc| vpc.vswitches.iter().map(|t| t.here)));
        let system = file.system.iter().map(|t| t.here);
        let spots = tables.chain(system).chain(self.system_spots());
        Places {
            file: self.document.file().to_owned(),
            lines: spots.filter_map(|spot| Some((spot.key(), self.document.line(spot)?))).collect(),
        }
    }
}
