//! What a configuration asks of the machine.

use std::path::PathBuf;

use crate::config::{Backend, Hugepages, Idle, Model, Workers};
use crate::worker::setup::buffers;

/// Bytes that a session takes in a worker's tables, all of them together.
const SESSION: usize = 190;

/// What a configuration asks of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Number of workers.
    pub workers: usize,
    /// Their cores; none: the operating system places them.
    pub cores: Option<Vec<usize>>,
    /// Whether they never sleep.
    pub polls: bool,
    /// The ports.
    pub ports: Vec<PlannedPort>,
    /// Bytes of all packet buffers.
    pub buffers: usize,
    /// Bytes of one.
    pub buffer_size: usize,
    /// Bytes of the workers' tables.
    pub tables: usize,
    /// Whether DPDK must have huge pages.
    pub needs_hugepages: bool,
    /// The management socket.
    pub socket: PathBuf,
}

/// A port of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedPort {
    /// Its name.
    pub name: String,
    /// How it is opened.
    pub backend: Backend,
}

impl PlannedPort {
    /// The PCI address of a NIC of DPDK's.
    pub fn pci(&self) -> Option<&str> {
        let address = self.backend.dpdk_device()?.split(',').next().unwrap_or_default();
        let is_address = address.split(':').count() == 3 && address.contains('.');
        is_address.then_some(address)
    }
}

impl Plan {
    /// Of a configuration, on a machine with these cores online; without one, what is taken by default.
    pub fn of(model: Option<&Model>, online: &[usize]) -> Self {
        let default = crate::config::System::default();
        let system = model.map_or(&default, Model::system);
        let workers = system.workers.count(online.len().max(1));
        let cores = match &system.workers {
            Workers::Cores(cores) => Some(cores.clone()),
            Workers::Count(_) => None,
            // The first core is left to the system where there is another.
            Workers::PerCore if online.len() > 1 => {
                Some(online.iter().copied().skip(1).take(workers).collect())
            }
            Workers::PerCore => None,
        };
        let ports: Vec<PlannedPort> = model.map_or_else(Vec::new, |model| {
            let port = |port: &crate::config::Port| PlannedPort {
                name: port.name.to_string(),
                backend: port.backend.clone(),
            };
            model.ports().iter().map(port).collect()
        });
        let is_dpdk = ports.iter().any(|port| port.backend.dpdk_device().is_some());
        let buffers = system.buffers.unwrap_or_else(|| buffers(ports.len().max(2), workers));
        Self {
            workers,
            cores,
            polls: system.idle.map_or(is_dpdk, |idle| idle == Idle::Poll),
            buffers: match model.and_then(|model| model.dpdk().memory).filter(|_| is_dpdk) {
                Some(mib) => (mib as usize) << 20,
                None => buffers * system.buffer_size,
            },
            buffer_size: system.buffer_size,
            tables: system.sessions * SESSION,
            needs_hugepages: is_dpdk
                && model.is_some_and(|model| model.dpdk().hugepages == Hugepages::Require),
            socket: system.control.clone(),
            ports,
        }
    }
}
