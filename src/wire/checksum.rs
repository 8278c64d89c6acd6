//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

use crate::wire::bytes::get_u16;

/// Adds `bytes` to a one's complement sum; an odd last byte counts as the high half of a word.
#[inline]
pub fn sum(bytes: &[u8], initial: u64) -> u64 {
    let mut total = initial;
    let (words, rest) = bytes.as_chunks::<4>();
    for word in words {
        total += u64::from(u32::from_be_bytes(*word));
    }
    match *rest {
        [a] => total += u64::from(a) << 8,
        [a, b] => total += u64::from(u16::from_be_bytes([a, b])),
        [a, b, c] => total += u64::from(u16::from_be_bytes([a, b])) + (u64::from(c) << 8),
        _ => {}
    }
    total
}

/// Folds a sum to 16 bits.
#[inline]
pub const fn fold(sum: u64) -> u16 {
    let (sum, carry) = (sum as u32).overflowing_add((sum >> 32) as u32);
    fold_u32(sum + carry as u32)
}

/// Folds a sum of 32 bits: adding the halves crosswise puts their sum, end-around carry included, into the upper half.
#[inline(always)]
const fn fold_u32(sum: u32) -> u16 {
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
}

/// The checksum of `bytes`: zero exactly when they hold a right one already.
#[inline]
pub fn of(bytes: &[u8]) -> u16 {
    !fold(sum(bytes, 0))
}

/// The sum of the pseudo-header of TCP and UDP (RFC 9293 §3.1) for a transport length in bytes.
#[inline]
pub const fn pseudo_header(source: u32, destination: u32, protocol: u8, length: u16) -> u64 {
    source as u64 + destination as u64 + protocol as u64 + length as u64
}

/// The checksum of a TCP or UDP segment over its pseudo-header; zero exactly when the segment holds a right one.
pub fn of_transport(source: u32, destination: u32, protocol: u8, segment: &[u8]) -> u16 {
    let pseudo = pseudo_header(source, destination, protocol, segment.len() as u16);
    !fold(sum(segment, pseudo))
}

/// Whether the checksum of an IPv4 header without options is right.
#[inline(always)]
pub fn header_is_right(header: &[u8; 20]) -> bool {
    // The sum's being all ones does not depend on the byte order (RFC 1071 §2), so none is needed; nor on the size of the
    // words, as long as carries come round. All multiples of 0xffff but zero fold to all ones, and only zeros have a sum of
    // zero. A multiple is known by its product with the inverse (modulo 2^64), which is its quotient: no others have one so
    // small.
    const INVERSE: u64 = 0xfffe_fffe_fffe_ffff;
    const _: () = assert!(INVERSE.wrapping_mul(0xffff) == 1);
    let (words, rest) = header.as_chunks::<8>();
    let (&[first, second], Some(last)) = (words, rest.first_chunk()) else { return false };
    let (sum, carry) = u64::from_ne_bytes(first).overflowing_add(u64::from_ne_bytes(second));
    let last = u64::from(u32::from_ne_bytes(*last)) + u64::from(carry);
    let (sum, carry) = sum.overflowing_add(last);
    (sum + u64::from(carry)).wrapping_mul(INVERSE) <= u64::MAX / 0xffff && header[0] != 0
}

/// The checksum field's value for an IPv4 header (RFC 791), options included, whatever the field holds now.
pub fn of_header(header: &[u8]) -> u16 {
    let field = u64::from(get_u16(header, 10));
    !fold(sum(header, 0) + u64::from(!(field as u16)))
}

/// What must be added to a one's complement sum when fields change: `~m + m'` of RFC 1624 equation 3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta(pub u16);

impl Delta {
    /// No change.
    pub const NONE: Self = Self(0);

    /// A 16-bit field changes.
    #[inline]
    pub const fn of_u16(old: u16, new: u16) -> Self {
        Self(fold_u32(!old as u32 + new as u32))
    }

    /// A 32-bit field changes.
    #[inline]
    pub const fn of_u32(old: u32, new: u32) -> Self {
        Self(fold(!old as u64 + new as u64))
    }

    /// Both changes.
    #[inline]
    pub const fn and(self, other: Self) -> Self {
        Self(fold_u32(self.0 as u32 + other.0 as u32))
    }

    /// The change back.
    #[inline]
    pub const fn inverse(self) -> Self {
        Self(!self.0)
    }

    /// The checksum after the change: `~(~HC + ~m + m')`.
    #[inline]
    pub const fn apply(self, checksum: u16) -> u16 {
        !fold_u32(!checksum as u32 + self.0 as u32)
    }
}

/// The checksum after several changes at once, whose deltas add up to `sum`: one fold for all of them.
#[inline]
pub const fn updated(checksum: u16, sum: u32) -> u16 {
    !fold_u32(!checksum as u32 + sum)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::bytes::get_u32;

    fn plain(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |b| u32::from(*b));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    proptest! {
        #[test]
        fn equals_the_definition(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(of(&bytes), plain(&bytes));
        }

        #[test]
        fn incremental_equals_computed_anew(mut bytes in proptest::collection::vec(any::<u8>(), 20..60), new: u32, edge in 0u8..4) {
            bytes.truncate(bytes.len() & !1);
            let new = match edge { 0 => 0, 1 => u32::MAX, _ => new };
            bytes[0] |= 1;
            let before = plain(&bytes);
            let old = get_u32(&bytes, 8);
            bytes[8..12].copy_from_slice(&new.to_be_bytes());
            let after = Delta::of_u32(old, new).apply(before);
            prop_assert_eq!(after, plain(&bytes));
            prop_assert_eq!(Delta::of_u32(old, new).inverse().apply(after), before);
        }
    }

    #[test]
    fn the_example_of_rfc_1624() {
        // Section 4: HC = 0xDD2F, m = 0x5555, m' = 0x3285 gives HC' = 0x0000.
        assert_eq!(Delta::of_u16(0x5555, 0x3285).apply(0xdd2f), 0x0000);
    }

    #[test]
    fn a_header_of_the_wild() {
        let header: [u8; 20] =
            [0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7];
        assert!(header_is_right(&header));
        assert_eq!(of_header(&header), 0xb861);
        let mut wrong = header;
        wrong[5] ^= 1;
        assert!(!header_is_right(&wrong));
    }

    #[test]
    fn no_header_is_right_by_a_wrong_sum() {
        assert!(!header_is_right(&[0; 20]));
        assert!(header_is_right(&[0xff; 20]));
        let mut header = [0; 20];
        for n in 0..=u16::MAX {
            header[0] = 0x45;
            header[16..18].copy_from_slice(&n.to_be_bytes());
            for carried in [0, 0xff] {
                header[2..10].fill(carried);
                assert_eq!(header_is_right(&header), plain(&header) == 0, "{header:?}");
                header[10..12].fill(0);
                let right = plain(&header);
                header[10..12].copy_from_slice(&right.to_be_bytes());
                assert!(header_is_right(&header), "{header:?}");
            }
        }
    }
}
