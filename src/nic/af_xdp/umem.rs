//! The pool's region as the memory of XDP sockets, and the sockets on it.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::rings::{Incoming, Outgoing};
use super::sys;
use crate::nic::Pool;

/// How often a bind is tried while the kernel is still giving up the queue's last socket, and how long between.
const BIND_TRIES: u32 = 400;
const BIND_PAUSE: Duration = Duration::from_millis(5);

/// Who copies a frame between the device and the umem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transfer {
    /// Nobody: the device itself reads and writes the umem.
    Direct,
    /// The kernel.
    Copy,
}

/// The packet pool as the umem of XDP sockets. One for each pool: every port that is opened on it shares the memory,
/// so that a frame is forwarded from one port to another without a copy in user space.
///
/// The kernel allows one way of transfer in a umem. Ports that do zero-copy and ports that cannot have therefore one
/// umem each, over the same memory.
#[derive(Debug)]
pub struct Umem {
    pool: Arc<Pool>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Open sockets, zero-copy and copying: a further one joins the umem of any of them.
    direct: Vec<Weak<OwnedFd>>,
    copy: Vec<Weak<OwnedFd>>,
    /// Slots set aside for the receive rings of open queues.
    reserved: usize,
}

impl Umem {
    /// Makes the pool ready for XDP sockets. The kernel hears of it when the first port is opened.
    pub fn new(pool: &Arc<Pool>) -> Arc<Self> {
        Arc::new(Self { pool: Arc::clone(pool), state: Mutex::default() })
    }

    /// The pool.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Sets `slots` slots aside. At most three quarters of the pool may wait in receive rings: the rest is in motion.
    pub(super) fn reserve(self: &Arc<Self>, slots: usize) -> io::Result<Reservation> {
        let mut state = self.state();
        let limit = self.pool.slots() / 4 * 3;
        if state.reserved + slots > limit {
            let message = format!(
                "the packet pool has {} slots, too few for {slots} more in receive rings besides {}: make the pool \
                 larger or the rings shorter",
                self.pool.slots(),
                state.reserved
            );
            return Err(io::Error::new(io::ErrorKind::OutOfMemory, message));
        }
        state.reserved += slots;
        Ok(Reservation { umem: Arc::clone(self), slots })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The open sockets with this way of transfer.
    fn partners(&mut self, transfer: Transfer) -> Vec<Arc<OwnedFd>> {
        let sockets = self.sockets(transfer);
        sockets.retain(|socket| socket.strong_count() > 0);
        sockets.iter().filter_map(Weak::upgrade).collect()
    }

    fn sockets(&mut self, transfer: Transfer) -> &mut Vec<Weak<OwnedFd>> {
        match transfer {
            Transfer::Direct => &mut self.direct,
            Transfer::Copy => &mut self.copy,
        }
    }
}

/// Slots set aside until dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    umem: Arc<Umem>,
    slots: usize,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.umem.state().reserved -= self.slots;
    }
}

/// A bound socket and its four rings.
#[derive(Debug)]
pub(super) struct Socket {
    // The rings are unmapped first: a mapping keeps the socket open.
    pub(super) receive: Incoming<libc::xdp_desc>,
    pub(super) transmit: Outgoing<libc::xdp_desc>,
    pub(super) fill: Outgoing<u64>,
    pub(super) completion: Incoming<u64>,
    fd: Arc<OwnedFd>,
}

impl Socket {
    /// Opens and binds a socket for one queue of a device, with rings of `entries` entries.
    pub(super) fn open(
        umem: &Umem,
        device: u32,
        queue: u32,
        transfer: Transfer,
        entries: u32,
    ) -> io::Result<Self> {
        let fd = Arc::new(sys::socket().map_err(explain)?);
        for ring in
            [libc::XDP_UMEM_FILL_RING, libc::XDP_UMEM_COMPLETION_RING, libc::XDP_RX_RING, libc::XDP_TX_RING]
        {
            sys::set_number(&fd, libc::SOL_XDP, ring, entries)?;
        }
        // In copy mode a frame counts against the send buffer until the device is done with it: let the ring be the
        // limit.
        let _ = sys::set_number(&fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, entries.saturating_mul(4096));

        let empty = libc::xdp_ring_offset { producer: 0, consumer: 0, desc: 0, flags: 0 };
        let mut offsets = libc::xdp_mmap_offsets { rx: empty, tx: empty, fr: empty, cr: empty };
        if !sys::get_option(&fd, libc::XDP_MMAP_OFFSETS, &mut offsets)? {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the kernel's XDP rings have no flags"));
        }
        let (receive, transmit) = (libc::XDP_PGOFF_RX_RING, libc::XDP_PGOFF_TX_RING);
        let fill = libc::XDP_UMEM_PGOFF_FILL_RING.cast_signed();
        let completion = libc::XDP_UMEM_PGOFF_COMPLETION_RING.cast_signed();
        let socket = Self {
            receive: Incoming::map(&fd, entries, receive, &offsets.rx)?,
            transmit: Outgoing::map(&fd, entries, transmit, &offsets.tx)?,
            fill: Outgoing::map(&fd, entries, fill, &offsets.fr)?,
            completion: Incoming::map(&fd, entries, completion, &offsets.cr)?,
            fd,
        };

        // Held to the end: two sockets must not both take themselves for the first.
        let mut state = umem.state();
        let mut joined = false;
        for partner in state.partners(transfer) {
            // A partner's umem brings its way of transfer with it, and that it wants wake-ups.
            match bind(&socket.fd, device, queue, libc::XDP_SHARED_UMEM, Some(&partner)) {
                // The partner's device has gone.
                Err(error) if error.raw_os_error() == Some(libc::EBADF) => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    joined = true;
                    break;
                }
            }
        }
        if !joined {
            sys::register(&socket.fd, &umem.pool).map_err(explain)?;
            let flags = match transfer {
                Transfer::Direct => libc::XDP_ZEROCOPY,
                Transfer::Copy => libc::XDP_COPY,
            };
            bind(&socket.fd, device, queue, flags | libc::XDP_USE_NEED_WAKEUP, None)?;
        }
        // Older kernels send 32 frames a kick.
        let _ = sys::set_number(&socket.fd, libc::SOL_XDP, sys::MAX_TX_SKB_BUDGET, entries);
        state.sockets(transfer).push(Arc::downgrade(&socket.fd));
        Ok(socket)
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    pub(super) fn statistics(&self) -> io::Result<libc::xdp_statistics> {
        let mut statistics = libc::xdp_statistics {
            rx_dropped: 0,
            rx_invalid_descs: 0,
            tx_invalid_descs: 0,
            rx_ring_full: 0,
            rx_fill_ring_empty_descs: 0,
            tx_ring_empty_descs: 0,
        };
        sys::get_option(&self.fd, libc::XDP_STATISTICS, &mut statistics)?;
        Ok(statistics)
    }
}

/// Says what the kernel lacks, or what the process does.
fn explain(error: io::Error) -> io::Error {
    let what = match error.raw_os_error() {
        Some(libc::EAFNOSUPPORT) => "the kernel has no XDP sockets (CONFIG_XDP_SOCKETS)",
        Some(libc::EPERM) => "an XDP socket needs the privilege CAP_NET_RAW",
        Some(libc::ENOBUFS) => {
            "the packet pool is larger than the memory that may be locked (`ulimit -l`, LimitMEMLOCK), and the \
             privilege CAP_IPC_LOCK is missing"
        }
        _ => return error,
    };
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// Binds. A queue that was bound a moment ago, by this process or by one that was killed, is busy for a while.
fn bind(socket: &OwnedFd, device: u32, queue: u32, flags: u16, partner: Option<&OwnedFd>) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: device,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: partner.map_or(0, |fd| fd.as_raw_fd() as u32),
    };
    let mut tries = 1;
    loop {
        match sys::bind(socket, &address) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && tries < BIND_TRIES => {
                tries += 1;
                std::thread::sleep(BIND_PAUSE);
            }
            outcome => return outcome,
        }
    }
}

/// Waits until the kernel has let go of all memory that a closed socket gave it; `false` if it has not for long.
///
/// Closing only starts it: the driver may read and write frames until its queue is reset, and frames in flight keep
/// their slots. But a queue is free to be bound again exactly when all that is over, so a socket of no consequence, on
/// a page of its own, is bound and closed.
pub(super) fn await_release(device: u32, queue: u32) -> bool {
    let probe = || -> io::Result<()> {
        let pool = Pool::new(1, 2048)?;
        let umem = Umem::new(&pool);
        Socket::open(&umem, device, queue, Transfer::Copy, 64).map(drop)
    };
    // Any other error says that the device has gone or that the queue is no longer there: nobody uses the memory.
    !matches!(probe(), Err(error) if error.raw_os_error() == Some(libc::EBUSY))
}
