//! Private hosts with SNAT sessions: how many they have, and the one EIP that they keep while they have any (paired
//! pooling, RFC 4787 REQ-2).

use std::io;

use zerocopy::FromZeros;

use crate::base::EipIndex;
use crate::base::hugepage::HugeSlice;
use crate::nat::index::Index;
use crate::nat::key::Hasher;

/// A private host with sessions.
#[derive(Clone, Copy, Debug, FromZeros)]
#[repr(C)]
pub struct Host {
    /// Its address.
    pub address: u32,
    /// The slot of the EIP that it leaves with.
    pub eip: u32,
    /// Its SNAT sessions; in a free slot zero.
    pub sessions: u32,
    /// The next free slot.
    next_free: u32,
    /// Its VPC as a tenant number.
    pub tenant: u16,
    _unused: u16,
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

    fn find(&self, tenant: u16, address: u32) -> Option<u32> {
        self.index.find(self.hasher.address(tenant, address), |slot| {
            self.rows
                .get(slot as usize)
                .is_some_and(|row| row.sessions > 0 && row.tenant == tenant && row.address == address)
        })
    }

    /// Starts to load what a look-up of this host will read first.
    pub fn prefetch(&self, tenant: u16, address: u32) {
        self.index.prefetch(self.hasher.address(tenant, address));
    }

    /// A host that has sessions.
    pub fn get(&self, tenant: u16, address: u32) -> Option<&Host> {
        self.rows.get(self.find(tenant, address)? as usize)
    }

    /// The host has one more session, on this EIP if it is its first. `false`, and no change, when there is no room for
    /// another host.
    #[must_use]
    pub fn enter(&mut self, tenant: u16, address: u32, eip: EipIndex) -> bool {
        if let Some(slot) = self.find(tenant, address) {
            self.rows[slot as usize].sessions += 1;
            return true;
        }
        let fresh = self.free == NONE;
        let slot = if fresh { self.used } else { self.free };
        let Some(next_free) = self.rows.get(slot as usize).map(|row| row.next_free) else { return false };
        if !self.index.insert(self.hasher.address(tenant, address), slot) {
            return false;
        }
        if fresh {
            self.used += 1;
        } else {
            self.free = next_free;
        }
        self.rows[slot as usize] =
            Host { address, eip: eip.0, sessions: 1, next_free: 0, tenant, _unused: 0 };
        self.len += 1;
        true
    }

    /// The host has one session less.
    pub fn leave(&mut self, tenant: u16, address: u32) {
        let Some(slot) = self.find(tenant, address) else { return };
        let row = &mut self.rows[slot as usize];
        row.sessions -= 1;
        if row.sessions == 0 {
            row.next_free = self.free;
            self.free = slot;
            self.len -= 1;
            self.index.remove(self.hasher.address(tenant, address), slot);
        }
    }

    /// Moves a host to another EIP: its first one does not serve it any more.
    pub fn move_to(&mut self, tenant: u16, address: u32, eip: EipIndex) {
        if let Some(slot) = self.find(tenant, address) {
            self.rows[slot as usize].eip = eip.0;
        }
    }
}
