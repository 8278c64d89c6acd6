//! The second way onto DPDK: [capsule](https://crates.io/crates/capsule), a framework for network functions. Its runtime owns
//! DPDK, the ports, the buffers and the threads; each worker is the one stage of a pipeline on its core, and is otherwise the
//! same as on any other back end.
//!
//! ```text
//! capsule's core: pipeline --run--> worker's turn: PortQueue::receive (32 at a time) --> batch of up to 256 --> engine
//!                                                  PortQueue::transmit <-- frames of each port <----------------+
//! ```
//!
//! A frame is in capsule's buffer from the port to the port and is not copied. What capsule costs is paid a burst: two
//! vectors are allocated for 32 received frames, one or two for what is sent.
//!
//! # Limits
//! Those of DPDK's back end; and capsule's own, which has had no release since 2021:
//! - A worker needs a core, and all of them are on one NUMA node, which is that of the NICs.
//! - Buffers are of 2048 bytes, so no jumbo frames. The port's MTU is left as it is.
//! - Checksums are verified in software, as capsule shows nothing of what the port says of them.
//! - What a full transmit ring does not take is freed by capsule: it is counted as an error of sending.
//! - capsule takes SIGHUP to stop: when the gateway stops, it sends one to itself.

mod queue;
mod runtime;
mod sys;

use std::io;
use std::sync::Arc;

use capsule::config::RuntimeConfig;
use serde_json::json;

use super::device::{DeviceName, invalid};
use super::{
    ETHERNET, Guard, LOCAL_SENDERS, Options, RING, SMALLEST_RING, check_queues, context, eal, sys as dpdk,
};
use crate::base::hugepage::Pages;
use crate::base::{Checksum, PortIndex};
use crate::nic::{Crew, Pool, Port, PortInfo, Queue};
use queue::{CapsuleQueue, Place, Watched};
use runtime::{Places, Post, Running};
use sys::{Buffers, Lane};

/// The buffer size that capsule has.
const BUFFER_SIZE: usize = 2048;
/// Bytes of a buffer beside the frame, for an estimate of the memory.
const BESIDE: usize = 448;
/// The largest frame that fits a buffer behind its headroom.
const LARGEST: usize = 2048;

/// capsule's runtime with its packet pool. Its ports are opened here.
pub struct Capsule {
    pool: Arc<Pool>,
    buffers: Arc<Buffers>,
    running: Arc<Running>,
    crew: Option<Crew>,
    ports: Vec<Taken>,
}

/// A port that capsule has taken and nobody has opened.
struct Taken {
    device: DeviceName,
    places: Vec<Place>,
    guard: Option<Guard>,
}

impl std::fmt::Debug for Capsule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Capsule").field("pool", &self.pool).field("crew", &self.crew).finish_non_exhaustive()
    }
}

impl Capsule {
    /// Starts capsule on these devices, each with a queue for each of `cores`, with `buffers` packet buffers that hold a frame
    /// of `size` bytes each.
    ///
    /// # Errors
    /// With a message for people: as [`Dpdk::start`](super::Dpdk::start); if the buffers are not of the size that capsule has,
    /// or cores and NICs are not on one NUMA node; if a port does not start; and capsule's own.
    pub fn start(
        options: &Options,
        devices: &[&str],
        cores: &[usize],
        buffers: usize,
        size: usize,
    ) -> io::Result<Self> {
        if size != BUFFER_SIZE {
            return Err(invalid(format!("capsule has buffers of {BUFFER_SIZE} bytes, not {size}")));
        }
        let devices: Vec<_> =
            devices.iter().map(|name| DeviceName::parse(name)).collect::<io::Result<_>>()?;
        devices.iter().try_for_each(DeviceName::check)?;
        let main = main_core(cores)?;
        let node = cores.first().map_or(-1, |&core| node_of(core));
        devices.iter().try_for_each(|device| check_node(device.name(), device.node(), cores, node))?;
        let guards = devices.iter().map(|device| device.interface().map(Guard::prepare).transpose());
        let guards: Vec<_> = guards.collect::<io::Result<_>>()?;
        let (memory, pages) = eal::begin(options, buffers * (size + BESIDE))?;
        let arguments = arguments(options, &devices, pages, memory)?;
        let config = config(&devices, cores, main, buffers, &arguments)?;

        let (crew, work) = Crew::new(cores.len());
        let place = || -> Vec<Place> { cores.iter().map(|_| Place::default()).collect() };
        let ports: Vec<_> = devices
            .into_iter()
            .zip(guards)
            .map(|(device, guard)| Taken { device, places: place(), guard })
            .collect();
        let posts = cores.iter().zip(work).enumerate().map(|(worker, (&core, work))| {
            let of_worker = |port: &Taken| {
                let place = port.places.get(worker).map(Arc::clone).unwrap_or_default();
                (port.device.name().to_owned(), place)
            };
            let places: Places = ports.iter().map(of_worker).collect();
            Post { core, work, places }
        });
        let (keeper, running) = runtime::start(config, main, posts.collect())
            .map_err(|error| context("capsule does not start", &error))?;
        let found = Arc::new(Buffers::find(&Arc::new(keeper))?);
        let pool = sys::pool_over(&found, buffers, pages)?;
        Ok(Self { pool, buffers: found, running: Arc::new(running), crew: Some(crew), ports })
    }

    /// The packet pool.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// The threads of capsule's cores, once.
    pub fn take_crew(&mut self) -> Option<Crew> {
        self.crew.take()
    }

    /// Opens one of the devices, once.
    ///
    /// # Errors
    /// With a message for people: if capsule has not taken this device, or it has not as many queues as it should.
    pub fn open(&mut self, device: &str, index: PortIndex) -> io::Result<Port> {
        let device = DeviceName::parse(device)?;
        let at = self.ports.iter().position(|port| port.device == device);
        let at = at.ok_or_else(|| invalid(format!("capsule was started without {}", device.name())))?;
        let Taken { places, guard, .. } = self.ports.remove(at);
        let port = dpdk::port_of(&std::ffi::CString::new(device.name())?)?;
        let facts = dpdk::facts(port).map_err(|error| context("it says nothing of itself", &error))?;
        let count = check_queues(&device, &facts, places.len())?;
        let driver = facts.driver();
        let is_local = LOCAL_SENDERS.iter().any(|name| driver.contains(name));
        let checksum = if is_local { Checksum::MaybePartial } else { Checksum::Unverified };
        let queues = places.into_iter().enumerate().map(|(at, place)| {
            let lane = Lane::new(&self.buffers, &self.pool);
            let queue = CapsuleQueue::new(lane, place, &self.running, index, checksum, (port, at == 0));
            Box::new(queue) as Box<dyn Queue>
        });
        let mtu = guard.as_ref().map_or(facts.mtu, |guard| guard.mtu);
        let plural = if count == 1 { "" } else { "s" };
        let info = PortInfo {
            device: device.name().to_owned(),
            mode: format!("dpdk by capsule, {driver}, {count} queue{plural}"),
            mac: facts.mac,
            mtu: usize::from(mtu).min(LARGEST - ETHERNET) as u16,
        };
        let guard = guard.map(|guard| Box::new(guard) as _);
        let queues = queues.collect();
        let monitor = Some(Box::new(Watched::new(port, &self.running)) as _);
        Ok(Port { index, info, queues, rss: None, monitor, guard })
    }
}

/// The core on which capsule's own tasks run: one of no worker, or the first of them if there is no other.
fn main_core(cores: &[usize]) -> io::Result<usize> {
    let Some(&first) = cores.first() else { return Err(invalid("capsule needs a core for each worker")) };
    if let Some(other) = cores.iter().find(|&&core| node_of(core) != node_of(first)) {
        return Err(invalid(format!(
            "cores {first} and {other} are on different NUMA nodes, and with capsule all workers share one pool of buffers: \
             name cores of one node in system.cores"
        )));
    }
    let all = core_affinity::get_core_ids().unwrap_or_default();
    let mut others = all.iter().map(|core| core.id).filter(|core| !cores.contains(core));
    Ok(others.find(|&core| node_of(core) == node_of(first)).unwrap_or(first))
}

/// The NUMA node of a core.
fn node_of(core: usize) -> i32 {
    i32::try_from(core).map_or(-1, capsule_ffi::numa_node_of_cpu)
}

/// That a NIC is on the node of the workers' cores, if it says on which it is: capsule has buffers on the nodes of cores only.
fn check_node(name: &str, of_device: Option<i32>, cores: &[usize], of_cores: i32) -> io::Result<()> {
    match of_device {
        Some(node) if node != of_cores => Err(invalid(format!(
            "{name} is on NUMA node {node}, and the workers' cores {cores:?} are on node {of_cores}, where capsule has its \
             buffers: name cores of node {node} in system.cores, or take the back end dpdk"
        ))),
        _ => Ok(()),
    }
}

/// Further arguments for DPDK. capsule names the devices itself.
fn arguments(options: &Options, devices: &[DeviceName], pages: Pages, memory: usize) -> io::Result<String> {
    let mut all = eal::memory_arguments(options, devices, pages, memory);
    if !devices.iter().any(|device| matches!(device, DeviceName::Pci(_))) {
        all.push("--no-pci".to_owned());
    }
    all.extend(options.arguments.iter().cloned());
    if let Some(argument) = all.iter().find(|argument| argument.contains(char::is_whitespace)) {
        return Err(invalid(format!("capsule takes no argument with a blank in it: `{argument}`")));
    }
    Ok(all.join(" "))
}

/// capsule's configuration.
fn config(
    devices: &[DeviceName],
    cores: &[usize],
    main: usize,
    buffers: usize,
    arguments: &str,
) -> io::Result<RuntimeConfig> {
    // At most half of the buffers wait for frames.
    let share = buffers / 2 / (cores.len() * devices.len()).max(1);
    let ring = share.checked_ilog2().map_or(0, |bits| 1 << bits).clamp(SMALLEST_RING, RING);
    let ports = devices.iter().map(|device| {
        let arguments = match device {
            DeviceName::Virtual { arguments, .. } => {
                arguments.split_once(',').map(|(_, arguments)| arguments)
            }
            DeviceName::Pci(_) => None,
        };
        json!({
            "name": device.name(), "device": device.name(), "args": arguments, "cores": cores,
            "rxd": ring, "txd": ring, "multicast": false,
        })
    });
    let config = json!({
        "app_name": "natgate",
        "master_core": main,
        "mempool": { "capacity": buffers, "cache_size": (buffers / 16).min(256) },
        "ports": ports.collect::<Vec<_>>(),
        "dpdk_args": arguments,
    });
    // The types of some of its fields cannot be named outside of capsule.
    serde_json::from_value(config).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nic_on_another_node_than_the_cores_is_refused() {
        let name = "0000:81:00.0";
        for node in [None, Some(0)] {
            check_node(name, node, &[2, 3], 0).unwrap();
        }
        let error = check_node(name, Some(1), &[2, 3], 0).unwrap_err().to_string();
        for words in ["0000:81:00.0 is on NUMA node 1", "cores [2, 3] are on node 0", "name cores of node 1"]
        {
            assert!(error.contains(words), "{error}");
        }
    }
}
