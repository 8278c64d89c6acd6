//! The program on the device that decides which frames go to natgate's sockets.

mod program;
mod sys;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use sys::{Map, MapKind};

/// `BPF_F_NO_PREALLOC`, which tries must have.
const NO_PREALLOC: u32 = 1;
const SKB_MODE: u32 = 1 << 1;
const DRV_MODE: u32 = 1 << 2;

/// Where a device runs the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// In its driver, before the kernel makes a socket buffer of the frame.
    Native,
    /// In the kernel's general receive path, for any driver.
    Generic,
}

/// A loaded program and its map of sockets, one place a queue.
#[derive(Debug)]
pub(super) struct Program {
    program: OwnedFd,
    sockets: Map,
}

impl Program {
    /// Redirects all frames, or those that `claims` says.
    pub(super) fn load(queues: usize, claims: Option<&Trie>) -> io::Result<Self> {
        let sockets = Map::new(MapKind::XskMap, 4, 4, queues as u32, 0)?;
        let place = sockets.fd().as_raw_fd();
        let code = match claims {
            None => program::exclusive(place),
            Some(trie) => program::shared(place, trie.map.fd().as_raw_fd()),
        };
        Ok(Self { program: sys::load(&code)?, sockets })
    }

    /// Attaches the program to a device.
    pub(super) fn attach(&self, device: u32, hook: Hook) -> io::Result<Link> {
        let flags = if hook == Hook::Native { DRV_MODE } else { SKB_MODE };
        sys::attach(&self.program, device, flags).map(|link| Link { link })
    }

    /// Sends what the program redirects on `queue` to `socket`, until the socket is closed.
    pub(super) fn connect(&self, queue: u32, socket: &OwnedFd) -> io::Result<()> {
        self.sockets.set(&queue.to_ne_bytes(), &socket.as_raw_fd().to_ne_bytes())
    }

    /// Undoes `connect`.
    pub(super) fn disconnect(&self, queue: u32) -> io::Result<()> {
        self.sockets.remove(&queue.to_ne_bytes())
    }
}

/// Keeps a program attached. The kernel detaches it when the process ends, in whatever way.
#[derive(Debug)]
pub(super) struct Link {
    link: OwnedFd,
}

impl Drop for Link {
    fn drop(&mut self) {
        // Closing detaches too, but maybe later. It fails only if the device has gone.
        let _ = sys::detach(&self.link);
    }
}

/// A trie from 8-byte prefixes to a number.
#[derive(Debug)]
pub(super) struct Trie {
    map: Map,
}

impl Trie {
    pub(super) fn new(entries: u32) -> io::Result<Self> {
        Map::new(MapKind::LpmTrie, 12, 4, entries, NO_PREALLOC).map(|map| Self { map })
    }

    /// `bits` is the prefix' length.
    pub(super) fn set(&self, bits: u32, key: [u8; 8], value: u32) -> io::Result<()> {
        self.map.set(&Self::key(bits, key), &value.to_ne_bytes())
    }

    pub(super) fn remove(&self, bits: u32, key: [u8; 8]) -> io::Result<()> {
        self.map.remove(&Self::key(bits, key))
    }

    fn key(bits: u32, key: [u8; 8]) -> [u8; 12] {
        let mut whole = [0; 12];
        whole[..4].copy_from_slice(&bits.to_ne_bytes());
        whole[4..].copy_from_slice(&key);
        whole
    }
}
