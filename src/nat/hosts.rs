//! Private hosts with SNAT sessions: how many they have, and the one EIP that they keep while they have any (paired
//! pooling, RFC 4787 REQ-2).

use std::io;

use zerocopy::FromZeros;

use crate::base::EipIndex;
use crate::base::hugepage::HugeSlice;
use crate::nat::index::Index;
use crate::nat::key::{Hashed, Hasher};

/// A private host with sessions.
#[derive(Clone, Copy, Debug, FromZeros)]
#[repr(C)]
pub struct Host {
    /// Its address; in a free slot the next free one.
    pub address: u32,
    /// The slot of the EIP that it leaves with.
    pub eip: u32,
    /// Its SNAT sessions; in a free slot zero.
    pub sessions: u32,
    /// Its VPC as a tenant number.
    pub tenant: u16,
    /// The chain of its blocks of ports on the EIP; zero if it has none.
    pub blocks: u16,
}

impl Host {
    /// Which one it is.
    #[inline]
    pub fn key(&self) -> HostKey {
        HostKey { tenant: self.tenant, address: self.address }
    }
}

/// Which private host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostKey {
    /// Its VPC as a tenant number.
    pub tenant: u16,
    /// Its address.
    pub address: u32,
}

/// The private hosts of one worker.
#[derive(Debug)]
pub struct Hosts {
    rows: HugeSlice<Host>,
    index: Index,
    hasher: Hasher,
    free: u32,
    used: u32,
    len: usize,
}

const NONE: u32 = u32::MAX;

impl Hosts {
    /// Room for `capacity` hosts.
    ///
    /// # Errors
    /// The kernel's, when it gives no memory.
    pub fn new(capacity: usize, hasher: Hasher) -> io::Result<Self> {
        Ok(Self {
            rows: HugeSlice::zeroed(capacity)?,
            index: Index::new(capacity)?,
            hasher,
            free: NONE,
            used: 0,
            len: 0,
        })
    }

    /// Number of hosts.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.rows) + self.index.bytes()
    }

    /// A host's key with its hash.
    #[inline]
    pub fn hashed(&self, key: HostKey) -> Hashed<HostKey> {
        Hashed { key, hash: self.hasher.address(key.tenant, key.address) }
    }

    /// The slot of a host that has sessions.
    #[inline]
    pub fn find(&self, host: &Hashed<HostKey>) -> Option<u32> {
        self.index.find(host.hash, |slot| self.get(slot).is_some_and(|row| row.key() == host.key))
    }

    /// Starts to load what a look-up of this host will read first.
    #[inline]
    pub fn prefetch(&self, host: &Hashed<HostKey>) {
        self.index.prefetch(host.hash);
    }

    /// The host in a slot.
    pub fn get(&self, slot: u32) -> Option<&Host> {
        self.rows.get(slot as usize).filter(|row| row.sessions > 0)
    }

    /// Adds a host that is not there, with its first session on this EIP. `None`, and no change, when there is no room.
    pub fn insert(&mut self, host: &Hashed<HostKey>, eip: EipIndex) -> Option<u32> {
        let fresh = self.free == NONE;
        let slot = if fresh { self.used } else { self.free };
        let next_free = self.rows.get(slot as usize)?.address;
        if !self.index.insert(host.hash, slot) {
            return None;
        }
        if fresh {
            self.used += 1;
        } else {
            self.free = next_free;
        }
        let HostKey { tenant, address } = host.key;
        self.rows[slot as usize] = Host { address, eip: eip.0, sessions: 1, tenant, blocks: 0 };
        self.len += 1;
        Some(slot)
    }

    /// The host in a slot has one more session.
    pub fn enter(&mut self, slot: u32) {
        if let Some(row) = self.rows.get_mut(slot as usize) {
            row.sessions += 1;
        }
    }

    /// The host in a slot has one session less. Says what it was if that was the last one, and it is gone.
    pub fn leave(&mut self, slot: u32) -> Option<Host> {
        let row = self.rows.get_mut(slot as usize).filter(|row| row.sessions > 0)?;
        row.sessions -= 1;
        if row.sessions > 0 {
            return None;
        }
        let gone = *row;
        row.address = self.free;
        self.free = slot;
        self.len -= 1;
        self.index.remove(self.hasher.address(gone.tenant, gone.address), slot);
        Some(gone)
    }

    /// Notes the chain of the blocks that the host in a slot has.
    pub fn set_blocks(&mut self, slot: u32, chain: u16) {
        if let Some(row) = self.rows.get_mut(slot as usize) {
            row.blocks = chain;
        }
    }

    /// Moves the host in a slot to another EIP: its first one does not serve it any more.
    pub fn move_to(&mut self, slot: u32, eip: EipIndex) {
        if let Some(row) = self.rows.get_mut(slot as usize) {
            row.eip = eip.0;
        }
    }
}
