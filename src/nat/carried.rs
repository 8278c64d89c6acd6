//! What a session has carried one way, in one word, so that a packet adds to its bytes and to the packets at once.

use std::fmt;

use zerocopy::FromZeros;

/// Bytes (the lower 23 bits) and packets (the upper 9) since they were last moved elsewhere.
#[derive(Clone, Copy, Default, PartialEq, Eq, FromZeros)]
#[repr(transparent)]
pub struct Carried(u32);

/// One packet: packets stand above the bytes.
const PACKET: u32 = 1 << 23;
/// The highest bit of the packets, and that of the bytes: neither half overflows while both were clear before.
const FULL: u32 = 1 << 31 | PACKET >> 1;

impl Carried {
    /// Counts a packet. Says whether the word is nearly full: then it must be moved before it counts another.
    #[inline(always)]
    #[must_use]
    pub const fn count(&mut self, bytes: u16) -> bool {
        self.0 = self.0.wrapping_add(PACKET + bytes as u32);
        self.0 & FULL != 0
    }

    /// Bytes of IP packets.
    pub const fn bytes(self) -> u32 {
        self.0 & (PACKET - 1)
    }

    /// Packets.
    pub const fn packets(self) -> u32 {
        self.0 / PACKET
    }

    /// Whether there was none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Debug for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} packets, {} bytes", self.packets(), self.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_half_is_full_before_it_overflows() {
        for (bytes, last) in [(20, 256), (1500, 256), (16_384, 256), (u16::MAX, 65)] {
            let mut carried = Carried::default();
            let mut packets = 1;
            while !carried.count(bytes) {
                packets += 1;
            }
            assert_eq!(packets, last, "packets of {bytes} bytes");
            assert_eq!((carried.packets(), carried.bytes()), (last, last * u32::from(bytes)), "{carried:?}");
        }
    }
}
