//! Endpoint-independent mappings (RFC 4787 REQ-1): an inside address and port keep one external address and port towards
//! all peers, as long as any session of theirs lives.

use std::io;

use zerocopy::FromZeros;

use crate::base::hugepage::HugeSlice;
use crate::base::{EipIndex, EntryId};
use crate::nat::index::Index;
use crate::nat::key::{EndpointKey, Hashed, Hasher};
use crate::nat::session::{Flow, SessionKind};

/// A mapping.
#[derive(Clone, Copy, Debug, FromZeros)]
#[repr(C)]
pub struct Mapping {
    /// The private host; in a free slot the next free one.
    pub inside: u32,
    /// The EIP.
    pub external: u32,
    /// The private host's port.
    pub inside_port: u16,
    /// The port on the EIP.
    pub external_port: u16,
    /// The VPC as a tenant number.
    pub tenant: u16,
    /// IP protocol number.
    pub protocol: u8,
    _unused: u8,
    /// The slot of the EIP.
    pub eip: u32,
    /// The entry that made it.
    pub entry: u32,
    /// Sessions that use it; in a free slot zero.
    sessions: u32,
}

impl Mapping {
    /// Its inside endpoint.
    pub fn inside_key(&self) -> EndpointKey {
        EndpointKey {
            tenant: self.tenant,
            protocol: self.protocol,
            address: self.inside,
            port: self.inside_port,
        }
    }

    /// Whether something uses it besides one session, or besides what expects one.
    pub fn is_shared(&self) -> bool {
        self.sessions > 1
    }

    /// The flow that it makes with a peer.
    pub fn flow(&self, peer: (u32, u16)) -> Flow {
        Flow {
            kind: SessionKind::Snat,
            protocol: self.protocol,
            tenant: self.tenant,
            inside: (self.inside, self.inside_port),
            external: (self.external, self.external_port),
            peer,
            eip: EipIndex(self.eip),
            entry: EntryId(self.entry),
        }
    }

    /// Its external endpoint.
    pub fn external_key(&self) -> EndpointKey {
        EndpointKey::external(self.protocol, self.external, self.external_port)
    }
}

/// The mappings of one worker.
#[derive(Debug)]
pub struct Mappings {
    rows: HugeSlice<Mapping>,
    index: Index,
    hasher: Hasher,
    free: u32,
    used: u32,
    len: usize,
}

const NONE: u32 = u32::MAX;

impl Mappings {
    /// Room for `capacity` mappings.
    ///
    /// # Errors
    /// The kernel's, when it gives no memory.
    pub fn new(capacity: usize, hasher: Hasher) -> io::Result<Self> {
        Ok(Self {
            rows: HugeSlice::zeroed(capacity)?,
            index: Index::new(2 * capacity)?,
            hasher,
            free: NONE,
            used: 0,
            len: 0,
        })
    }

    /// Number of mappings.
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

    /// The mapping in a slot.
    pub fn get(&self, slot: u32) -> Option<&Mapping> {
        self.rows.get(slot as usize).filter(|row| row.sessions > 0)
    }

    /// An endpoint with its hash.
    #[inline]
    pub fn hashed(&self, key: EndpointKey) -> Hashed<EndpointKey> {
        Hashed { key, hash: self.hasher.endpoint(&key) }
    }

    /// Starts to load what a look-up of this endpoint will read first.
    #[inline]
    pub fn prefetch(&self, endpoint: &Hashed<EndpointKey>) {
        self.index.prefetch(endpoint.hash);
    }

    /// The slot of the mapping with this inside endpoint.
    pub fn by_inside(&self, endpoint: &Hashed<EndpointKey>) -> Option<u32> {
        self.find(endpoint, Mapping::inside_key)
    }

    /// The slot of the mapping with this external endpoint.
    pub fn by_external(&self, endpoint: &Hashed<EndpointKey>) -> Option<u32> {
        self.find(endpoint, Mapping::external_key)
    }

    #[inline]
    fn find(&self, endpoint: &Hashed<EndpointKey>, key: fn(&Mapping) -> EndpointKey) -> Option<u32> {
        self.index.find(endpoint.hash, |slot| self.get(slot).is_some_and(|row| key(row) == endpoint.key))
    }

    /// Adds a mapping of an inside endpoint to an external one on an EIP, for its first session; `None`, and no change, when
    /// there is no room.
    pub fn insert(
        &mut self,
        inside: &Hashed<EndpointKey>,
        external: &Hashed<EndpointKey>,
        eip: EipIndex,
        entry: EntryId,
    ) -> Option<u32> {
        let fresh = self.free == NONE;
        let slot = if fresh { self.used } else { self.free };
        let next_free = self.rows.get(slot as usize)?.inside;
        if !self.index.insert(inside.hash, slot) {
            return None;
        }
        if !self.index.insert(external.hash, slot) {
            self.index.remove(inside.hash, slot);
            return None;
        }
        if fresh {
            self.used += 1;
        } else {
            self.free = next_free;
        }
        self.rows[slot as usize] = Mapping {
            inside: inside.key.address,
            external: external.key.address,
            inside_port: inside.key.port,
            external_port: external.key.port,
            tenant: inside.key.tenant,
            protocol: inside.key.protocol,
            _unused: 0,
            eip: eip.0,
            entry: entry.0,
            sessions: 1,
        };
        self.len += 1;
        Some(slot)
    }

    /// Takes a mapping off the index by its inside endpoint, so that another can be made for it.
    pub fn orphan(&mut self, slot: u32) {
        if let Some(row) = self.get(slot) {
            let hash = self.hasher.endpoint(&row.inside_key());
            self.index.remove(hash, slot);
        }
    }

    /// One more session uses the mapping.
    pub fn share(&mut self, slot: u32) {
        if let Some(row) = self.rows.get_mut(slot as usize) {
            row.sessions += 1;
        }
    }

    /// One session less uses it; says what it was if that was the last one, and it is gone.
    pub fn release(&mut self, slot: u32) -> Option<Mapping> {
        let row = self.rows.get_mut(slot as usize).filter(|row| row.sessions > 0)?;
        row.sessions -= 1;
        if row.sessions > 0 {
            return None;
        }
        let gone = *row;
        row.inside = self.free;
        self.free = slot;
        self.len -= 1;
        self.index.remove(self.hasher.endpoint(&gone.inside_key()), slot);
        self.index.remove(self.hasher.endpoint(&gone.external_key()), slot);
        Some(gone)
    }
}
