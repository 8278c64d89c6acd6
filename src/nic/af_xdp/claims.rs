//! Sharing a port with the kernel: which addresses are the gateway's.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use super::bpf::Trie;

/// The most prefixes of a table.
const CAPACITY: u32 = 1 << 20;

/// Whose an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Frames for it leave the kernel's path and reach the gateway.
    Gateway,
    /// Frames for it go on to the kernel, as if there were no gateway.
    Kernel,
}

/// Addresses in one VLAN of a port. Bits of the address beyond the length do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix {
    /// VLAN identifier of the frame's (outer) 802.1Q tag; 0 for untagged frames.
    pub vlan: u16,
    /// The address.
    pub address: Ipv4Addr,
    /// Length in bits, 0 to 32.
    pub length: u8,
}

/// What a port's frames are judged by when it is shared with the kernel: a table of prefixes, of which the longest that
/// matches decides; without a match a frame is the kernel's. It may be changed at any time, and holds from then on.
///
/// - IPv4 is judged by its destination. Multicast and broadcast are always the kernel's.
/// - ARP, requests and replies alike, is judged by its target protocol address: requests for the gateway's addresses
///   and replies to the gateway's own requests reach the gateway, those of the kernel the kernel. A frame can reach
///   only one of them, so gratuitous ARP of another host goes to whoever owns *that host's* address here: claim a
///   next hop's address as well for the gateway to hear of its moves at once rather than at the next probe.
/// - Everything else (IPv6, LLDP, doubly tagged frames, ...) is the kernel's.
///
/// On a public port the gateway's are its own addresses and EIPs. On a VPC's port it is to receive packets for any
/// destination, so the gateway's is `0.0.0.0/0`, and the kernel's are the addresses that the kernel itself has there.
#[derive(Debug)]
pub struct Claims {
    trie: Trie,
    /// What the trie holds: the kernel's table is not read back.
    model: Mutex<BTreeMap<Prefix, Owner>>,
}

impl Claims {
    /// An empty table: everything is the kernel's.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self { trie: Trie::new(CAPACITY)?, model: Mutex::default() }))
    }

    /// Adds a prefix, or changes its owner.
    ///
    /// # Errors
    /// Invalid input for a VLAN above 4095 or a length above 32; the kernel's.
    pub fn set(&self, prefix: Prefix, owner: Owner) -> io::Result<()> {
        let prefix = prefix.normal()?;
        let mut model = self.model.lock().unwrap_or_else(PoisonError::into_inner);
        self.insert(&mut model, prefix, owner)
    }

    /// Removes a prefix; `false` if it was not there.
    ///
    /// # Errors
    /// As for [`set`](Self::set).
    pub fn remove(&self, prefix: Prefix) -> io::Result<bool> {
        let prefix = prefix.normal()?;
        let mut model = self.model.lock().unwrap_or_else(PoisonError::into_inner);
        self.delete(&mut model, prefix)
    }

    /// Makes the table hold exactly these prefixes. What is in it already is not touched.
    ///
    /// # Errors
    /// As for [`set`](Self::set). With invalid input nothing is changed.
    pub fn replace(&self, prefixes: impl IntoIterator<Item = (Prefix, Owner)>) -> io::Result<()> {
        let wanted = prefixes
            .into_iter()
            .map(|(prefix, owner)| Ok((prefix.normal()?, owner)))
            .collect::<io::Result<BTreeMap<_, _>>>()?;
        let mut model = self.model.lock().unwrap_or_else(PoisonError::into_inner);
        let gone: Vec<Prefix> = model.keys().filter(|prefix| !wanted.contains_key(prefix)).copied().collect();
        for (prefix, owner) in wanted {
            if model.get(&prefix) != Some(&owner) {
                self.insert(&mut model, prefix, owner)?;
            }
        }
        for prefix in gone {
            self.delete(&mut model, prefix)?;
        }
        Ok(())
    }

    pub(super) fn trie(&self) -> &Trie {
        &self.trie
    }

    fn insert(&self, model: &mut BTreeMap<Prefix, Owner>, prefix: Prefix, owner: Owner) -> io::Result<()> {
        let value = u32::from(owner == Owner::Gateway);
        self.trie.set(prefix.bits(), prefix.key(), value)?;
        model.insert(prefix, owner);
        Ok(())
    }

    fn delete(&self, model: &mut BTreeMap<Prefix, Owner>, prefix: Prefix) -> io::Result<bool> {
        if !model.contains_key(&prefix) {
            return Ok(false);
        }
        self.trie.remove(prefix.bits(), prefix.key())?;
        model.remove(&prefix);
        Ok(true)
    }
}

impl Prefix {
    /// One address in untagged frames.
    pub fn host(address: Ipv4Addr) -> Self {
        Self { vlan: 0, address, length: 32 }
    }

    fn normal(self) -> io::Result<Self> {
        if self.vlan > 4095 || self.length > 32 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{self:?} is no prefix")));
        }
        let mask = u32::MAX.checked_shl(32 - u32::from(self.length)).unwrap_or(0);
        Ok(Self { address: Ipv4Addr::from_bits(self.address.to_bits() & mask), ..self })
    }

    fn bits(self) -> u32 {
        32 + u32::from(self.length)
    }

    fn key(self) -> [u8; 8] {
        let mut key = [0; 8];
        key[..4].copy_from_slice(&u32::from(self.vlan).to_be_bytes());
        key[4..].copy_from_slice(&self.address.octets());
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_beyond_the_length_do_not_count() {
        let prefix = Prefix { vlan: 7, address: Ipv4Addr::new(10, 1, 2, 3), length: 8 };
        let normal = prefix.normal().unwrap();
        assert_eq!(normal.address, Ipv4Addr::new(10, 0, 0, 0));
        assert_eq!(normal.key(), [0, 0, 0, 7, 10, 0, 0, 0]);
        assert_eq!(normal.bits(), 40);
        let all = Prefix { length: 0, ..prefix }.normal().unwrap();
        assert_eq!(all.address, Ipv4Addr::UNSPECIFIED);
    }

    #[test]
    fn impossible_prefixes_are_refused() {
        assert!(Prefix { vlan: 4096, ..Prefix::host(Ipv4Addr::LOCALHOST) }.normal().is_err());
        assert!(Prefix { length: 33, ..Prefix::host(Ipv4Addr::LOCALHOST) }.normal().is_err());
    }
}
