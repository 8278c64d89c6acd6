//! Opens a network device with the back end asked for, or with the best one that works on it.

use std::io;
use std::sync::Arc;

use super::af_packet::{self, Steering};
use super::af_xdp::{self, Share, Umem};
use super::{Pool, Port};
use crate::base::PortIndex;

/// Entries of an AF_XDP ring: at most, where the pool is large enough.
const RING: usize = 2048;
/// And at least.
const SMALLEST_RING: usize = 64;

/// A back end for network devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// XDP sockets if they work on the device, else packet sockets. [`PortInfo::mode`](super::PortInfo::mode) says
    /// which, and why not XDP.
    #[default]
    Auto,
    /// XDP sockets, in whatever mode the device's driver allows.
    AfXdp,
    /// Packet sockets.
    AfPacket,
}

/// Opens the ports of a process, all on one packet pool.
#[derive(Debug)]
pub struct Opener {
    umem: Arc<Umem>,
    ring: u32,
}

impl Opener {
    /// Ports on `pool`, with `queues` queues over all of them. Rings are sized so that at most half of the pool waits
    /// for frames.
    pub fn new(pool: &Arc<Pool>, queues: usize) -> Self {
        let share = pool.slots() / 2 / queues.max(1);
        let ring = share.checked_ilog2().map_or(0, |bits| 1 << bits).clamp(SMALLEST_RING, RING);
        Self { umem: Umem::new(pool), ring: ring as u32 }
    }

    /// Opens a device of the caller's network namespace with `queues` queues. Packet sockets bring frames to the queue that
    /// `steering` says; XDP sockets receive what the device brings to their queue.
    ///
    /// Only XDP sockets can leave to the kernel what is not the gateway's: with [`Share::Kernel`] there is no other
    /// choice.
    ///
    /// # Errors
    /// With a message for people: why the back end, or each of them, does not work on the device.
    pub fn open(
        &self,
        backend: Backend,
        device: &str,
        port: PortIndex,
        queues: usize,
        share: &Share,
        steering: Steering,
    ) -> io::Result<Port> {
        let options = af_xdp::Options { share: share.clone(), ring: self.ring, ..af_xdp::Options::default() };
        let xdp = || af_xdp::open(device, port, queues, &self.umem, &options);
        let packet = || {
            let options = af_packet::Options { steering, ring: self.ring as usize };
            af_packet::open(device, port, queues, self.umem.pool(), &options)
        };
        match (backend, share) {
            (Backend::AfXdp, _) | (Backend::Auto, Share::Kernel(_)) => xdp(),
            (Backend::AfPacket, Share::Exclusive) => packet(),
            (Backend::AfPacket, Share::Kernel(_)) => {
                Err(unsupported("only af_xdp can leave to the kernel what is not the gateway's"))
            }
            (Backend::Auto, Share::Exclusive) => first_of(xdp, packet),
        }
    }
}

/// Opens by XDP sockets or else by packet sockets, and says why not the former.
fn first_of(
    xdp: impl FnOnce() -> io::Result<Port>,
    packet: impl FnOnce() -> io::Result<Port>,
) -> io::Result<Port> {
    let first = match xdp() {
        Ok(port) => return Ok(port),
        Err(error) => error,
    };
    // No other back end opens a device that is not there or is down.
    if matches!(first.kind(), io::ErrorKind::NotFound | io::ErrorKind::NetworkDown) {
        return Err(first);
    }
    match packet() {
        Ok(mut port) => {
            port.info.mode = format!("{}; not af_xdp: {first}", port.info.mode);
            Ok(port)
        }
        Err(second) => {
            Err(io::Error::new(second.kind(), format!("not af_xdp: {first}; not af_packet: {second}")))
        }
    }
}

fn unsupported(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nic::PortInfo;

    fn port(mode: &str) -> Port {
        let info = PortInfo { device: "eth0".into(), mode: mode.into(), mac: [2; 6], mtu: 1500 };
        Port { index: PortIndex(0), info, queues: Vec::new(), rss: None, monitor: None, guard: None }
    }

    #[test]
    fn the_mode_says_why_xdp_was_not_chosen() {
        let chosen = first_of(|| Ok(port("af_xdp, native")), || panic!("not needed")).unwrap();
        assert_eq!(chosen.info.mode, "af_xdp, native");
        let chosen = first_of(|| Err(unsupported("no BPF")), || Ok(port("af_packet"))).unwrap();
        assert_eq!(chosen.info.mode, "af_packet; not af_xdp: no BPF");
    }

    #[test]
    fn what_no_back_end_can_open_is_said_once() {
        let gone = || Err(io::Error::new(io::ErrorKind::NotFound, "no device"));
        assert_eq!(first_of(gone, || panic!("not tried")).unwrap_err().to_string(), "no device");
        let error = first_of(|| Err(unsupported("a")), || Err(unsupported("b"))).unwrap_err();
        assert_eq!(error.to_string(), "not af_xdp: a; not af_packet: b");
    }

    #[test]
    fn rings_fit_the_pool() {
        let ring = |slots, queues| Opener::new(&Pool::new(slots, 2048).unwrap(), queues).ring;
        assert_eq!(ring(16384, 4), 2048);
        assert_eq!(ring(16384, 5), 1024);
        assert_eq!(ring(64, 100), 64);
        assert_eq!(ring(65536, 0), 2048);
    }
}
