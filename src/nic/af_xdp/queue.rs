//! One receive and transmit queue: a socket, and the slots that are lent to it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use super::bpf::Program;
use super::sys::{self, Loans};
use super::umem::{self, Reservation, Socket, Transfer, Umem};
use crate::base::{Checksum, PortIndex};
use crate::nic::{Burst, Cache, Frame, PortCounters, Queue};

/// The shortest frame that a device takes: an Ethernet header.
const SHORTEST: usize = 14;
/// Frames that a kick sends at least, unless the device refuses one.
const SMALLEST_BUDGET: u32 = 32;
/// How long a queue that is closed waits for its last frames to leave: tries, and the time between.
const DRAIN_TRIES: u32 = 100;
const DRAIN_PAUSE: Duration = Duration::from_millis(1);

/// What all queues of a port have in common.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) port: PortIndex,
    pub(super) device: u32,
    pub(super) transfer: Transfer,
    pub(super) checksum: Checksum,
    pub(super) entries: u32,
}

/// A queue of a port.
#[derive(Debug)]
pub(super) struct XdpQueue {
    /// `None` once closed.
    socket: Option<Socket>,
    program: Arc<Program>,
    index: u32,
    device: u32,
    port: PortIndex,
    transfer: Transfer,
    checksum: Checksum,
    slot_size: u64,
    loans: Loans,
    /// Slots lent that have not been received yet. Never more than the receive ring has entries, so it cannot overflow.
    receiving: u32,
    /// Slots lent that have not been reported as sent yet. Never more than the completion ring has entries.
    sending: u32,
    entries: u32,
    /// Whether the last kick left frames in the transmit ring.
    unsent: bool,
    /// What the queue counts itself, besides the kernel.
    own: PortCounters,
    /// The last word of the kernel's statistics.
    last: PortCounters,
    _reservation: Reservation,
}

impl XdpQueue {
    /// Opens queue `index`, its fill ring stocked, and connects it to the program.
    pub(super) fn open(
        umem: &Arc<Umem>,
        program: &Arc<Program>,
        index: u32,
        shape: &Shape,
        cache: &mut Cache,
    ) -> io::Result<Self> {
        let reservation = umem.reserve(shape.entries as usize)?;
        let socket = Socket::open(umem, shape.device, index, shape.transfer, shape.entries)?;
        let mut queue = Self {
            socket: Some(socket),
            program: Arc::clone(program),
            index,
            device: shape.device,
            port: shape.port,
            transfer: shape.transfer,
            checksum: shape.checksum,
            slot_size: umem.pool().slot_size() as u64,
            loans: Loans::new(umem.pool()),
            receiving: 0,
            sending: 0,
            entries: shape.entries,
            unsent: false,
            own: PortCounters::default(),
            last: PortCounters::default(),
            _reservation: reservation,
        };
        queue.stock(cache);
        match queue.connect() {
            Ok(()) => Ok(queue),
            Err(error) => {
                let _ = queue.close(cache);
                Err(error)
            }
        }
    }

    fn connect(&self) -> io::Result<()> {
        self.socket.as_ref().map_or(Ok(()), |socket| self.program.connect(self.index, socket.fd()))
    }

    /// Keeps the fill ring full.
    fn stock(&mut self, cache: &mut Cache) {
        let Some(socket) = &mut self.socket else { return };
        let want = self.entries.saturating_sub(self.receiving);
        if want == 0 {
            return;
        }
        let room = socket.fill.free(want).min(want);
        let mut pushed = 0;
        while pushed < room {
            let Some(frame) = cache.take() else { break };
            let Ok(address) = self.loans.lend(frame) else { break };
            socket.fill.push(address);
            pushed += 1;
        }
        if pushed > 0 {
            self.receiving += pushed;
            socket.fill.publish();
        }
        if socket.fill.needs_wakeup() {
            sys::kick_receive(socket.fd());
        }
    }

    /// Takes back the slots of frames that were sent.
    fn complete(&mut self, cache: &mut Cache) {
        let Some(socket) = &mut self.socket else { return };
        if self.sending == 0 {
            return;
        }
        let count = socket.completion.ready(self.entries);
        for _ in 0..count {
            let address = socket.completion.pop();
            if let Some(frame) = self.loans.take_back((address / self.slot_size) as usize) {
                cache.give(frame);
                self.sending = self.sending.saturating_sub(1);
            }
        }
        if count > 0 {
            socket.completion.release();
        }
    }

    /// Has the kernel send what lies in the transmit ring.
    fn kick(&mut self) {
        let Some(socket) = &mut self.socket else { return };
        if !socket.transmit.needs_wakeup() {
            return;
        }
        let pending = socket.transmit.pending();
        if pending == 0 {
            return;
        }
        if self.transfer == Transfer::Direct {
            // The driver goes on by itself once it is awake.
            self.unsent = sys::kick_transmit(socket.fd()).is_err();
            return;
        }
        // A kick copies and sends frames until the ring is empty, the kernel's budget for a call is spent, or the
        // device refuses one. The ring's index is no measure of progress: older kernels do not update it each time.
        self.unsent = true;
        let (mut again, mut refused) = (pending.div_ceil(SMALLEST_BUDGET) + 2, pending);
        while again > 0 && refused > 0 {
            match sys::kick_transmit(socket.fd()).map_err(|error| error.raw_os_error()) {
                Ok(()) => {
                    self.unsent = false;
                    return;
                }
                // The device refused a frame for good, for instance because its ring is full.
                Err(Some(libc::EBUSY)) => {
                    self.own.tx_errors += 1;
                    refused -= 1;
                }
                // The budget is spent, or there is no room for a while.
                Err(Some(libc::EAGAIN | libc::ENOBUFS | libc::EINTR)) => again -= 1,
                // The device is down or has gone.
                Err(_) => return,
            }
        }
    }

    /// Takes what was received but not fetched.
    fn discard_received(&mut self, cache: &mut Cache) {
        let mut burst = Burst::new();
        while self.fetch(&mut burst) > 0 {
            for frame in burst.drain(..) {
                cache.give(frame);
            }
        }
    }

    fn fetch(&mut self, burst: &mut Burst) -> usize {
        let Some(socket) = &mut self.socket else { return 0 };
        let count = socket.receive.ready(burst.remaining_capacity() as u32);
        let before = burst.len();
        for _ in 0..count {
            let descriptor = socket.receive.pop();
            let slot = (descriptor.addr / self.slot_size) as usize;
            let Some(mut frame) = self.loans.take_back(slot) else {
                self.own.rx_errors += 1;
                continue;
            };
            self.receiving = self.receiving.saturating_sub(1);
            frame.set_bounds((descriptor.addr % self.slot_size) as usize, descriptor.len as usize);
            frame.port = self.port;
            frame.checksum = self.checksum;
            burst.push(frame);
        }
        if count > 0 {
            socket.receive.release();
        }
        burst.len() - before
    }
}

impl Queue for XdpQueue {
    fn receive(&mut self, cache: &mut Cache, burst: &mut Burst) -> usize {
        let count = self.fetch(burst);
        if self.unsent {
            self.kick();
        }
        self.complete(cache);
        self.stock(cache);
        count
    }

    fn transmit(&mut self, cache: &mut Cache, burst: &mut Burst) -> usize {
        self.complete(cache);
        let Some(socket) = &mut self.socket else { return 0 };
        let want = burst.len() as u32;
        let room = socket.transmit.free(want).min(self.entries.saturating_sub(self.sending)).min(want);
        for frame in burst.drain(..room as usize) {
            let (head, len) = (frame.head() as u64, frame.len());
            if len < SHORTEST {
                self.own.tx_errors += 1;
                cache.give(frame);
                continue;
            }
            match self.loans.lend(frame) {
                Ok(address) => {
                    let descriptor = libc::xdp_desc { addr: address + head, len: len as u32, options: 0 };
                    socket.transmit.push(descriptor);
                    self.sending += 1;
                }
                // A frame of another pool: it is the caller's mistake, and no ring of this umem can carry it.
                Err(stranger) => {
                    self.own.tx_errors += 1;
                    let _ = Frame::into_slot(stranger);
                }
            }
        }
        socket.transmit.publish();
        self.kick();
        self.complete(cache);
        room as usize
    }

    fn counters(&mut self) -> PortCounters {
        if let Some(statistics) = self.socket.as_ref().and_then(|socket| socket.statistics().ok()) {
            self.last = PortCounters {
                rx_missed: statistics.rx_dropped + statistics.rx_ring_full,
                rx_errors: statistics.rx_invalid_descs,
                tx_errors: statistics.tx_invalid_descs,
            };
        }
        PortCounters {
            rx_missed: self.last.rx_missed + self.own.rx_missed,
            rx_errors: self.last.rx_errors + self.own.rx_errors,
            tx_errors: self.last.tx_errors + self.own.tx_errors,
        }
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(|socket| socket.fd().as_fd())
    }

    fn close(&mut self, cache: &mut Cache) -> io::Result<()> {
        if self.socket.is_none() {
            return Ok(());
        }
        self.counters();
        let _ = self.program.disconnect(self.index);
        for _ in 0..DRAIN_TRIES {
            self.kick();
            self.complete(cache);
            if self.sending == 0 {
                break;
            }
            std::thread::sleep(DRAIN_PAUSE);
        }
        self.discard_received(cache);
        self.socket = None;
        if !umem::await_release(self.device, self.index) {
            let message =
                format!("the kernel still holds {} packet buffers of a closed queue", self.loans.count());
            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
        }
        while let Some(frame) = self.loans.take_any() {
            cache.give(frame);
        }
        (self.receiving, self.sending) = (0, 0);
        Ok(())
    }
}
