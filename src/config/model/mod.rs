//! The validated configuration. A [`Model`] comes only out of [`parse`](super::parse) and [`load`](super::load), so who
//! has one knows that every rule holds: references lead somewhere, ranges have equal lengths, nothing overlaps.

mod entries;
mod gateway;
mod network;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::settings::{Api, Dpdk, Metering, Quotas, SessionLog, System};
use crate::policy::Timeouts;

pub use entries::{Dnat, Effect, Forward, Snat, Source, Transport};
pub use gateway::{Eip, Gateway, Plan, Specification};
pub use network::{Backend, Link, Outside, Port, SegmentSize, StaticRoute, VSwitch, Vpc};

/// Where in the file the parts stand that later checks speak of.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    pub(super) file: String,
    pub(super) lines: HashMap<String, u32>,
}

/// A configuration in which every rule holds.
#[derive(Clone, Debug)]
pub struct Model {
    pub(super) places: Places,
    pub(super) system: System,
    pub(super) timeouts: Timeouts,
    pub(super) quotas: Quotas,
    pub(super) store: Option<PathBuf>,
    pub(super) api: Api,
    pub(super) session_log: Option<SessionLog>,
    pub(super) metering: Option<Metering>,
    pub(super) dpdk: Dpdk,
    pub(super) ports: Vec<Port>,
    pub(super) outside: Vec<Outside>,
    pub(super) vpcs: Vec<Vpc>,
    pub(super) gateways: Vec<Gateway>,
    pub(super) plans: Vec<Plan>,
    pub(super) eips: Vec<Eip>,
    pub(super) dnat: Vec<Dnat>,
    pub(super) snat: Vec<Snat>,
}

impl Model {
    /// The file it was read from.
    pub fn file(&self) -> &str {
        &self.places.file
    }

    /// What the process takes of the machine.
    pub fn system(&self) -> &System {
        &self.system
    }

    /// The timeouts where an entry has none of its own.
    pub fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// How many resources there may be.
    pub fn quotas(&self) -> Quotas {
        self.quotas
    }

    /// Where resources are kept when they do not stand in the file.
    pub fn store(&self) -> Option<&Path> {
        self.store.as_deref()
    }

    /// Where the HTTP API is served.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// Where sessions are logged.
    pub fn session_log(&self) -> Option<&SessionLog> {
        self.session_log.as_ref()
    }

    /// Where it is kept what gateways and EIPs used.
    pub fn metering(&self) -> Option<&Metering> {
        self.metering.as_ref()
    }

    /// How DPDK is started, if a port needs it.
    pub fn dpdk(&self) -> &Dpdk {
        &self.dpdk
    }

    /// The same settings with resources that do not stand in the file; EIPs and entries are left out. The caller vouches for the rules between them.
    pub fn with_resources(&self, vpcs: Vec<Vpc>, gateways: Vec<Gateway>, plans: Vec<Plan>) -> Self {
        Self {
            places: self.places.clone(),
            system: self.system.clone(),
            timeouts: self.timeouts,
            quotas: self.quotas,
            store: self.store.clone(),
            api: self.api.clone(),
            session_log: self.session_log.clone(),
            metering: self.metering.clone(),
            dpdk: self.dpdk.clone(),
            ports: self.ports.clone(),
            outside: self.outside.clone(),
            vpcs,
            gateways,
            plans,
            eips: Vec::new(),
            dnat: Vec::new(),
            snat: Vec::new(),
        }
    }

    /// The ports, by [`PortIndex`](crate::base::PortIndex). Not empty.
    pub fn ports(&self) -> &[Port] {
        &self.ports
    }

    /// The interfaces on the Internet side.
    pub fn outside(&self) -> &[Outside] {
        &self.outside
    }

    /// The VPCs.
    pub fn vpcs(&self) -> &[Vpc] {
        &self.vpcs
    }

    /// The gateways.
    pub fn gateways(&self) -> &[Gateway] {
        &self.gateways
    }

    /// The bandwidth plans.
    pub fn plans(&self) -> &[Plan] {
        &self.plans
    }

    /// The EIPs.
    pub fn eips(&self) -> &[Eip] {
        &self.eips
    }

    /// The DNAT entries.
    pub fn dnat(&self) -> &[Dnat] {
        &self.dnat
    }

    /// The SNAT entries.
    pub fn snat(&self) -> &[Snat] {
        &self.snat
    }
}
