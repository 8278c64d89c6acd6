//! What AF_XDP asks of the kernel: sockets, rings in shared memory, and the ownership of slots lent to it.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use crate::nic::{Frame, Pool};

/// `XDP_MAX_TX_SKB_BUDGET`: frames that one kick sends in copy mode (Linux 6.17).
pub(super) const MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// A value that crosses the system call boundary as it lies in memory.
///
/// # Safety
/// Every bit pattern is a valid value.
pub(super) unsafe trait Plain: Copy {}

// SAFETY: integers and structures of integers.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}
// SAFETY: as above.
unsafe impl Plain for libc::xdp_desc {}
// SAFETY: as above.
unsafe impl Plain for libc::xdp_mmap_offsets {}
// SAFETY: as above.
unsafe impl Plain for libc::xdp_statistics {}

/// A new XDP socket.
pub(super) fn socket() -> io::Result<OwnedFd> {
    // SAFETY: takes plain numbers only.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Registers the pool's region as the socket's umem, one chunk a slot, without headroom beyond the kernel's own.
pub(super) fn register(socket: &OwnedFd, pool: &Pool) -> io::Result<()> {
    let (start, len) = pool.region();
    let region = libc::xdp_umem_reg {
        addr: start.as_ptr().expose_provenance() as u64,
        len: len as u64,
        chunk_size: pool.slot_size() as u32,
        headroom: 0,
        flags: 0,
        tx_metadata_len: 0,
    };
    // The kernel pins the pages: they stay even if the mapping goes.
    // SAFETY: the kernel reads the one structure of the length given. What it will write is the pool's region, and
    // there only slots that are lent to it (`Loans`).
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            libc::XDP_UMEM_REG,
            std::ptr::from_ref(&region).cast(),
            size_of::<libc::xdp_umem_reg>() as libc::socklen_t,
        )
    };
    outcome(result)
}

/// Sets a number as a socket option.
pub(super) fn set_number(
    socket: &OwnedFd,
    level: libc::c_int,
    option: libc::c_int,
    value: u32,
) -> io::Result<()> {
    debug_assert!((level, option) != (libc::SOL_XDP, libc::XDP_UMEM_REG), "its value holds a pointer");
    // SAFETY: the kernel reads the one number of the length given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(&value).cast(),
            size_of::<u32>() as libc::socklen_t,
        )
    };
    outcome(result)
}

/// Reads a socket option of XDP; `false` if the kernel's structure is shorter.
pub(super) fn get_option<T: Plain>(socket: &OwnedFd, option: libc::c_int, value: &mut T) -> io::Result<bool> {
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into `value`, for which every bit pattern is valid.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            option,
            std::ptr::from_mut(value).cast(),
            &raw mut len,
        )
    };
    outcome(result).map(|()| len as usize == size_of::<T>())
}

/// Binds the socket to a queue of a device.
pub(super) fn bind(socket: &OwnedFd, address: &libc::sockaddr_xdp) -> io::Result<()> {
    // SAFETY: the kernel reads the one address of the length given.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            std::ptr::from_ref(address).cast(),
            size_of::<libc::sockaddr_xdp>() as libc::socklen_t,
        )
    };
    outcome(result)
}

/// Tells the kernel to send what lies in the transmit ring.
#[inline]
pub(super) fn kick_transmit(socket: &OwnedFd) -> io::Result<()> {
    let fd = socket.as_raw_fd();
    // SAFETY: no buffer is passed.
    let result = unsafe { libc::sendto(fd, std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Tells the kernel to look into the fill ring.
#[inline]
pub(super) fn kick_receive(socket: &OwnedFd) {
    let (fd, none) = (socket.as_raw_fd(), std::ptr::null_mut());
    // SAFETY: no buffer is passed. What it answers changes nothing: the next receive kicks again.
    unsafe { libc::recvfrom(fd, none, 0, libc::MSG_DONTWAIT, std::ptr::null_mut(), std::ptr::null_mut()) };
}

fn outcome(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// One of a socket's four rings, in memory shared with the kernel.
#[derive(Debug)]
pub(super) struct RingMemory<T> {
    map: NonNull<u8>,
    bytes: usize,
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    mask: u32,
}

// SAFETY: owns its mapping; the entries are plain values and the indices atomic.
unsafe impl<T: Plain> Send for RingMemory<T> {}

impl<T: Plain> RingMemory<T> {
    /// Maps a ring of `entries` entries (a power of two) that the socket was told to have.
    pub(super) fn map(
        socket: &OwnedFd,
        entries: u32,
        page_offset: libc::off_t,
        offsets: &libc::xdp_ring_offset,
    ) -> io::Result<Self> {
        let index = |offset: u64| {
            let offset = offset as usize;
            offset
                .is_multiple_of(align_of::<AtomicU32>())
                .then_some((offset, offset + size_of::<AtomicU32>()))
        };
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let (producer, producer_end) = index(offsets.producer).ok_or_else(invalid)?;
        let (consumer, consumer_end) = index(offsets.consumer).ok_or_else(invalid)?;
        let (flags, flags_end) = index(offsets.flags).ok_or_else(invalid)?;
        let start = offsets.desc as usize;
        if !entries.is_power_of_two() || !start.is_multiple_of(align_of::<T>()) {
            return Err(invalid());
        }
        let end = start + entries as usize * size_of::<T>();
        let bytes = end.max(producer_end).max(consumer_end).max(flags_end);
        let (protection, sharing) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let map = unsafe {
            libc::mmap(std::ptr::null_mut(), bytes, protection, sharing, socket.as_raw_fd(), page_offset)
        };
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let map = NonNull::new(map.cast::<u8>()).ok_or_else(invalid)?;
        // SAFETY: inside the mapping, whose length is the largest of the ends.
        let producer = unsafe { map.add(producer) };
        // SAFETY: as above.
        let consumer = unsafe { map.add(consumer) };
        // SAFETY: as above.
        let flags = unsafe { map.add(flags) };
        // SAFETY: as above.
        let first = unsafe { map.add(start) };
        Ok(Self {
            map,
            bytes,
            producer: producer.cast(),
            consumer: consumer.cast(),
            flags: flags.cast(),
            entries: first.cast(),
            mask: entries - 1,
        })
    }

    /// Number of entries.
    #[inline]
    pub(super) fn size(&self) -> u32 {
        self.mask + 1
    }

    /// The index of the next entry to be produced.
    #[inline]
    pub(super) fn producer(&self) -> &AtomicU32 {
        // SAFETY: aligned and inside the mapping, which lives as long as `self`.
        unsafe { self.producer.as_ref() }
    }

    /// The index of the next entry to be consumed.
    #[inline]
    pub(super) fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as for `producer`.
        unsafe { self.consumer.as_ref() }
    }

    /// The kernel's flags.
    #[inline]
    pub(super) fn flags(&self) -> &AtomicU32 {
        // SAFETY: as for `producer`.
        unsafe { self.flags.as_ref() }
    }

    /// The entry at `index`, which wraps round.
    #[inline]
    pub(super) fn read(&self, index: u32) -> T {
        // SAFETY: the mask keeps the position within the ring's entries, all of which are mapped.
        let entry = unsafe { self.entries.add((index & self.mask) as usize) };
        // Volatile: the kernel may write other entries at the same time.
        // SAFETY: aligned, mapped, and every bit pattern is valid (`Plain`).
        unsafe { entry.read_volatile() }
    }

    /// Writes the entry at `index`, which wraps round.
    #[inline]
    pub(super) fn write(&mut self, index: u32, value: T) {
        // SAFETY: as in `read`.
        let entry = unsafe { self.entries.add((index & self.mask) as usize) };
        // SAFETY: aligned and mapped for writing.
        unsafe { entry.write_volatile(value) };
    }
}

impl<T> Drop for RingMemory<T> {
    fn drop(&mut self) {
        // SAFETY: exactly what `map` mapped, once; references into it cannot outlive `self`.
        unsafe { libc::munmap(self.map.as_ptr().cast(), self.bytes) };
    }
}

/// The slots of a pool that are lent to the kernel by one queue: a bit for each.
///
/// A slot comes back only if it was lent, and only once, whatever the kernel writes into its rings.
#[derive(Debug)]
pub(super) struct Loans {
    pool: Arc<Pool>,
    lent: Box<[u64]>,
    count: usize,
}

impl Loans {
    pub(super) fn new(pool: &Arc<Pool>) -> Self {
        Self { pool: Arc::clone(pool), lent: vec![0; pool.slots().div_ceil(64)].into_boxed_slice(), count: 0 }
    }

    /// Number of slots lent.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Lends the frame's slot and returns the slot's address in the umem; the frame itself if it is of another pool.
    #[inline]
    pub(super) fn lend(&mut self, frame: Frame) -> Result<u64, Frame> {
        let slot = frame.slot() as usize;
        let offset = slot * self.pool.slot_size();
        let start = self.pool.region().0.as_ptr().addr() + offset;
        let Some(word) = self.lent.get_mut(slot / 64) else { return Err(frame) };
        if frame.slot_bytes().as_ptr().addr() != start {
            return Err(frame);
        }
        let _ = frame.into_slot();
        *word |= 1 << (slot % 64);
        self.count += 1;
        Ok(offset as u64)
    }

    /// Takes a slot back. `None` if it is not lent.
    #[inline]
    pub(super) fn take_back(&mut self, slot: usize) -> Option<Frame> {
        let word = self.lent.get_mut(slot / 64)?;
        let bit = 1 << (slot % 64);
        if *word & bit == 0 {
            return None;
        }
        *word &= !bit;
        self.count -= 1;
        // SAFETY: the bit was set, so `lend` gave the slot of a frame of this pool up, and the bit is cleared, so it
        // is taken back once.
        Some(unsafe { Frame::from_slot(&self.pool, slot as u32) })
    }

    /// Takes back some slot that is lent: for the end, when the kernel has let go of all.
    pub(super) fn take_any(&mut self) -> Option<Frame> {
        let index = self.lent.iter().position(|&word| word != 0)?;
        self.take_back(index * 64 + self.lent[index].trailing_zeros() as usize)
    }
}
