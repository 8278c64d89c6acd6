//! The DPDK of a gateway, where it was built with it and a port needs it.

use std::io;
use std::sync::Arc;

use super::ports::OpenError;
use crate::base::PortIndex;
use crate::config::{Backend, Model};
use crate::nic::{Pool, Port};

pub(super) use imp::PortOptions;

/// DPDK, if a port needs it.
#[derive(Debug)]
pub(super) struct Dpdk(Option<imp::Dpdk>);

impl Dpdk {
    /// Starts it if a port needs it.
    pub(super) fn start(model: &Model, workers: usize, buffers: usize) -> Result<Self, OpenError> {
        let devices: Vec<&str> = model
            .ports()
            .iter()
            .filter_map(|port| match &port.backend {
                Backend::Dpdk { device, .. } => Some(device.as_str()),
                _ => None,
            })
            .collect();
        if devices.is_empty() {
            return Ok(Self(None));
        }
        let queues = workers * model.ports().len();
        imp::start(model, &devices, queues, buffers).map(|dpdk| Self(Some(dpdk))).map_err(OpenError::Dpdk)
    }

    /// Its packet pool, which then is that of all ports.
    pub(super) fn pool(&self) -> Option<Arc<Pool>> {
        self.0.as_ref().map(|dpdk| Arc::clone(dpdk.pool()))
    }

    /// Opens a port.
    pub(super) fn open(
        &self,
        device: &str,
        index: PortIndex,
        queues: usize,
        options: PortOptions,
    ) -> io::Result<Port> {
        let dpdk = self.0.as_ref().ok_or_else(|| io::Error::other("DPDK was not started"))?;
        dpdk.open(device, index, queues, options)
    }
}

/// How DPDK is started.
#[cfg(feature = "dpdk")]
pub(super) fn options(model: &Model) -> crate::nic::dpdk::Options {
    use crate::config;
    use crate::nic::dpdk::{Hugepages, Options};

    let settings = model.dpdk();
    Options {
        hugepages: match settings.hugepages {
            config::Hugepages::Auto => Hugepages::Auto,
            config::Hugepages::Require => Hugepages::Require,
            config::Hugepages::Off => Hugepages::Off,
        },
        memory: settings.memory,
        telemetry: settings.telemetry,
        arguments: settings.arguments.clone(),
    }
}

#[cfg(feature = "dpdk")]
mod imp {
    use std::io;

    use super::options;
    use crate::config::Model;
    pub(in crate::daemon) use crate::nic::dpdk::{Dpdk, PortOptions};

    pub(super) fn start(model: &Model, devices: &[&str], queues: usize, buffers: usize) -> io::Result<Dpdk> {
        Dpdk::start(&options(model), devices, queues, buffers, model.system().buffer_size)
    }
}

/// A configuration that names the back end is refused before it comes here.
#[cfg(not(feature = "dpdk"))]
mod imp {
    use std::io;
    use std::sync::Arc;

    use crate::base::PortIndex;
    use crate::config::Model;
    use crate::nic::af_packet::Steering;
    use crate::nic::{Pool, Port};

    #[derive(Debug)]
    pub(super) enum Dpdk {}

    /// What a port is to be.
    #[derive(Debug)]
    #[allow(dead_code, reason = "nothing is opened")]
    pub(in crate::daemon) struct PortOptions {
        pub(in crate::daemon) mtu: Option<u16>,
        pub(in crate::daemon) steering: Steering,
        pub(in crate::daemon) promiscuous: bool,
    }

    impl Dpdk {
        pub(super) fn pool(&self) -> &Arc<Pool> {
            match *self {}
        }

        pub(super) fn open(&self, _: &str, _: PortIndex, _: usize, _: PortOptions) -> io::Result<Port> {
            match *self {}
        }
    }

    pub(super) fn start(_: &Model, _: &[&str], _: usize, _: usize) -> io::Result<Dpdk> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "natgate was built without DPDK"))
    }
}
