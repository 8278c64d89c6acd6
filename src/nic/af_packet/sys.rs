//! What packet sockets ask of the kernel: sockets, options, rings in shared memory, batches of messages.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use libc::{c_int, c_void, socklen_t};

/// Bytes of a ring slot's header that belong to the kernel or the user as the first of them, the status, says.
const STATUS: usize = size_of::<u32>();

/// Rings of slots of one size, in which each frame is seen as soon as it is there.
pub(super) const TPACKET_V2: c_int = 1;

/// A new packet socket that receives nothing before it is bound.
pub(super) fn socket() -> io::Result<OwnedFd> {
    // SAFETY: takes plain numbers only.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A structure that the kernel reads or writes as an option's value.
///
/// # Safety
/// Every bit pattern is valid, and no field is a pointer.
unsafe trait Plain {}

// SAFETY: a number.
unsafe impl Plain for c_int {}
// SAFETY: four numbers.
unsafe impl Plain for libc::tpacket_req {}
// SAFETY: two numbers.
unsafe impl Plain for libc::tpacket_stats {}

fn outcome(result: c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn set_plain<T: Plain>(socket: &OwnedFd, level: c_int, option: c_int, value: &T) -> io::Result<()> {
    let len = size_of::<T>() as socklen_t;
    let value = std::ptr::from_ref(value).cast::<c_void>();
    // SAFETY: the kernel reads the one value of the length given; the options used here have no pointer in it.
    outcome(unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value, len) })
}

fn get_plain<T: Plain>(socket: &OwnedFd, level: c_int, option: c_int, value: &mut T) -> io::Result<()> {
    let mut len = size_of::<T>() as socklen_t;
    let value = std::ptr::from_mut(value).cast::<c_void>();
    // SAFETY: the kernel writes at most `len` bytes into the value, for which every bit pattern is valid.
    outcome(unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, value, &raw mut len) })
}

/// Sets a number as an option of packet sockets.
pub(super) fn set(socket: &OwnedFd, option: c_int, value: c_int) -> io::Result<()> {
    debug_assert!(option != libc::PACKET_FANOUT_DATA, "its value holds a pointer");
    set_plain(socket, libc::SOL_PACKET, option, &value)
}

/// Reads a number that is an option of packet sockets.
pub(super) fn get(socket: &OwnedFd, option: c_int) -> io::Result<c_int> {
    let mut value = 0;
    get_plain(socket, libc::SOL_PACKET, option, &mut value)?;
    Ok(value)
}

/// Room for `bytes` of frames that are too large for a ring slot, beyond the system's limit if that is permitted.
pub(super) fn set_receive_buffer(socket: &OwnedFd, bytes: c_int) -> io::Result<()> {
    set_plain(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &bytes)
        .or_else(|_| set_plain(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, &bytes))
}

/// Room for `bytes` of frames on their way out.
pub(super) fn set_send_buffer(socket: &OwnedFd, bytes: c_int) -> io::Result<()> {
    set_plain(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &bytes)
        .or_else(|_| set_plain(socket, libc::SOL_SOCKET, libc::SO_SNDBUF, &bytes))
}

/// Takes the error that waits on the socket, for instance that the device went down: poll would report it for ever.
pub(super) fn take_error(socket: &OwnedFd) {
    let mut error: c_int = 0;
    // What it says, the next system call says as well.
    let _ = get_plain(socket, libc::SOL_SOCKET, libc::SO_ERROR, &mut error);
}

/// Frames dropped for want of room since the last call.
pub(super) fn take_drops(socket: &OwnedFd) -> io::Result<u32> {
    let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    get_plain(socket, libc::SOL_PACKET, libc::PACKET_STATISTICS, &mut statistics)?;
    Ok(statistics.tp_drops)
}

/// Binds the socket to a device; it then receives frames of an EtherType, or all, or none (zero).
pub(super) fn bind(socket: &OwnedFd, device: u32, protocol: c_int) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (protocol as u16).to_be(),
        sll_ifindex: device.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let len = size_of::<libc::sockaddr_ll>() as socklen_t;
    // SAFETY: the kernel reads the one address of the length given.
    outcome(unsafe { libc::bind(socket.as_raw_fd(), std::ptr::from_ref(&address).cast(), len) })
}

/// Gives a program to an option that takes one: a filter, or the fanout's data.
fn set_program(
    socket: &OwnedFd,
    level: c_int,
    option: c_int,
    program: &[libc::sock_filter],
) -> io::Result<()> {
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    let len = size_of::<libc::sock_fprog>() as socklen_t;
    let value = std::ptr::from_ref(&program).cast::<c_void>();
    // SAFETY: the kernel reads the one structure, and so many instructions behind its pointer, which are borrowed until
    // then; it writes nothing and keeps a copy.
    outcome(unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value, len) })
}

/// Has a filter decide what the socket receives.
pub(super) fn attach_filter(socket: &OwnedFd, program: &[libc::sock_filter]) -> io::Result<()> {
    set_program(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, program)
}

/// Takes the filter off again.
pub(super) fn detach_filter(socket: &OwnedFd) -> io::Result<()> {
    set_plain(socket, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, &0)
}

/// Gives the socket's fanout group the program that distributes frames.
pub(super) fn set_fanout_program(socket: &OwnedFd, program: &[libc::sock_filter]) -> io::Result<()> {
    set_program(socket, libc::SOL_PACKET, libc::PACKET_FANOUT_DATA, program)
}

/// Receives one message into `buffer` and says how long it was, which may be more than the buffer holds.
pub(super) fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    let (start, len) = (buffer.as_mut_ptr().cast::<c_void>(), buffer.len());
    let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
    // SAFETY: the kernel writes at most `len` bytes into the buffer, which is exclusively borrowed.
    let received = unsafe { libc::recv(socket.as_raw_fd(), start, len, flags) };
    usize::try_from(received).map_err(|_| io::Error::last_os_error())
}

/// A ring of slots in memory shared with the kernel. The slots are passed round one after the other.
#[derive(Debug)]
struct Ring {
    map: NonNull<u8>,
    slot: usize,
    slots: usize,
    /// The slot whose turn it is.
    current: usize,
}

// SAFETY: owns its mapping; who may touch a slot is settled by the atomic status in it.
unsafe impl Send for Ring {}

impl Ring {
    /// Gives the socket a ring of `slots` slots of `slot` bytes, both powers of two. `option` says which ring.
    fn map(socket: &OwnedFd, option: c_int, slot: usize, slots: usize) -> io::Result<Self> {
        /// Bytes of a block: contiguous memory in the kernel, hence not too large, but one slot at least.
        const BLOCK: usize = 1 << 16;
        let bytes = slot.checked_mul(slots).filter(|&bytes| bytes >= BLOCK && slot.is_power_of_two());
        let Some(bytes) = bytes.filter(|_| slot >= 2048 && slots.is_power_of_two()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let block = BLOCK.max(slot);
        let request = libc::tpacket_req {
            tp_block_size: block as u32,
            tp_block_nr: (bytes / block) as u32,
            tp_frame_size: slot as u32,
            tp_frame_nr: slots as u32,
        };
        set_plain(socket, libc::SOL_PACKET, option, &request)?;
        let (protection, sharing) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let map =
            unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, sharing, socket.as_raw_fd(), 0) };
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let map = NonNull::new(map.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { map, slot, slots, current: 0 })
    }

    /// Where the current slot starts.
    fn start(&self) -> NonNull<u8> {
        // SAFETY: `current` is below `slots`, so the slot lies inside the mapping of `slots * slot` bytes.
        unsafe { self.map.add(self.current * self.slot) }
    }

    /// The current slot's status.
    #[inline]
    fn status(&self) -> &AtomicU32 {
        let status = self.start().cast::<AtomicU32>();
        // SAFETY: the first word of a slot, aligned, mapped as long as `self` lives, and written by kernel and user as
        // one word.
        unsafe { status.as_ref() }
    }

    /// Passes the current slot to the kernel and turns to the next.
    #[inline]
    fn pass(&mut self, status: u32) {
        self.status().store(status, Ordering::Release);
        self.current = (self.current + 1) & (self.slots - 1);
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: exactly what `map` mapped, once; no reference outlives `self`.
        unsafe { libc::munmap(self.map.as_ptr().cast(), self.slot * self.slots) };
    }
}

/// The ring of received frames.
#[derive(Debug)]
pub(super) struct ReceiveRing(Ring);

impl ReceiveRing {
    pub(super) fn map(socket: &OwnedFd, slot: usize, slots: usize) -> io::Result<Self> {
        Ring::map(socket, libc::PACKET_RX_RING, slot, slots).map(Self)
    }

    /// The current slot, if the kernel has put a frame into it: its status, and its bytes behind that.
    #[inline]
    pub(super) fn received(&self) -> Option<(u32, &[u8])> {
        let status = self.0.status().load(Ordering::Acquire);
        if status & libc::TP_STATUS_USER == 0 {
            return None;
        }
        // SAFETY: inside the slot.
        let start = unsafe { self.0.start().add(STATUS) };
        // SAFETY: the rest of the slot is mapped and initialised. The status says that it is the user's; the kernel does
        // not touch it before `release`, which needs `&mut self` and so outlasts this borrow.
        let bytes = unsafe { std::slice::from_raw_parts(start.as_ptr(), self.0.slot - STATUS) };
        Some((status, bytes))
    }

    /// Gives the current slot, which was received, back to the kernel.
    #[inline]
    pub(super) fn release(&mut self) {
        self.0.pass(libc::TP_STATUS_KERNEL);
    }
}

/// Sends frames with one system call, straight from where they lie. Says how many the kernel took.
#[derive(Debug)]
pub(super) struct Messages {
    parts: Box<[libc::iovec]>,
    messages: Box<[libc::mmsghdr]>,
}

// SAFETY: the pointers inside mean something only within `send`.
unsafe impl Send for Messages {}

impl Messages {
    pub(super) fn new(most: usize) -> Self {
        let part = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // SAFETY: all fields are numbers or pointers, for which zero is valid: no address, no parts, no control data.
        let message = unsafe { std::mem::zeroed::<libc::mmsghdr>() };
        Self { parts: vec![part; most].into(), messages: vec![message; most].into() }
    }

    pub(super) fn send<'a>(
        &mut self,
        socket: &OwnedFd,
        frames: impl Iterator<Item = &'a [u8]>,
    ) -> io::Result<usize> {
        let mut count = 0;
        for ((part, message), frame) in self.parts.iter_mut().zip(&mut self.messages).zip(frames) {
            *part = libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() };
            message.msg_hdr.msg_iov = part;
            message.msg_hdr.msg_iovlen = 1;
            count += 1;
        }
        let (fd, flags) = (socket.as_raw_fd(), libc::MSG_DONTWAIT);
        // SAFETY: the first `count` messages have one part each, inside `self.parts`, which is a frame that is borrowed for
        // `'a`, beyond this call. The kernel reads them and writes lengths into `self.messages`.
        let sent = unsafe { libc::sendmmsg(fd, self.messages.as_mut_ptr(), count, flags) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}
