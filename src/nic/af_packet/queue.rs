//! One receive and transmit queue: a socket with a ring of received frames, and a socket that sends batches of messages.
//! (A ring of frames to send was no faster, and does not say which frames the kernel refused.)

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::large::Large;
use super::slot::{Slot, Todo, Vnet};
use super::sys::{self, Messages, ReceiveRing};
use super::{checksum, fanout};
use crate::base::{Checksum, PortIndex};
use crate::nic::pool::HEADROOM;
use crate::nic::{BURST, Burst, Cache, Frame, PortCounters, Queue};

/// Bytes of the two addresses of a frame, behind which a VLAN tag goes.
pub(super) const ADDRESSES: usize = 12;
/// Bytes of a VLAN tag.
pub(super) const TAG: usize = 4;
/// The shortest frame that a device takes: an Ethernet header.
pub(super) const SHORTEST: usize = 14;

/// Bytes of super-frames that may wait, besides those in the ring.
const LARGE_FRAMES: libc::c_int = 16 << 20;
/// Bytes of frames on their way out.
const SEND_BUFFER: libc::c_int = 4 << 20;

/// What all queues of a port have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) port: PortIndex,
    pub(super) device: u32,
    /// Slots of each ring.
    pub(super) slots: usize,
    /// Bytes of a ring slot.
    pub(super) slot: usize,
}

/// A queue of a port.
#[derive(Debug)]
pub(super) struct PacketQueue {
    port: PortIndex,
    /// `None` once closed.
    open: Option<Open>,
    large: Large,
    counters: PortCounters,
}

#[derive(Debug)]
struct Open {
    received: ReceiveRing,
    messages: Messages,
    receiver: OwnedFd,
    sender: OwnedFd,
}

/// What became of the slot whose turn it was.
enum Taken {
    /// It was emptied.
    Yes,
    /// There is no frame in it.
    Nothing,
    /// There is no packet buffer for the frame in it.
    NoBuffer,
}

impl PacketQueue {
    /// Opens a queue. It receives nothing before [`start`](Self::start).
    pub(super) fn open(shape: &Shape) -> io::Result<Self> {
        let receiver = sys::socket()?;
        sys::attach_filter(&receiver, &fanout::NOTHING)?;
        sys::set(&receiver, libc::PACKET_VERSION, sys::TPACKET_V2)?;
        sys::set(&receiver, libc::PACKET_VNET_HDR, 1)?;
        sys::set(&receiver, libc::PACKET_IGNORE_OUTGOING, 1)?;
        sys::set(&receiver, libc::PACKET_COPY_THRESH, 1)?;
        sys::set_receive_buffer(&receiver, LARGE_FRAMES)?;
        let received = ReceiveRing::map(&receiver, shape.slot, shape.slots)?;
        sys::bind(&receiver, shape.device, libc::ETH_P_ALL)?;

        let sender = sys::socket()?;
        sys::set(&sender, libc::PACKET_QDISC_BYPASS, 1)?;
        sys::set_send_buffer(&sender, SEND_BUFFER)?;
        sys::bind(&sender, shape.device, 0)?;
        Ok(Self {
            port: shape.port,
            open: Some(Open { received, messages: Messages::new(BURST), receiver, sender }),
            large: Large::new(),
            counters: PortCounters::default(),
        })
    }

    /// The receiving socket.
    pub(super) fn receiver(&self) -> Option<&OwnedFd> {
        self.open.as_ref().map(|open| &open.receiver)
    }

    /// Lets frames in.
    pub(super) fn start(&self) -> io::Result<()> {
        self.receiver().map_or(Ok(()), sys::detach_filter)
    }

    /// Takes the frame in the slot whose turn it is.
    #[inline]
    fn take(&mut self, cache: &mut Cache, burst: &mut Burst) -> Taken {
        let Some(open) = &mut self.open else { return Taken::Nothing };
        let Some((status, bytes)) = open.received.received() else { return Taken::Nothing };
        let Some(slot) = Slot::read(status, bytes) else {
            open.received.release();
            self.counters.rx_errors += 1;
            return Taken::Yes;
        };
        let todo = slot.vnet.todo(slot.frame);
        if slot.is_apart || matches!(todo, Todo::Split(..)) {
            let tag = slot.tag;
            let fetched = self.large.fetch(&slot, &open.receiver);
            open.received.release();
            if !fetched.is_some_and(|vnet| self.take_large(vnet, tag, cache, burst)) {
                self.counters.rx_errors += 1;
            }
            return Taken::Yes;
        }
        let Some(mut frame) = cache.take() else { return Taken::NoBuffer };
        let is_right = put(&mut frame, slot.frame, slot.tag, todo);
        open.received.release();
        self.deliver(frame, is_right, cache, burst);
        Taken::Yes
    }

    /// Takes the frame that was fetched from elsewhere. `false` if it cannot be used.
    fn take_large(&mut self, vnet: Vnet, tag: Option<[u8; 4]>, cache: &mut Cache, burst: &mut Burst) -> bool {
        match vnet.todo(self.large.frame()) {
            Todo::Split(kind, size) => self.large.begin(tag, kind, size),
            todo => {
                let Some(mut frame) = cache.take() else { return false };
                let is_right = put(&mut frame, self.large.frame(), tag, todo);
                self.deliver(frame, is_right, cache, burst);
                true
            }
        }
    }

    #[inline]
    fn deliver(&mut self, mut frame: Frame, is_right: bool, cache: &mut Cache, burst: &mut Burst) {
        if is_right {
            frame.port = self.port;
            burst.push(frame);
        } else {
            self.counters.rx_errors += 1;
            cache.give(frame);
        }
    }

    fn continue_split(&mut self, cache: &mut Cache, burst: &mut Burst) {
        if self.large.is_busy() {
            self.counters.rx_errors += self.large.split(self.port, cache, burst);
        }
    }
}

/// Copies received bytes into a packet buffer, with the VLAN tag back in its place and the checksum in the state that the
/// frame then has. `false` if that cannot be done.
#[inline]
fn put(frame: &mut Frame, bytes: &[u8], tag: Option<[u8; 4]>, todo: Todo) -> bool {
    let shift = if tag.is_some() { TAG } else { 0 };
    let len = bytes.len() + shift;
    if bytes.len() < SHORTEST || HEADROOM + len > frame.slot_bytes().len() {
        return false;
    }
    frame.set_bounds(HEADROOM, len);
    let out = frame.bytes_mut();
    match tag {
        None => out.copy_from_slice(bytes),
        Some(tag) => {
            let (addresses, rest) = bytes.split_at(ADDRESSES);
            out[..ADDRESSES].copy_from_slice(addresses);
            out[ADDRESSES..ADDRESSES + TAG].copy_from_slice(&tag);
            out[ADDRESSES + TAG..].copy_from_slice(rest);
        }
    }
    frame.checksum = match todo {
        Todo::Nothing(checksum) => checksum,
        Todo::Complete { start, offset } if checksum::complete(out, start + shift, offset) => {
            Checksum::Unverified
        }
        Todo::Complete { .. } | Todo::Split(..) | Todo::Refuse => return false,
    };
    true
}

impl Queue for PacketQueue {
    fn receive(&mut self, cache: &mut Cache, burst: &mut Burst) -> usize {
        let before = burst.len();
        self.continue_split(cache, burst);
        while !burst.is_full() && !self.large.is_busy() {
            match self.take(cache, burst) {
                Taken::Yes => self.continue_split(cache, burst),
                Taken::Nothing | Taken::NoBuffer => break,
            }
        }
        burst.len() - before
    }

    fn transmit(&mut self, cache: &mut Cache, burst: &mut Burst) -> usize {
        let Some(open) = &mut self.open else { return 0 };
        let (taken, lost) = send(&mut open.messages, &open.sender, burst);
        self.counters.tx_errors += lost;
        burst.drain(..taken).for_each(|frame| cache.give(frame));
        taken
    }

    fn counters(&mut self) -> PortCounters {
        if let Some(open) = &self.open {
            self.counters.rx_missed += u64::from(sys::take_drops(&open.receiver).unwrap_or(0));
            sys::take_error(&open.receiver);
        }
        self.counters
    }

    /// None while a super-frame is only partly split, for nothing would wake the receiver of the rest.
    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        if self.large.is_busy() { None } else { self.receiver().map(AsFd::as_fd) }
    }

    fn close(&mut self, _cache: &mut Cache) -> io::Result<()> {
        self.counters();
        self.large.forget();
        self.open = None;
        Ok(())
    }
}

/// Says how many frames were taken and how many of these were lost.
fn send(messages: &mut Messages, sender: &OwnedFd, burst: &Burst) -> (usize, u64) {
    let (mut taken, mut lost) = (0, 0);
    while taken < burst.len() {
        match messages.send(sender, burst[taken..].iter().map(Frame::bytes)) {
            Ok(count) => taken += count,
            Err(error) => match error.raw_os_error() {
                // No room: later.
                Some(libc::EAGAIN) => break,
                Some(libc::EINTR) => {}
                // The device is down or has gone.
                Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV) => {
                    lost += (burst.len() - taken) as u64;
                    taken = burst.len();
                }
                // It refused this one.
                _ => {
                    lost += 1;
                    taken += 1;
                }
            },
        }
    }
    (taken, lost)
}
