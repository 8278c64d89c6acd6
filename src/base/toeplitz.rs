//! The Toeplitz hash, by which NICs distribute packets over their queues (receive-side scaling, RSS).
//!
//! The key is a string of bits longer than what is hashed. Each bit of the input that is set adds (by exclusive-or) the 32
//! bits of the key that begin at its own position. So the hash is linear: that of a packet is the exclusive-or of those of
//! its parts, each of which can be looked up in a table.

/// Bytes of what is hashed of a TCP or UDP packet: source, destination, source port, destination port.
pub const INPUT: usize = 12;
/// Bytes of a key that matter for such an input.
pub const USED: usize = INPUT + 4;

/// The key in the specification of RSS, which many drivers have as their default.
pub const MICROSOFT_KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
    0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
    0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

/// The key under which both directions of a flow have the same hash (Woo and Park 2012): it repeats after 16 bits.
pub const SYMMETRIC_KEY: [u8; 40] = {
    let mut key = [0x6d; 40];
    let mut at = 1;
    while at < key.len() {
        key[at] = 0x5a;
        at += 2;
    }
    key
};

/// The 32 bits of a key that begin at a bit's position, counted from the first; beyond its end a key is zero.
pub fn window(key: &[u8], bit: usize) -> u32 {
    let byte = |at: usize| u64::from(key.get(at).copied().unwrap_or(0));
    let five = (0..5).fold(0, |value, at| value << 8 | byte(bit / 8 + at));
    (five << (bit % 8) >> 8) as u32
}

/// The hash of any input, bit by bit, as it is specified.
pub fn hash(key: &[u8], input: &[u8]) -> u32 {
    let bits = input.iter().flat_map(|byte| (0..8).map(move |bit| byte >> (7 - bit) & 1 == 1));
    bits.enumerate().filter(|(_, is_set)| *is_set).fold(0, |hash, (at, _)| hash ^ window(key, at))
}

/// The hash under one key, by tables: one look-up for each byte.
#[derive(Clone, PartialEq, Eq)]
pub struct Toeplitz {
    tables: Box<[[u32; 256]; INPUT]>,
}

impl Toeplitz {
    /// The hash under a key. One shorter than [`USED`] is continued with zeros.
    pub fn new(key: &[u8]) -> Self {
        let mut tables = Box::new([[0; 256]; INPUT]);
        for (at, table) in tables.iter_mut().enumerate() {
            for (byte, entry) in (0..=u8::MAX).zip(table) {
                let bits = (0..8).filter(|bit| byte >> (7 - bit) & 1 == 1);
                *entry = bits.fold(0, |hash, bit| hash ^ window(key, at * 8 + bit));
            }
        }
        Self { tables }
    }

    /// What the source and the destination address of a packet add: the whole hash of one that is neither TCP nor UDP, or of
    /// a fragment.
    #[inline]
    pub fn addresses(&self, source: u32, destination: u32) -> u32 {
        self.part(0, source.to_be_bytes()) ^ self.part(4, destination.to_be_bytes())
    }

    /// What the source port adds.
    #[inline]
    pub fn source_port(&self, port: u16) -> u32 {
        self.part(8, port.to_be_bytes())
    }

    /// What the destination port adds.
    #[inline]
    pub fn destination_port(&self, port: u16) -> u32 {
        self.part(10, port.to_be_bytes())
    }

    #[inline]
    fn part<const N: usize>(&self, at: usize, bytes: [u8; N]) -> u32 {
        let tables = self.tables.iter().skip(at);
        tables.zip(bytes).fold(0, |hash, (table, byte)| hash ^ table[usize::from(byte)])
    }
}

impl std::fmt::Debug for Toeplitz {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Toeplitz")
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// Destination, source, hash of the addresses, hash with the ports.
    type Vector = ((&'static str, u16), (&'static str, u16), u32, u32);

    /// The vectors of the specification.
    const VECTORS: [Vector; 5] = [
        (("161.142.100.80", 1766), ("66.9.149.187", 2794), 0x323e_8fc2, 0x51cc_c178),
        (("65.69.140.83", 4739), ("199.92.111.2", 14230), 0xd718_262a, 0xc626_b0ea),
        (("12.22.207.184", 38024), ("24.19.198.95", 12898), 0xd2d0_a5de, 0x5c2b_394a),
        (("209.142.163.6", 2217), ("38.27.205.30", 48228), 0x8298_9176, 0xafc7_327f),
        (("202.188.127.2", 1303), ("153.39.163.191", 44251), 0x5d18_09c5, 0x10e8_28a2),
    ];

    fn input(source: (u32, u16), destination: (u32, u16)) -> [u8; INPUT] {
        let mut input = [0; INPUT];
        input[..4].copy_from_slice(&source.0.to_be_bytes());
        input[4..8].copy_from_slice(&destination.0.to_be_bytes());
        input[8..10].copy_from_slice(&source.1.to_be_bytes());
        input[10..].copy_from_slice(&destination.1.to_be_bytes());
        input
    }

    #[test]
    fn the_published_vectors_hold() {
        let toeplitz = Toeplitz::new(&MICROSOFT_KEY);
        for (destination, source, addresses, whole) in VECTORS {
            let endpoint = |(address, port): (&str, u16)| (address.parse::<Ipv4Addr>().unwrap().into(), port);
            let (source, destination) = (endpoint(source), endpoint(destination));
            let input = input(source, destination);
            assert_eq!(hash(&MICROSOFT_KEY, &input[..8]), addresses);
            assert_eq!(hash(&MICROSOFT_KEY, &input), whole);
            assert_eq!(toeplitz.addresses(source.0, destination.0), addresses);
            let ports = toeplitz.source_port(source.1) ^ toeplitz.destination_port(destination.1);
            assert_eq!(addresses ^ ports, whole);
        }
    }

    #[test]
    fn under_the_symmetric_key_both_directions_are_one() {
        for (a, b, _, _) in VECTORS {
            let endpoint = |(address, port): (&str, u16)| (address.parse::<Ipv4Addr>().unwrap().into(), port);
            let (a, b) = (endpoint(a), endpoint(b));
            assert_eq!(hash(&SYMMETRIC_KEY, &input(a, b)), hash(&SYMMETRIC_KEY, &input(b, a)));
            assert_ne!(hash(&MICROSOFT_KEY, &input(a, b)), hash(&MICROSOFT_KEY, &input(b, a)));
        }
    }

    #[test]
    fn a_short_key_goes_on_with_zeros() {
        assert_eq!(window(&[0xff], 4), 0xf000_0000);
        assert_eq!(window(&[0xff], 8), 0);
        assert_eq!(window(&MICROSOFT_KEY, 0), 0x6d5a_56da);
        assert_eq!(window(&MICROSOFT_KEY, 9), 0xb4ad_b44a);
    }
}
