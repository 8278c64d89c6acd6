//! DPDK: poll-mode drivers in user space. Ports are NICs that were taken from the kernel, by their PCI address, or DPDK's
//! virtual devices: `net_af_packet0,iface=eth0`, `net_memif0,...`, `net_pcap0,...` and so on.
//!
//! A thin binding of our own: `shim.c` makes plain functions of what in DPDK is inline functions and large structures, and
//! `sys` declares them. The packet pool lies over DPDK's pool of buffers: a free buffer is free in both, a frame is where
//! the port has put it, and is sent from there. Nothing is copied and nothing is allocated. Where ports sit on several NUMA
//! nodes, DPDK has a pool on each of them (`pools`).
//!
//! ```text
//! port --rx burst--> buffer = frame --engine--> the same buffer --tx burst--> port --> DPDK's pool
//!                      DPDK's pool <--groups of 64--> a worker's cache (drops, frames of the gateway's own)
//! ```
//!
//! Which queue a frame comes to is the NIC's to say, by RSS. Where its key and its indirection table can be set, it says the owner
//! of the packet's session; else its key and its table are read back, and external ports are chosen to suit them
//! ([`rss`](crate::base::rss)).
//!
//! Each worker polls one queue of every port. Its thread is made known to DPDK when it polls for the first time, which gives it
//! a cache of buffers in DPDK's pool.
//!
//! # Limits
//! - DPDK 22.11 or newer. It is started once in a process.
//! - Frames that the gateway makes itself lie in the first pool, on whichever NUMA node that is.
//! - A frame must fit a buffer (`system.buffer_size`); what arrives in several segments is copied into one, or refused and
//!   counted if it is larger.
//! - Over a kernel device (`net_af_packet`, `net_af_xdp`, `net_tap`) DPDK neither splits super-frames (GSO) of a local
//!   sender nor has them: turn them off there (`ethtool -K DEVICE tso off gso off`). The back ends of natgate's own for
//!   kernel devices need no such care, and are faster.
//! - `net_memif` unmaps the rings of a peer that goes while they may be polled (DPDK 22.11): the process can die of it. For load
//!   tests, not for service.
//! - A process that is a DPDK secondary of this one cannot attach, for the workers are no threads of DPDK's own.

#[cfg(feature = "capsule")]
pub mod capsule;
mod device;
mod eal;
mod pools;
mod queue;
mod rss;
mod sys;

use std::ffi::CString;
use std::io;
use std::sync::Arc;

pub use eal::{Hugepages, Options};

use super::af_packet::Steering;
use super::device as kernel;
use super::{Pool, Port, PortInfo, Queue};
use crate::base::hugepage::Pages;
use crate::base::rss::OwnedBy;
use crate::base::{Checksum, PortIndex};
use device::{DeviceName, invalid, why_no_port};
use eal::{Eal, explained};
use pools::{Pools, Share, pool_over, shares};
use queue::{Device, DpdkQueue, Watched};
use rss::Wish;
use sys::{Facts, Lane};

/// Bytes in front of a received frame, as DPDK has them (`RTE_PKTMBUF_HEADROOM`).
const HEADROOM: usize = 128;
/// Bytes of an Ethernet header with one VLAN tag.
const ETHERNET: usize = 18;
/// Entries of a ring, where the pool is large enough.
const RING: usize = 1024;
/// And at least.
const SMALLEST_RING: usize = 64;
/// Bytes of a buffer that are neither headroom nor frame, for an estimate of the memory.
const BUFFER: usize = 256;

/// Drivers whose frames may come from a kernel on the same machine, which leaves checksums to be finished later.
const LOCAL_SENDERS: [&str; 6] = ["af_packet", "af_xdp", "net_pcap", "tap", "vhost", "virtio"];

/// What a port is to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortOptions {
    /// What its interfaces need at most, if that is said.
    pub mtu: Option<u16>,
    /// What a NIC with RSS is made to do, if its key and its indirection table can be set.
    pub steering: Steering,
    /// Whether it delivers frames to any Ethernet address, and not only those to its own and to all.
    pub promiscuous: bool,
}

/// DPDK with its packet pool. Ports are opened on it.
#[derive(Debug)]
pub struct Dpdk {
    pools: Arc<Pools>,
    pool: Arc<Pool>,
    descriptors: u16,
    /// Those that DPDK's memory lies on.
    pages: Pages,
}

impl Dpdk {
    /// Starts DPDK for these devices, which will have `queues` queues in all, with `buffers` packet buffers that hold a
    /// frame of `size` bytes each.
    ///
    /// # Errors
    /// With a message for people: too few huge pages where they are required, no memory, a device's name that is none,
    /// arguments that DPDK does not take; if DPDK was started before in this process.
    pub fn start(
        options: &Options,
        devices: &[&str],
        queues: usize,
        buffers: usize,
        size: usize,
    ) -> io::Result<Self> {
        let devices: Vec<_> =
            devices.iter().map(|name| DeviceName::parse(name)).collect::<io::Result<_>>()?;
        check_size(size)?;
        let (Ok(count), true) = (u32::try_from(buffers), buffers > 0) else {
            return Err(invalid(format!("DPDK cannot have {buffers} packet buffers")));
        };
        devices.iter().try_for_each(DeviceName::check)?;
        let eal = Eal::start(options, &devices, buffers * (size + BUFFER))?;
        let nodes: Vec<_> = devices.iter().map(DeviceName::node).collect();
        Self::on(&eal, &shares(&nodes, count), queues, size)
    }

    /// On a started DPDK, with these pools of buffers that hold a frame of `size` bytes each.
    fn on(eal: &Arc<Eal>, shares: &[Share], queues: usize, size: usize) -> io::Result<Self> {
        let room = check_size(size)?;
        let buffers = shares.iter().map(|share| share.buffers as usize).sum::<usize>();
        let pools = Pools::make(eal, shares, room).map_err(|error| {
            let what = format!("no memory for {buffers} packet buffers of {size} bytes");
            let fix = more_memory(eal.pages);
            io::Error::new(error.kind(), format!("{what}: {}: {fix}", explained(&error)))
        })?;
        let pool = pool_over(&pools, buffers, room, eal.pages);
        // At most half of the buffers wait for frames.
        let share = buffers / 2 / queues.max(1);
        let ring = share.checked_ilog2().map_or(0, |bits| 1 << bits).clamp(SMALLEST_RING, RING);
        Ok(Self { pools, pool, descriptors: ring as u16, pages: eal.pages })
    }

    /// The packet pool.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Opens a device with `queues` queues.
    ///
    /// # Errors
    /// With a message for people: if there is no such device, it is the kernel's or another process has it; if it has too few
    /// queues, does not take the MTU, or has no promiscuous mode and is to have one; and DPDK's own.
    pub fn open(
        &self,
        device: &str,
        index: PortIndex,
        queues: usize,
        options: PortOptions,
    ) -> io::Result<Port> {
        let PortOptions { mtu, steering, promiscuous } = options;
        let device = DeviceName::parse(device)?;
        let guard = device.interface().map(Guard::prepare).transpose()?;
        let port = take(&device)?;
        let mut facts = sys::facts(port).map_err(|error| context("it says nothing of itself", &error))?;
        let count = check_queues(&device, &facts, queues)?;
        let most = self.pool.slot_size() - HEADROOM - ETHERNET;
        if let Some(mtu) = mtu.filter(|&mtu| usize::from(mtu) > most) {
            return Err(invalid(format!(
                "a packet of its MTU {mtu} does not fit a buffer, which holds {most} bytes: raise system.buffer_size"
            )));
        }
        if let Some(guard) = &guard {
            facts.mtu = guard.mtu;
        }
        // An MTU is raised and never lowered; that of a kernel device is not DPDK's to change.
        let raised = mtu.filter(|&mtu| mtu > facts.mtu && guard.is_none()).unwrap_or(0);
        let by = match steering {
            Steering::FlowHash => None,
            Steering::InsideSource => Some(OwnedBy::Source),
            Steering::OutsidePort => Some(OwnedBy::DestinationPort),
        };
        let wish = Wish::new(by, count, &facts)?;
        sys::start_port(port, &self.pools, count, self.descriptors, raised, &wish.key, &mut facts).map_err(
            |(step, error)| match error.kind() {
                // Queues of descriptors lie in DPDK's memory, too.
                io::ErrorKind::OutOfMemory => {
                    context(&format!("{step} finds no memory: {}", more_memory(self.pages)), &error)
                }
                _ => context(&format!("{step} fails"), &error),
            },
        )?;
        let driver = facts.driver();
        let mut whole = Device::new(port, count, &self.pools, &wish.key);
        if promiscuous {
            whole.be_promiscuous().map_err(|error| {
                context(&format!("{driver} has no promiscuous mode: remove `promiscuous`"), &error)
            })?;
        }
        let shared = Arc::new(whole);
        let distribution = wish.settle(port);
        if sys::speed(port) == Some(0) {
            log::warn!("{}: no link yet", device.name());
        }
        let is_local = LOCAL_SENDERS.iter().any(|name| driver.contains(name));
        let unverified = if is_local { Checksum::MaybePartial } else { Checksum::Unverified };
        let queues = (0..count).map(|queue| {
            let lane = Lane::new(port, queue, &self.pools, &self.pool);
            Box::new(DpdkQueue::new(lane, &shared, index, unverified, queue == 0)) as Box<dyn Queue>
        });
        let info = PortInfo {
            device: device.name().to_owned(),
            mode: mode(&driver, &facts, count, promiscuous, distribution.describe()),
            mac: facts.mac,
            mtu: usize::from(facts.mtu).min(most) as u16,
        };
        let (queues, rss) = (queues.collect(), distribution.rss());
        let monitor = Box::new(Watched::new(&shared, distribution));
        let guard = guard.map(|guard| Box::new(guard) as _);
        Ok(Port { index, info, queues, rss, monitor: Some(monitor), guard })
    }
}

/// Bytes of a buffer that holds a frame of `size` bytes.
fn check_size(size: usize) -> io::Result<u16> {
    u16::try_from(size + HEADROOM)
        .map_err(|_| invalid(format!("DPDK has buffers of at most 32768 bytes, not {size}")))
}

/// How DPDK comes to more memory, in words.
const fn more_memory(pages: Pages) -> &'static str {
    match pages {
        Pages::Small => "raise dpdk.memory or lower system.buffers",
        Pages::Huge | Pages::Transparent => {
            "set more huge pages (`dpdk-env/setup hugepages`) or lower system.buffers"
        }
    }
}

/// Undone when dropped.
#[derive(Debug)]
struct Guard {
    /// The device's MTU.
    mtu: u16,
    _promiscuous: kernel::Promiscuous,
    _unmerged: kernel::Unmerged,
}

impl Guard {
    /// Makes a kernel device ready to be opened by a virtual one.
    fn prepare(name: &str) -> io::Result<Self> {
        let device = kernel::Device::find(name)?;
        if !device.is_up()? {
            let message = format!("`{name}` is down: `ip link set dev {name} up`");
            return Err(io::Error::new(io::ErrorKind::NetworkDown, message));
        }
        let mtu = device.mtu()?.try_into().unwrap_or(u16::MAX);
        Ok(Self { mtu, _promiscuous: device.promiscuous()?, _unmerged: device.unmerged() })
    }
}

/// The number of the port on a device that DPDK has taken.
fn take(device: &DeviceName) -> io::Result<u16> {
    let name = CString::new(device.name())?;
    if let DeviceName::Virtual { arguments, .. } = device {
        sys::probe(&CString::new(arguments.as_str())?)
            .map_err(|error| context(&format!("DPDK does not make the device {arguments}"), &error))?;
    }
    sys::port_of(&name).map_err(|error| match device {
        DeviceName::Pci(address) => io::Error::new(io::ErrorKind::NotFound, why_no_port(address)),
        DeviceName::Virtual { .. } => context("DPDK has made no port of it", &error),
    })
}

fn check_queues(device: &DeviceName, facts: &Facts, queues: usize) -> io::Result<u16> {
    let most = facts.receive_queues.min(facts.transmit_queues);
    // The kernel distributes frames over all sockets that this driver was told to open, polled or not.
    let is_exact = facts.driver() == "net_af_packet";
    if let Some(count) = u16::try_from(queues).ok().filter(|&count| count > 0 && count <= most)
        && (count == most || !is_exact)
    {
        return Ok(count);
    }
    let hint = match (device, facts.driver().as_str()) {
        (DeviceName::Virtual { .. }, "net_af_packet") => format!("it must say `,qpairs={queues}`"),
        (DeviceName::Virtual { .. }, "net_af_xdp") => format!("it must say `,queue_count={queues}`"),
        (DeviceName::Virtual { .. }, "net_pcap") => "name one capture for each queue".to_owned(),
        (DeviceName::Virtual { .. }, "net_vhost" | "net_virtio_user") => {
            format!("it must say `,queues={queues}`")
        }
        _ => "lower system.workers".to_owned(),
    };
    Err(invalid(format!(
        "it has {most} queues, and there must be one for each of the {queues} workers: {hint}"
    )))
}

fn mode(driver: &str, facts: &Facts, queues: u16, promiscuous: bool, distribution: &str) -> String {
    let plural = if queues == 1 { "" } else { "s" };
    let mut mode = format!(
        "dpdk, {driver}, {queues} queue{plural}, rings of {} and {}",
        facts.receive_ring, facts.transmit_ring
    );
    if facts.checksums {
        mode.push_str(", it verifies checksums");
    }
    if promiscuous {
        mode.push_str(", promiscuous");
    }
    if queues > 1 && !distribution.is_empty() {
        mode.push_str(", ");
        mode.push_str(distribution);
    }
    mode
}

/// Says what was being done when DPDK refused.
fn context(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {}", explained(error)))
}

#[cfg(test)]
mod tests {
    use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

    use super::*;

    /// DPDK is started once in a process: tests have it from here, and take turns.
    pub(super) fn started() -> MutexGuard<'static, Arc<Eal>> {
        static EAL: LazyLock<Mutex<Arc<Eal>>> = LazyLock::new(|| {
            let options = Options { hugepages: Hugepages::Off, ..Options::default() };
            Mutex::new(Eal::start(&options, &[], 1 << 25).unwrap())
        });
        EAL.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
