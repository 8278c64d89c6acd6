//! Linux XDP sockets: frames go between a device's driver and the packet pool past the kernel's network stack.
//!
//! Everything is done by plain system calls. The pool is the one umem of all ports and queues ([`Umem`]), so a frame
//! leaves by another port without being copied in user space. A small XDP program on the device sends all frames to
//! the sockets, or only those for the gateway's addresses where the port is shared with the kernel ([`Claims`]).
//!
//! The program, the sockets and promiscuous mode end with the process, however it ends. The offloads that are turned
//! off while a port is open (VLAN stripping, LRO) are turned on again only by an orderly close.
//!
//! # Limits
//! - Linux 5.10 and later; the privileges `CAP_NET_ADMIN`, `CAP_NET_RAW` and `CAP_BPF` (or root).
//! - The device must have as many queues as there are workers, exactly.
//! - A frame must fit a slot behind the headroom: MTU 1774 with slots of 2048 bytes, 3822 with 4096.
//! - XDP sees no VLAN tag that a *sender's* kernel keeps beside the frame: on a veth pair whose far end is under a
//!   VLAN device, turn it off there (`ethtool -K DEVICE tx-vlan-offload off`).
//! - In generic mode a local sender's unsegmented TCP frames (GSO) do not fit a slot and are lost; turn it off there
//!   (`ethtool -K DEVICE tso off gso off`). In native mode a veth pair does that itself.

mod bpf;
mod claims;
mod queue;
mod rings;
mod sys;
mod umem;

use std::io;
use std::sync::Arc;

pub use claims::{Claims, Owner, Prefix};
pub use umem::Umem;

use super::device::{Device, Promiscuous, RawFrames};
use super::pool::HEADROOM;
use super::{Port, PortInfo, Queue};
use crate::base::{Checksum, PortIndex};
use bpf::{Hook, Link, Program};
use queue::{Shape, XdpQueue};
use umem::Transfer;

/// Bytes of an Ethernet header with one VLAN tag.
const ETHERNET: usize = 18;

/// Who gets the frames of a port.
#[derive(Clone, Debug, Default)]
pub enum Share {
    /// The gateway, all of them.
    #[default]
    Exclusive,
    /// The gateway those for its own addresses, and the kernel the others.
    Kernel(Arc<Claims>),
}

/// Where the program runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attach {
    /// In the driver if that is possible, else in the kernel's general path.
    #[default]
    Best,
    /// In the driver, or not at all.
    Native,
    /// In the kernel's general path.
    Generic,
}

/// Whether the device itself reads and writes the packet pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZeroCopy {
    /// If the driver can; else the kernel copies.
    #[default]
    Best,
    /// Or the port is not opened.
    Require,
    /// Never: the kernel copies.
    Off,
}

/// How a port is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who gets the frames.
    pub share: Share,
    /// Where the program runs.
    pub attach: Attach,
    /// Who copies the frames.
    pub zero_copy: ZeroCopy,
    /// Entries of each ring of a queue: a power of two, 64 to 32768. A queue keeps so many slots of the pool waiting
    /// for frames, and at most as many on their way out.
    pub ring: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            share: Share::default(),
            attach: Attach::default(),
            zero_copy: ZeroCopy::default(),
            ring: 2048,
        }
    }
}

/// Undone when dropped, in this order: no more frames are taken, then the device is as it was.
#[derive(Debug)]
struct Guard {
    _link: Link,
    _promiscuous: Promiscuous,
    _frames: RawFrames,
}

/// Opens a device of the caller's network namespace with `queues` queues.
///
/// # Errors
/// With a message for people: if there is no such Ethernet device, it is down, has another number of queues or an MTU
/// that a slot cannot hold; if the pool is too small or its slots are not of 2048 or 4096 bytes; if another XDP
/// program is on the device; if `options` ask for what the driver cannot do; and the kernel's own.
pub fn open(
    device: &str,
    port: PortIndex,
    queues: usize,
    umem: &Arc<Umem>,
    options: &Options,
) -> io::Result<Port> {
    let device = Device::find(device)?;
    let name = device.name().to_owned();
    check_pool(umem, options)?;
    check_queues(&device, queues)?;
    if !device.is_up()? {
        let message = format!("`{name}` is down: `ip link set dev {name} up`");
        return Err(io::Error::new(io::ErrorKind::NetworkDown, message));
    }
    let mtu = check_mtu(&device, umem.pool().slot_size())?;
    let mac = device.mac()?;
    let driver = device.driver();
    let checksum = if device.has_local_senders() { Checksum::MaybePartial } else { Checksum::Unverified };

    let index = device.index();
    let promiscuous = device.promiscuous()?;
    let frames = device.raw_frames()?;
    let claims = match &options.share {
        Share::Exclusive => None,
        Share::Kernel(claims) => Some(claims.trie()),
    };
    let program = Program::load(queues, claims)
        .map_err(context("cannot load the XDP program (it needs CAP_BPF and CAP_NET_ADMIN)"))?;
    let (link, hook, attach_note) = attach(&program, index, &name, options.attach)?;
    let strips_vlan = frames.strips_vlan();
    let guard = Guard { _link: link, _promiscuous: promiscuous, _frames: frames };

    let program = Arc::new(program);
    let open_all = |transfer| {
        let shape = Shape { port, device: index, transfer, checksum, entries: options.ring };
        open_queues(umem, &program, queues, &shape)
    };
    let copying = |why: &str| Ok((open_all(Transfer::Copy)?, format!("copy ({why})")));
    let (opened, transfer_note) = match (options.zero_copy, hook) {
        (ZeroCopy::Off, _) => copying("as asked for"),
        (ZeroCopy::Require, Hook::Generic) => {
            Err(io::Error::new(io::ErrorKind::Unsupported, "there is no zero-copy in generic mode"))
        }
        (ZeroCopy::Best, Hook::Generic) => copying("generic mode does no zero-copy"),
        (ZeroCopy::Require | ZeroCopy::Best, Hook::Native) => match open_all(Transfer::Direct) {
            Ok(opened) => Ok((opened, "zero-copy".to_owned())),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL)) => {
                let why = format!("{driver} does no zero-copy");
                match options.zero_copy {
                    ZeroCopy::Best => copying(&why),
                    _ => Err(io::Error::new(io::ErrorKind::Unsupported, why)),
                }
            }
            Err(error) => Err(error),
        },
    }?;

    let hook = match hook {
        Hook::Native => "native",
        Hook::Generic => "generic",
    };
    let plural = if queues == 1 { "" } else { "s" };
    let mut mode = format!("af_xdp, {hook}{attach_note}, {transfer_note}, {queues} queue{plural}");
    if claims.is_some() {
        mode.push_str(", shared with the kernel");
    }
    if strips_vlan {
        mode.push_str(", VLAN tags are lost (the driver cannot leave them in)");
    }
    Ok(Port {
        index: port,
        info: PortInfo { device: name, mode, mac, mtu },
        queues: opened.into_iter().map(|queue| Box::new(queue) as Box<dyn Queue>).collect(),
        rss: None,
        monitor: None,
        guard: Some(Box::new(guard)),
    })
}

/// Opens all queues or none.
fn open_queues(
    umem: &Arc<Umem>,
    program: &Arc<Program>,
    count: usize,
    shape: &Shape,
) -> io::Result<Vec<XdpQueue>> {
    // The rings take whole groups of slots, so nothing is left in this cache.
    let mut cache = umem.pool().cache();
    let mut queues = Vec::with_capacity(count);
    for index in 0..count {
        match XdpQueue::open(umem, program, index as u32, shape, &mut cache) {
            Ok(queue) => queues.push(queue),
            Err(error) => {
                for mut queue in queues {
                    let _ = queue.close(&mut cache);
                }
                return Err(match error.raw_os_error() {
                    Some(libc::EBUSY) => io::Error::new(
                        io::ErrorKind::ResourceBusy,
                        format!("another process has an XDP socket on queue {index}"),
                    ),
                    _ => error,
                });
            }
        }
    }
    Ok(queues)
}

/// Attaches the program; says where, and why not in the driver.
fn attach(program: &Program, index: u32, name: &str, wish: Attach) -> io::Result<(Link, Hook, String)> {
    let busy = |error: io::Error| match error.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => {
            let message = format!(
                "another XDP program is attached to `{name}`: see `ip link show dev {name}`, and take it off with \
                 `ip link set dev {name} xdp off`"
            );
            io::Error::new(io::ErrorKind::ResourceBusy, message)
        }
        _ => context(&format!("cannot attach an XDP program to `{name}`"))(error),
    };
    let native = match wish {
        Attach::Generic => {
            let link = program.attach(index, Hook::Generic).map_err(busy)?;
            return Ok((link, Hook::Generic, " (as asked for)".to_owned()));
        }
        Attach::Native | Attach::Best => program.attach(index, Hook::Native),
    };
    match native {
        Ok(link) => Ok((link, Hook::Native, String::new())),
        Err(error) if wish == Attach::Native => Err(busy(error)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST)) => Err(busy(error)),
        Err(error) => {
            let link = program.attach(index, Hook::Generic).map_err(busy)?;
            Ok((link, Hook::Generic, format!(" (the driver refuses native mode: {error})")))
        }
    }
}

fn check_pool(umem: &Umem, options: &Options) -> io::Result<()> {
    let slot = umem.pool().slot_size();
    if !umem.pool().is_dense() {
        return invalid("XDP sockets cannot use the buffers of DPDK: open the device with DPDK as well, as `net_af_xdp0,iface=DEVICE`".to_owned());
    }
    if !matches!(slot, 2048 | 4096) {
        return invalid(format!("XDP sockets take packet slots of 2048 or 4096 bytes, not {slot}"));
    }
    if !options.ring.is_power_of_two() || !(64..=32768).contains(&options.ring) {
        return invalid(format!("a ring has 64 to 32768 entries, a power of two, not {}", options.ring));
    }
    Ok(())
}

fn check_queues(device: &Device, queues: usize) -> io::Result<()> {
    let name = device.name();
    let have = device.queues()?;
    if queues == 0 || have.receive != queues || have.transmit < queues {
        let hint = if have.fixed {
            "its driver has a fixed number".to_owned()
        } else if device.driver() == "veth" {
            format!(
                "`ethtool -L {name} rx {queues} tx {queues}`; a veth device can have as many as it was created with \
                 (`ip link add ... numrxqueues {queues} numtxqueues {queues} type veth`)"
            )
        } else {
            format!("`ethtool -L {name} combined {queues}`")
        };
        return invalid(format!(
            "`{name}` has {} receive and {} transmit queues, but there must be one for each of the {queues} workers: \
             {hint}",
            have.receive, have.transmit
        ));
    }
    Ok(())
}

fn check_mtu(device: &Device, slot: usize) -> io::Result<u16> {
    let name = device.name();
    let mtu = device.mtu()?;
    let most = slot - HEADROOM - ETHERNET;
    match u16::try_from(mtu) {
        Ok(fits) if usize::from(fits) <= most => Ok(fits),
        _ => invalid(format!(
            "`{name}` has an MTU of {mtu}, but a slot of {slot} bytes holds {most}: `ip link set dev {name} mtu \
             {most}`, or larger slots"
        )),
    }
}

fn invalid<T>(message: String) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}

/// Says what was being done when the kernel refused.
fn context(what: &str) -> impl Fn(io::Error) -> io::Error {
    let what = what.to_owned();
    move |error| io::Error::new(error.kind(), format!("{what}: {error}"))
}
