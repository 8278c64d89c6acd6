//! Keys of sessions, mappings and hosts, and their seeded hash.

use crate::policy::Realm;
use crate::wire::Datagram;

/// A flow as one side sees it: who sends what to whom, and in which realm the addresses mean something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowKey {
    /// Source address.
    pub source: u32,
    /// Destination address.
    pub destination: u32,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// The realm as a number: see [`Realm::tenant`].
    pub tenant: u16,
    /// IP protocol number.
    pub protocol: u8,
}

impl FlowKey {
    /// The key of a packet that comes from `tenant`'s side.
    #[inline(always)]
    pub fn of(datagram: &Datagram, tenant: u16) -> Self {
        Self {
            source: datagram.source,
            destination: datagram.destination,
            source_port: datagram.source_port,
            destination_port: datagram.destination_port,
            tenant,
            protocol: datagram.protocol,
        }
    }

    /// Its addresses as one number.
    #[inline(always)]
    pub const fn addresses(&self) -> u64 {
        addresses(self.source, self.destination)
    }

    /// Its ports as one number.
    #[inline(always)]
    pub const fn ports(&self) -> u32 {
        ports(self.source_port, self.destination_port)
    }

    /// The key of what a private host sends to a peer.
    pub const fn outward(tenant: u16, protocol: u8, inside: (u32, u16), peer: (u32, u16)) -> Self {
        Self {
            source: inside.0,
            destination: peer.0,
            source_port: inside.1,
            destination_port: peer.1,
            tenant,
            protocol,
        }
    }
}

impl FlowKey {
    /// The key of the peer's packets where this one, of a private host, leaves with an external address and port.
    pub const fn answer_to(&self, address: u32, port: u16) -> Self {
        Self {
            source: self.destination,
            source_port: self.destination_port,
            destination: address,
            destination_port: port,
            tenant: Realm::Outside.tenant(),
            protocol: self.protocol,
        }
    }
}

/// Two addresses as one number: what lies side by side in memory is loaded and compared at once.
#[inline(always)]
pub const fn addresses(source: u32, destination: u32) -> u64 {
    source as u64 | (destination as u64) << 32
}

/// Two ports as one number.
#[inline(always)]
pub const fn ports(source: u16, destination: u16) -> u32 {
    source as u32 | (destination as u32) << 16
}

/// One end of flows: an address and a port in a realm, with all its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointKey {
    /// The realm as a number: see [`Realm::tenant`].
    pub tenant: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Address.
    pub address: u32,
    /// Port.
    pub port: u16,
}

impl EndpointKey {
    /// An external endpoint.
    pub const fn external(protocol: u8, address: u32, port: u16) -> Self {
        Self { tenant: Realm::Outside.tenant(), protocol, address, port }
    }
}

/// A key with its hash.
#[derive(Clone, Copy, Debug)]
pub struct Hashed<K> {
    /// The key.
    pub key: K,
    /// Its hash.
    pub hash: u64,
}

/// A keyed hash: a folded product of two words and a finishing step, seeded at start, so that nobody outside can choose flows that
/// fall into one bucket.
#[derive(Clone, Copy, Debug)]
pub struct Hasher {
    seeds: [u64; 3],
}

impl Hasher {
    /// A hash of its own for each seed.
    pub fn new(rng: &mut crate::base::Rng) -> Self {
        Self { seeds: std::array::from_fn(|_| rng.next_u64() | 1) }
    }

    /// The hash of a flow.
    #[inline(always)]
    pub fn flow(&self, key: &FlowKey) -> u64 {
        let rest = u64::from(key.ports()) | u64::from(key.protocol) << 32 | u64::from(key.tenant) << 40;
        self.words(key.addresses(), rest)
    }

    /// The hash of an endpoint.
    #[inline]
    pub fn endpoint(&self, key: &EndpointKey) -> u64 {
        let rest = u64::from(key.port) | u64::from(key.protocol) << 16 | u64::from(key.tenant) << 24;
        self.words(u64::from(key.address), rest)
    }

    /// The hash of an address in a realm, or on an interface.
    #[inline]
    pub fn address(&self, number: u16, address: u32) -> u64 {
        self.words(u64::from(address), u64::from(number))
    }

    /// The hash of a mapping's slot and a peer's address.
    #[inline]
    pub fn address_of_mapping(&self, mapping: u32, peer: u32) -> u64 {
        self.words(u64::from(peer), u64::from(mapping) | 1 << 40)
    }

    /// The hash of a fragmented datagram.
    #[inline]
    pub fn datagram(&self, key: &FlowKey, id: u16) -> u64 {
        let rest = u64::from(id) | u64::from(key.protocol) << 16 | u64::from(key.tenant) << 24;
        self.words(key.addresses(), rest)
    }

    #[inline(always)]
    fn words(&self, a: u64, b: u64) -> u64 {
        // One folded product leaves neighbouring keys at equal distances, which would crowd some buckets; the shifts
        // between the multiplications break that.
        let mut hash = fold(a ^ self.seeds[0], b ^ self.seeds[1]);
        hash = (hash ^ hash >> 32).wrapping_mul(self.seeds[2]);
        hash ^ hash >> 29
    }
}

/// The halves of a 128-bit product, combined.
#[inline(always)]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}
