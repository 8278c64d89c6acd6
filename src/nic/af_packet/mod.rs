//! Linux packet sockets: frames come through rings in memory shared with the kernel and leave in batches of messages.
//! They are copied between kernel and packet pool. Slower than XDP sockets, and works on every Ethernet device, whatever its driver and number of queues.
//!
//! - Received frames lie in a ring of slots as large as the MTU asks for (`TPACKET_V2`: each is seen as soon as it is
//!   there, while `TPACKET_V3` holds frames back until a block is full or a timer has run for a millisecond).
//!   Super-frames of a local sender, which no slot could hold, come by the socket's receive queue and are split here.
//! - A VLAN tag that the kernel took out of a frame is put back; what it knows of the checksum is passed on.
//! - With several workers the kernel runs a program that decides whose a frame is ([`Steering`]).
//!
//! The kernel goes on receiving what the port receives: if it has an address there, it answers as well. Packet sockets
//! cannot prevent that; where it matters, use XDP sockets or take the address off.
//!
//! # Limits
//! - Linux 5.10 and later; the privilege `CAP_NET_RAW` (or root), with `CAP_NET_ADMIN` also to turn receive offloads off
//!   and to have enough room for super-frames.
//! - IPv6 super-frames and those of tunnels are refused, and counted as receive errors.
//! - GRO and LRO of the port are off while it is open; a process that is killed leaves them so.

mod checksum;
mod fanout;
mod gso;
mod large;
mod queue;
mod slot;
mod sys;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

pub use fanout::Steering;

use super::device::{Device, Promiscuous, Unmerged};
use super::pool::HEADROOM;
use super::{Pool, Port, PortInfo, Queue};
use crate::base::PortIndex;
use queue::{PacketQueue, Shape};

/// Bytes of an Ethernet header with one VLAN tag.
const ETHERNET: usize = 18;
/// Bytes of a ring slot that are not the frame's, rounded up.
const SLOT_HEADER: usize = 128;

/// How a port is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which queue gets a frame.
    pub steering: Steering,
    /// Slots of each ring of a queue: a power of two, 64 to 65536.
    pub ring: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { steering: Steering::default(), ring: 4096 }
    }
}

/// Undone when dropped.
#[derive(Debug)]
struct Guard {
    _promiscuous: Promiscuous,
    _unmerged: Unmerged,
}

/// Opens a device of the caller's network namespace with `queues` queues.
///
/// # Errors
/// With a message for people: if there is no such Ethernet device, it is down, or the process may not open packet sockets;
/// and the kernel's own.
pub fn open(
    device: &str,
    port: PortIndex,
    queues: usize,
    pool: &Arc<Pool>,
    options: &Options,
) -> io::Result<Port> {
    let device = Device::find(device)?;
    let name = device.name().to_owned();
    if !options.ring.is_power_of_two() || !(64..=65536).contains(&options.ring) {
        let message = format!("a ring has 64 to 65536 slots, a power of two, not {}", options.ring);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let workers = u16::try_from(queues).ok().filter(|&queues| queues > 0).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("a port cannot have {queues} queues"))
    })?;
    let mac = device.mac()?;
    if !device.is_up()? {
        let message = format!("`{name}` is down: `ip link set dev {name} up`");
        return Err(io::Error::new(io::ErrorKind::NetworkDown, message));
    }
    let mtu = device.mtu()? as usize;
    let most = pool.slot_size() - HEADROOM - ETHERNET;
    if mtu > most {
        log::warn!(
            "{name}: its MTU of {mtu} is more than a packet buffer holds ({most}): larger packets will be refused; `ip link \
             set dev {name} mtu {most}`, or larger buffers"
        );
    }
    if let Some(address) = device.kernel_address() {
        log::warn!(
            "{name}: the kernel has the address {address} there and will answer beside the gateway (resets, port \
             unreachable); take it off, or share the port by af_xdp"
        );
    }
    let shape = Shape {
        port,
        device: device.index(),
        slots: options.ring,
        slot: (SLOT_HEADER + ETHERNET + mtu.min(most)).next_power_of_two().max(2048),
    };
    let opened =
        open_queues(queues, &shape, options.steering, workers).map_err(|error| refusal(&name, &error))?;
    let guard = Guard {
        _promiscuous: device.promiscuous().map_err(|error| refusal(&name, &error))?,
        _unmerged: device.unmerged(),
    };
    for queue in &opened {
        queue.start().map_err(|error| refusal(&name, &error))?;
    }
    let mut mode = "af_packet, memory-mapped rings".to_owned();
    if queues > 1 {
        mode = format!("{mode}, {queues} queues {}", options.steering.describe());
    }
    Ok(Port {
        index: port,
        info: PortInfo { device: name, mode, mac, mtu: mtu.min(most).try_into().unwrap_or(u16::MAX) },
        queues: opened.into_iter().map(|queue| Box::new(queue) as Box<dyn Queue>).collect(),
        rss: None,
        monitor: None,
        guard: Some(Box::new(guard)),
    })
}

fn open_queues(
    count: usize,
    shape: &Shape,
    steering: Steering,
    workers: u16,
) -> io::Result<Vec<PacketQueue>> {
    let queues: Vec<_> = (0..count).map(|_| PacketQueue::open(shape)).collect::<io::Result<_>>()?;
    if count > 1 {
        let sockets: Vec<_> = queues.iter().filter_map(PacketQueue::receiver).collect();
        distribute(&sockets, steering, workers)?;
    }
    Ok(queues)
}

/// Makes the sockets a group among which the kernel distributes frames, in their order.
fn distribute(sockets: &[&OwnedFd], steering: Steering, workers: u16) -> io::Result<()> {
    let program = steering.program(workers);
    let kind = if program.is_some() { libc::PACKET_FANOUT_CBPF } else { libc::PACKET_FANOUT_HASH };
    let kind = kind | libc::PACKET_FANOUT_FLAG_IGNORE_OUTGOING;
    let mut group = 0;
    for (i, socket) in sockets.iter().enumerate() {
        // The first one has the kernel choose a number that no other group has.
        let unique = if i == 0 { libc::PACKET_FANOUT_FLAG_UNIQUEID } else { 0 };
        sys::set(socket, libc::PACKET_FANOUT, ((kind | unique) << 16 | group).cast_signed())?;
        if i == 0 {
            group = sys::get(socket, libc::PACKET_FANOUT)?.cast_unsigned() & 0xffff;
            if let Some(program) = &program {
                sys::set_fanout_program(socket, program)?;
            }
        }
    }
    Ok(())
}

/// Says what to do when the kernel refuses.
fn refusal(name: &str, error: &io::Error) -> io::Error {
    let message = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => format!(
            "packet sockets on `{name}` are not permitted: they need the capability CAP_NET_RAW (and CAP_NET_ADMIN), or root"
        ),
        Some(libc::ENOMEM) => {
            format!("`{name}`: the kernel has no memory for the rings: choose smaller ones")
        }
        _ => format!("cannot open packet sockets on `{name}`: {error}"),
    };
    io::Error::new(error.kind(), message)
}
