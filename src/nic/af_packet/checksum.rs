//! The Internet checksum (RFC 1071) over whole segments, for what a kernel left to its device to compute.

/// Adds `bytes` to a one's complement sum of words in memory order, whatever the machine's byte order; an odd last
/// byte is followed by a zero.
pub(super) fn sum(bytes: &[u8], initial: u64) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    words.iter().chain([&last]).fold(initial, |total, word| total + u64::from(u32::from_ne_bytes(*word)))
}

/// A number of two bytes, as `sum` would add it.
pub(super) fn number(value: u16) -> u64 {
    u64::from(value.to_be())
}

/// The checksum of `bytes` and what `initial` sums up.
pub(super) fn of(bytes: &[u8], initial: u64) -> u16 {
    let mut sum = sum(bytes, initial);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::from_be(sum as u16)
}

/// Completes a checksum that covers the bytes from `start` on, and lies `offset` bytes behind `start` with the sum of
/// a pseudo-header in it. `false` if it lies outside of `frame`.
pub(super) fn complete(frame: &mut [u8], start: usize, offset: usize) -> bool {
    let Some(covered) = frame.get_mut(start..) else { return false };
    let sum = match of(covered, 0) {
        // The same number, and not the sign that there is no checksum (RFC 768).
        0 => 0xffff,
        sum => sum,
    };
    let Some(field) = covered.get_mut(offset..offset + 2) else { return false };
    field.copy_from_slice(&sum.to_be_bytes());
    true
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use etherparse::checksum::Sum16BitWords;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn equals_another_implementation(bytes in proptest::collection::vec(any::<u8>(), 0..300), more: u16) {
            let theirs = Sum16BitWords::new().add_slice(&bytes).add_2bytes(more.to_be_bytes()).ones_complement();
            prop_assert_eq!(of(&bytes, number(more)), theirs.to_be());
        }
    }

    #[test]
    fn a_completed_checksum_is_right() {
        let builder =
            PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9).udp(1, 2);
        let mut right = Vec::new();
        builder.write(&mut right, b"odd").unwrap();
        let mut frame = right.clone();
        let pseudo = sum(&frame[26..34], number(17) + number(11));
        frame[40..42].copy_from_slice(&(!of(&[], pseudo)).to_be_bytes());
        assert!(complete(&mut frame, 34, 6));
        assert_eq!(frame, right);
        assert!(!complete(&mut frame, 34, 10));
        assert!(!complete(&mut frame, 46, 0));
    }
}
