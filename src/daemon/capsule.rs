//! The capsule of a gateway, where it was built with it and a port needs it.

use std::io;
use std::sync::Arc;

use super::ports::OpenError;
use crate::base::PortIndex;
use crate::config::{Backend, Model};
use crate::nic::{Crew, Pool, Port};

/// capsule, if a port needs it.
#[derive(Debug)]
pub(super) struct Capsule(Option<imp::Capsule>);

/// Whether a port needs it: then each worker has a core.
pub(super) fn is_needed(model: &Model) -> bool {
    devices(model).next().is_some()
}

fn devices(model: &Model) -> impl Iterator<Item = &str> {
    model.ports().iter().filter_map(|port| match &port.backend {
        Backend::Capsule { device } => Some(device.as_str()),
        _ => None,
    })
}

impl Capsule {
    /// Starts it on these cores, one a worker, if a port needs it.
    pub(super) fn start(model: &Model, cores: &[usize], buffers: usize) -> Result<Self, OpenError> {
        let devices: Vec<&str> = devices(model).collect();
        if devices.is_empty() {
            return Ok(Self(None));
        }
        imp::start(model, &devices, cores, buffers)
            .map(|capsule| Self(Some(capsule)))
            .map_err(OpenError::Dpdk)
    }

    /// Its packet pool, which then is that of all ports.
    pub(super) fn pool(&self) -> Option<Arc<Pool>> {
        self.0.as_ref().map(|capsule| Arc::clone(capsule.pool()))
    }

    /// Its threads, which then are those of all workers.
    pub(super) fn crew(&mut self) -> Option<Crew> {
        self.0.as_mut().and_then(imp::Capsule::take_crew)
    }

    /// Opens a port.
    pub(super) fn open(&mut self, device: &str, index: PortIndex) -> io::Result<Port> {
        let capsule = self.0.as_mut().ok_or_else(|| io::Error::other("capsule was not started"))?;
        capsule.open(device, index)
    }
}

#[cfg(feature = "capsule")]
mod imp {
    use std::io;

    use crate::config::Model;
    use crate::daemon::dpdk::options;
    pub(super) use crate::nic::dpdk::capsule::Capsule;

    pub(super) fn start(
        model: &Model,
        devices: &[&str],
        cores: &[usize],
        buffers: usize,
    ) -> io::Result<Capsule> {
        Capsule::start(&options(model), devices, cores, buffers, model.system().buffer_size)
    }
}

/// A configuration that names the back end is refused before it comes here.
#[cfg(not(feature = "capsule"))]
mod imp {
    use std::io;
    use std::sync::Arc;

    use crate::base::PortIndex;
    use crate::config::Model;
    use crate::nic::{Crew, Pool, Port};

    #[derive(Debug)]
    pub(super) enum Capsule {}

    impl Capsule {
        pub(super) fn pool(&self) -> &Arc<Pool> {
            match *self {}
        }

        pub(super) fn take_crew(&mut self) -> Option<Crew> {
            match *self {}
        }

        pub(super) fn open(&mut self, _: &str, _: PortIndex) -> io::Result<Port> {
            match *self {}
        }
    }

    pub(super) fn start(_: &Model, _: &[&str], _: &[usize], _: usize) -> io::Result<Capsule> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "natgate was built without capsule"))
    }
}
