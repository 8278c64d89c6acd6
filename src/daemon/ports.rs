//! Opening the configured ports, and buffers for all of them.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::base::PortIndex;
use crate::config::{Backend, Link, Model, Rss, Vlan};
use crate::daemon::capsule::Capsule;
use crate::daemon::dpdk::{Dpdk, PortOptions};
use crate::nic::af_packet::Steering;
use crate::nic::af_xdp::{Claims, Owner, Prefix, Share};
use crate::nic::open::{self as nic, Opener};
use crate::nic::pcap::replay::{self, Replay};
use crate::nic::{Crew, Pool, Port};
use crate::worker::setup::buffers;

/// A port cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no memory for buffers.
    #[error("{buffers} packet buffers of {size} bytes: {error}")]
    Buffers {
        /// How many were asked for.
        buffers: usize,
        /// The size of each in bytes.
        size: usize,
        /// The kernel's reason.
        error: io::Error,
    },
    /// With capsule a worker needs a core.
    #[error(
        "the back end capsule needs a core for each worker, and there are {cores} for {workers}: lower system.workers"
    )]
    Cores {
        /// The workers.
        workers: usize,
        /// The cores that natgate may run on.
        cores: usize,
    },
    /// DPDK does not start.
    #[error("{0}")]
    Dpdk(io::Error),
    /// The back end refused.
    #[error("port \"{port}\": {error}")]
    Port {
        /// The port's name.
        port: String,
        /// The back end's reason.
        error: io::Error,
    },
}

/// What was opened.
pub(super) struct Opened {
    pub(super) ports: Vec<Port>,
    pub(super) pool: Arc<Pool>,
    pub(super) claims: SharedPorts,
    /// The workers' threads, where a back end brings them.
    pub(super) crew: Option<Crew>,
}

/// Opens all ports of a configuration, or none. The cores are the workers', if they are to have some.
pub(super) fn open(model: &Model, workers: usize, cores: Option<&[usize]>) -> Result<Opened, OpenError> {
    let system = model.system();
    let buffers = system.buffers.unwrap_or_else(|| buffers(model.ports().len(), workers));
    let size = system.buffer_size;
    let dpdk = Dpdk::start(model, workers, buffers)?;
    let mut capsule = Capsule::start(model, cores.unwrap_or_default(), buffers)?;
    let pool = match dpdk.pool().or_else(|| capsule.pool()) {
        Some(pool) => pool,
        None => Pool::new(buffers, size).map_err(|error| OpenError::Buffers { buffers, size, error })?,
    };
    let opener = Opener::new(&pool, workers * model.ports().len());
    let replay = Replay::new();
    let mut ports = Vec::new();
    let mut claims = SharedPorts::default();
    for (index, port) in model.ports().iter().enumerate() {
        let index = PortIndex(index as u16);
        let steering = steering(model, index);
        let opened = match &port.backend {
            Backend::Auto { device, share } => {
                let share = claims.share(*share, index, device);
                share.and_then(|share| {
                    opener.open(nic::Backend::Auto, device, index, workers, &share, steering)
                })
            }
            Backend::AfXdp { device, share } => {
                let share = claims.share(*share, index, device);
                share.and_then(|share| {
                    opener.open(nic::Backend::AfXdp, device, index, workers, &share, steering)
                })
            }
            Backend::AfPacket { device } => {
                opener.open(nic::Backend::AfPacket, device, index, workers, &Share::Exclusive, steering)
            }
            Backend::Dpdk { device, promiscuous } => {
                // By flow, packets to one DNAT port are spread over all workers.
                let by_flow = steering == Steering::OutsidePort && model.dpdk().rss == Rss::Flow;
                let steering = if by_flow { Steering::FlowHash } else { steering };
                let (mtu, promiscuous) = (mtu(model, index), *promiscuous);
                dpdk.open(device, index, workers, PortOptions { mtu, steering, promiscuous })
            }
            Backend::Capsule { device } => capsule.open(device, index),
            Backend::Pcap { replay: input, capture, mac } => {
                let (input, output) = (input.clone(), capture.clone());
                let options =
                    replay::Options { input, output, mac: *mac, mtu: mtu(model, index).unwrap_or(1500) };
                replay.open(index, workers, &options)
            }
        };
        ports.push(opened.map_err(|error| OpenError::Port { port: port.name.to_string(), error })?);
    }
    claims.follow(model, || model.eips().iter().map(|eip| eip.address))?;
    Ok(Opened { ports, pool, claims, crew: capsule.crew() })
}

/// How a port's packets come to the worker that owns their sessions: by what the port carries.
fn steering(model: &Model, port: PortIndex) -> Steering {
    let outside = model.outside().iter().any(|outside| outside.link.port == port);
    let mut inside = model.vpcs().iter().flat_map(|vpc| &vpc.vswitches).filter_map(|vswitch| vswitch.link);
    // VPCs that live in a store come and go: they are where the Internet is not.
    let in_store = model.store().is_some() && !outside;
    match (outside, in_store || inside.any(|link| link.port == port)) {
        (true, false) => Steering::OutsidePort,
        (false, true) => Steering::InsideSource,
        _ => Steering::FlowHash,
    }
}

/// The largest MTU that is said of the interfaces on a port.
fn mtu(model: &Model, port: PortIndex) -> Option<u16> {
    let outside = model.outside().iter().map(|outside| outside.link);
    let inside = model.vpcs().iter().flat_map(|vpc| &vpc.vswitches).filter_map(|vswitch| vswitch.link);
    let mtus = outside.chain(inside).filter(|link| link.port == port).filter_map(|link| link.mtu);
    mtus.max()
}

/// Ports that leave to the kernel what is not the gateway's.
#[derive(Debug, Default)]
pub(super) struct SharedPorts(Vec<SharedPort>);

#[derive(Debug)]
struct SharedPort {
    index: PortIndex,
    device: String,
    claims: Arc<Claims>,
}

impl SharedPorts {
    /// Makes the gateway's what a configuration says; `eips` tells its EIPs.
    pub(super) fn follow<I: Iterator<Item = Ipv4Addr>>(
        &self,
        model: &Model,
        eips: impl Fn() -> I,
    ) -> Result<(), OpenError> {
        for SharedPort { index, device, claims } in &self.0 {
            let wanted = kernel_addresses(device)
                .and_then(|kernel| claims.replace(claimed(model, eips(), *index, &kernel)));
            wanted.map_err(|error| {
                let port =
                    model.ports().get(index.index()).map_or_else(String::new, |port| port.name.to_string());
                let error = io::Error::new(error.kind(), format!("sharing with the kernel: {error}"));
                OpenError::Port { port, error }
            })?;
        }
        Ok(())
    }

    /// How a port is shared; what is the gateway's there is said by [`follow`](Self::follow).
    fn share(&mut self, is_shared: bool, index: PortIndex, device: &str) -> io::Result<Share> {
        if !is_shared {
            return Ok(Share::Exclusive);
        }
        let claims = Claims::new()?;
        self.0.push(SharedPort { index, device: device.to_owned(), claims: Arc::clone(&claims) });
        Ok(Share::Kernel(claims))
    }
}

/// Whose the addresses on a port are.
///
/// On the Internet side the gateway's are its own address, its EIPs, and its next hops (so that it hears of their moves). On
/// a VPC's side it is to receive packets for any destination, except the kernel's own addresses.
fn claimed(
    model: &Model,
    eips: impl Iterator<Item = Ipv4Addr>,
    port: PortIndex,
    kernel: &[Ipv4Addr],
) -> Vec<(Prefix, Owner)> {
    let mut claimed = Vec::new();
    let eips: Vec<_> = eips.collect();
    for outside in model.outside().iter().filter(|outside| outside.link.port == port) {
        let own = std::iter::once(outside.link.address);
        let next_hops = outside.gateway.into_iter().chain(outside.routes.iter().map(|route| route.via));
        let is_here = |eip: &&Ipv4Addr| outside.public.iter().any(|range| range.contains((**eip).into()));
        let eips = eips.iter().filter(is_here).copied();
        let vlan = vlan(&outside.link);
        let all = own.chain(next_hops).chain(eips);
        claimed.extend(all.map(|address| (Prefix { vlan, address, length: 32 }, Owner::Gateway)));
    }
    let links = model.vpcs().iter().flat_map(|vpc| &vpc.vswitches).filter_map(|vswitch| vswitch.link);
    for link in links.filter(|link| link.port == port) {
        let vlan = vlan(&link);
        claimed.push((Prefix { vlan, address: Ipv4Addr::UNSPECIFIED, length: 0 }, Owner::Gateway));
        // The device itself has its addresses without a VLAN.
        let kernel = kernel.iter().filter(|address| vlan == 0 && **address != link.address);
        claimed.extend(kernel.map(|&address| (Prefix { vlan, address, length: 32 }, Owner::Kernel)));
    }
    claimed
}

fn vlan(link: &Link) -> u16 {
    link.vlan.map_or(0, Vlan::get)
}

/// The addresses that the kernel itself has on a device.
fn kernel_addresses(device: &str) -> io::Result<Vec<Ipv4Addr>> {
    let all = nix::ifaddrs::getifaddrs()?.filter(|interface| interface.interface_name == device);
    Ok(all.filter_map(|interface| Some(interface.address?.as_sockaddr_in()?.ip())).collect())
}
