//! From a model to the snapshot that workers read, changing only what changed.
//!
//! # Numbers
//!
//! Sessions live longer than configurations, and speak of EIPs, entries, gateways and VPCs by number. So a number that
//! was given to one resource is never given to another while the process lives:
//!
//! - VPCs and gateways have theirs by name, EIPs by address. One that comes back finds its old number, and a gateway its
//!   meter, on which sessions of before may still count.
//! - An entry has its number for as long as it is configured. It is the same entry as long as its gateway and, for DNAT,
//!   its EIP, protocol and first public port, for SNAT its source are the same. One that comes back is a new one.
//!
//! Interfaces are the exception: no session knows them, and what a worker has learned of neighbours it forgets when the
//! interface of a number becomes another. So the number of one that is gone goes to the next that comes.
//!
//! Numbers are never used up in practice (65,535 VPC names, four thousand million entries); if they are, the compiler says so and the
//! configuration in force stays.
//!
//! # Which sessions are checked again
//!
//! A session asks when its EIP and its private host last changed. [`Edit`] notes that, where it takes what differs.
//!
//! | module | what it does |
//! | --- | --- |
//! | `numbers` | gives the numbers |
//! | `topology` | compiles ports, interfaces, VPCs and gateways |
//! | `entries` | compiles EIPs with their DNAT entries, and SNAT entries |
//! | `host` | sees DNAT entries from the private host |

mod entries;
mod host;
mod numbers;
mod topology;

use std::sync::Arc;

use hashbrown::HashMap;

use super::diff::interface_name;
use super::directory::{Directory, EntryInfo};
use super::error::{Code, Error, Errors};
use super::model::{Link, Model};
use super::words::Name;
use crate::base::{EntryId, InterfaceIndex};
use crate::policy::persist::Map;
use crate::policy::{Edit, Gateway, Snapshot};

pub use host::host_of;
use numbers::{EntryKey, InterfaceKey, Numbers};

/// What an opened port says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortFacts {
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// Largest IP packet that it carries, in bytes.
    pub mtu: u16,
}

/// Compiles models into snapshots, one after the other, and keeps the numbers of all that was ever configured. Every
/// snapshot that it makes is to be published, and to be given back as `previous` the next time.
#[derive(Clone, Debug)]
pub struct Compiler {
    interfaces: HashMap<InterfaceKey, InterfaceIndex>,
    vpcs: Numbers<Name>,
    gateways: Numbers<Name>,
    /// By gateway number, those that are gone included: their sessions still count out.
    compiled_gateways: Vec<Gateway>,
    plans: Numbers<Name>,
    eips: Numbers<u32>,
    entries: HashMap<EntryKey, EntryId>,
    next_entry: u32,
    directory: Arc<Directory>,
}

impl Default for Compiler {
    fn default() -> Self {
        Self::new()
    }
}

impl Compiler {
    /// A compiler that has given no number yet.
    pub fn new() -> Self {
        Self {
            interfaces: HashMap::new(),
            // As a tenant a VPC has the number after its own.
            vpcs: Numbers::new(u32::from(u16::MAX)),
            gateways: Numbers::new(u32::MAX),
            compiled_gateways: Vec::new(),
            plans: Numbers::new(u32::MAX),
            eips: Numbers::new(u32::MAX),
            entries: HashMap::new(),
            next_entry: 0,
            directory: Arc::default(),
        }
    }

    /// The names of what was compiled last.
    pub fn directory(&self) -> Arc<Directory> {
        Arc::clone(&self.directory)
    }

    /// The snapshot of a model, made from the one before. `ports` are the facts of the model's ports, in order.
    ///
    /// # Errors
    /// An interface's MTU is above its port's, or numbers are used up. Nothing has changed then.
    pub fn compile(
        &mut self,
        model: &Model,
        ports: &[PortFacts],
        previous: &Snapshot,
    ) -> Result<Arc<Snapshot>, Errors> {
        check_ports(model, ports)?;
        let mut next = self.clone();
        next.number(model)?;
        let mut edit = previous.edit();
        next.topology(model, ports, &mut edit);
        next.gateways(model, &mut edit);
        next.dnat(model, previous, &mut edit);
        next.snat(model, previous, &mut edit);
        next.directory = Arc::new(next.names(model));
        *self = next;
        Ok(edit.finish())
    }

    /// Compiles ports, interfaces, VPCs and gateways alone, for a model whose EIPs and entries are compiled one by one.
    ///
    /// # Errors
    /// As [`compile`](Self::compile).
    pub fn frame(&mut self, model: &Model, ports: &[PortFacts], edit: &mut Edit) -> Result<(), Errors> {
        check_ports(model, ports)?;
        let mut next = self.clone();
        next.number(model)?;
        next.topology(model, ports, edit);
        next.gateways(model, edit);
        next.directory = Arc::new(next.names(model));
        *self = next;
        Ok(())
    }

    fn names(&self, model: &Model) -> Directory {
        let dnat = model.dnat().iter().map(|entry| {
            let (name, gateway) = (entry.label().into(), entry.gateway.clone());
            (self.entry_id(self.dnat_key(entry)), EntryInfo { name, gateway, effect: entry.effect() })
        });
        let snat = model.snat().iter().map(|entry| {
            let (name, gateway) = (entry.label().into(), entry.gateway.clone());
            (self.entry_id(self.snat_key(entry)), EntryInfo { name, gateway, effect: entry.effect() })
        });
        let mut entries = Map::default();
        for (id, info) in dnat.chain(snat) {
            entries.insert(u64::from(id.0), Arc::new(info));
        }
        let mut interfaces = vec![String::new(); self.interface_slots()];
        for (_, link) in keyed_links(model) {
            interfaces[self.interface_index(link).index()] = interface_name(model, link);
        }
        Directory {
            ports: model.ports().iter().map(|port| port.name.clone()).collect(),
            interfaces: interfaces.into(),
            vpcs: self.vpcs.keys().into(),
            gateways: self.gateways.keys().into(),
            eips: Arc::new(self.eips.keys().into_iter().map(Into::into).collect()),
            entries,
        }
    }
}

/// All interfaces with the key of the table that declares them.
fn keyed_links(model: &Model) -> impl Iterator<Item = (String, &Link)> {
    let outside = model.outside().iter().enumerate().map(|(i, o)| (format!("outside[{i}]"), &o.link));
    let vswitches = model.vpcs().iter().enumerate().flat_map(|(i, vpc)| {
        let all = vpc.vswitches.iter().enumerate();
        all.filter_map(move |(j, v)| Some((format!("vpc[{i}].vswitch[{j}]"), v.link.as_ref()?)))
    });
    outside.chain(vswitches)
}

fn check_ports(model: &Model, ports: &[PortFacts]) -> Result<(), Errors> {
    let mut errors: Vec<Error> = Vec::new();
    if ports.len() != model.ports().len() {
        let hint = format!("{} were opened", ports.len());
        errors.push(model.fault(Code::PortCount, "port".to_owned(), None, &hint));
        return Errors::of(errors);
    }
    for (key, link) in keyed_links(model) {
        let most = ports[link.port.index()].mtu;
        if let Some(mtu) = link.mtu.filter(|mtu| *mtu > most) {
            let name = &model.ports()[link.port.index()].name;
            let hint = format!("port \"{name}\" carries {most} bytes");
            errors.push(model.fault(Code::MtuAbovePort, format!("{key}.mtu"), Some(mtu.to_string()), &hint));
        }
    }
    Errors::of(errors)
}
