//! The two kinds of ring: those that natgate fills for the kernel, and those that the kernel fills for natgate. Both
//! sides keep their own index and publish it once a batch.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use super::sys::{Plain, RingMemory};

/// A ring that natgate produces into: fill and transmit.
#[derive(Debug)]
pub(super) struct Outgoing<T> {
    memory: RingMemory<T>,
    /// The next entry to write.
    next: u32,
    /// The kernel's index as last read: it is at least here.
    seen: u32,
}

impl<T: Plain> Outgoing<T> {
    pub(super) fn map(
        socket: &OwnedFd,
        entries: u32,
        page_offset: libc::off_t,
        offsets: &libc::xdp_ring_offset,
    ) -> io::Result<Self> {
        let memory = RingMemory::map(socket, entries, page_offset, offsets)?;
        let next = memory.producer().load(Ordering::Relaxed);
        Ok(Self { memory, next, seen: next })
    }

    /// Free entries; the kernel's index is read again only if fewer than `want` are known of.
    #[inline]
    pub(super) fn free(&mut self, want: u32) -> u32 {
        let free = self.known_free();
        if free >= want {
            return free;
        }
        // Acquire: the kernel has read the entries it gives up before they are overwritten.
        self.seen = self.memory.consumer().load(Ordering::Acquire);
        self.known_free()
    }

    fn known_free(&self) -> u32 {
        self.memory.size().saturating_sub(self.next.wrapping_sub(self.seen))
    }

    /// Writes the next entry. Only for as many as are free.
    #[inline]
    pub(super) fn push(&mut self, value: T) {
        self.memory.write(self.next, value);
        self.next = self.next.wrapping_add(1);
    }

    /// Shows the kernel what was pushed.
    #[inline]
    pub(super) fn publish(&mut self) {
        // Release: the entries are written before the kernel sees the index.
        self.memory.producer().store(self.next, Ordering::Release);
    }

    /// Entries that the kernel has not consumed yet.
    #[inline]
    pub(super) fn pending(&mut self) -> u32 {
        self.seen = self.memory.consumer().load(Ordering::Acquire);
        self.next.wrapping_sub(self.seen).min(self.memory.size())
    }

    /// Whether the kernel wants a system call to go on with this ring.
    #[inline]
    pub(super) fn needs_wakeup(&self) -> bool {
        self.memory.flags().load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

/// A ring that the kernel produces into: receive and completion.
#[derive(Debug)]
pub(super) struct Incoming<T> {
    memory: RingMemory<T>,
    /// The next entry to read.
    next: u32,
    /// The kernel's index as last read: it is at least here.
    seen: u32,
}

impl<T: Plain> Incoming<T> {
    pub(super) fn map(
        socket: &OwnedFd,
        entries: u32,
        page_offset: libc::off_t,
        offsets: &libc::xdp_ring_offset,
    ) -> io::Result<Self> {
        let memory = RingMemory::map(socket, entries, page_offset, offsets)?;
        let next = memory.consumer().load(Ordering::Relaxed);
        Ok(Self { memory, next, seen: next })
    }

    /// Entries to read, at most `most`.
    #[inline]
    pub(super) fn ready(&mut self, most: u32) -> u32 {
        if self.seen == self.next {
            // Acquire: the entries are read after the index that covers them.
            self.seen = self.memory.producer().load(Ordering::Acquire);
        }
        self.seen.wrapping_sub(self.next).min(self.memory.size()).min(most)
    }

    /// Reads the next entry. Only for as many as are ready.
    #[inline]
    pub(super) fn pop(&mut self) -> T {
        let value = self.memory.read(self.next);
        self.next = self.next.wrapping_add(1);
        value
    }

    /// Gives the entries that were read back to the kernel.
    #[inline]
    pub(super) fn release(&mut self) {
        // Release: the entries are read before the kernel may overwrite them.
        self.memory.consumer().store(self.next, Ordering::Release);
    }
}
