//! TCP options (RFC 9293 §3.2), as far as a NAT looks at them.

use crate::wire::Delta;
use crate::wire::bytes::{get_u16, put_u16};

/// Bytes of an IP and a TCP header without options.
pub const HEADERS: u16 = 40;

/// Where the checksum stands in a TCP header.
const CHECKSUM: usize = 16;

/// What is looked at of options, one after the other. Such as contradict themselves end it.
struct Options {
    at: usize,
    end: usize,
}

impl Options {
    /// Those of a segment.
    fn of_segment(segment: &[u8]) -> Self {
        Self { at: 20, end: usize::from(segment.get(12).copied().unwrap_or_default() >> 4) * 4 }
    }

    /// The next one that means anything in these bytes: where it stands, its kind and its length.
    fn next(&mut self, bytes: &[u8]) -> Option<(usize, u8, usize)> {
        const END: u8 = 0;
        const NO_OPERATION: u8 = 1;
        loop {
            let (at, rest) = (self.at, bytes.get(self.at..self.end)?);
            match *rest {
                [NO_OPERATION, ..] => self.at += 1,
                [kind, len, ..] if kind != END && len >= 2 && usize::from(len) <= rest.len() => {
                    self.at += usize::from(len);
                    return Some((at, kind, usize::from(len)));
                }
                _ => return None,
            }
        }
    }
}

/// By how many bits a host shifts the windows that it announces, from the options of its SYN (RFC 7323 §2.2); zero if it does
/// not say.
pub fn window_scale(options: &[u8]) -> u8 {
    const WINDOW_SCALE: u8 = 3;
    const MOST: u8 = 14;
    let mut all = Options { at: 0, end: options.len() };
    while let Some((at, kind, len)) = all.next(options) {
        if (kind, len) == (WINDOW_SCALE, 3) {
            return options.get(at + 2).copied().unwrap_or_default().min(MOST);
        }
    }
    0
}

/// Lowers the maximum segment size that a SYN announces (RFC 9293 §3.7.1) to `most`, with the segment's checksum. One that is no
/// larger stays, and a SYN without the option, too.
pub fn clamp_mss(segment: &mut [u8], most: u16) {
    const MAXIMUM_SEGMENT_SIZE: u8 = 2;
    let mut all = Options::of_segment(segment);
    while let Some((at, kind, len)) = all.next(segment) {
        if (kind, len) == (MAXIMUM_SEGMENT_SIZE, 4) && get_u16(segment, at + 2) > most {
            replace(segment, at + 2, most);
        }
    }
}

/// Takes the permission of selective acknowledgements (RFC 2018 §2) out of a SYN: no-operations stand in its place, and the segment's
/// checksum is right again.
pub fn forbid_sack(segment: &mut [u8]) {
    const SACK_PERMITTED: u8 = 4;
    const NO_OPERATIONS: u16 = 0x0101;
    let mut all = Options::of_segment(segment);
    while let Some((at, kind, len)) = all.next(segment) {
        if (kind, len) == (SACK_PERMITTED, 2) {
            replace(segment, at, NO_OPERATIONS);
        }
    }
}

/// Puts a number into a segment, and what that changes into its checksum.
fn replace(segment: &mut [u8], at: usize, new: u16) {
    let old = get_u16(segment, at);
    // At an odd place the number's halves lie in two words of the sum.
    let delta = match at % 2 {
        0 => Delta::of_u16(old, new),
        _ => Delta::of_u16(old.swap_bytes(), new.swap_bytes()),
    };
    let checksum = delta.apply(get_u16(segment, CHECKSUM));
    put_u16(segment, at, new);
    put_u16(segment, CHECKSUM, checksum);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::checksum;

    /// A SYN with these options, padded, and a right checksum.
    fn syn(options: &[u8]) -> Vec<u8> {
        let mut segment = vec![0x11; 20];
        segment.extend_from_slice(options);
        segment.resize(segment.len().next_multiple_of(4), 0);
        segment[12] = ((segment.len() / 4) << 4) as u8;
        put_u16(&mut segment, 16, 0);
        let sum = checksum::of_transport(1, 2, 6, &segment);
        put_u16(&mut segment, 16, sum);
        segment
    }

    #[test]
    fn the_segment_size_is_lowered_wherever_it_stands_and_never_raised() {
        for before in [&[][..], &[1], &[1, 1], &[4, 2], &[3, 3, 7], &[8, 10, 0, 0, 0, 1, 0, 0, 0, 0]] {
            for (announced, becomes) in
                [(1460, 1360), (1361, 1360), (1360, 1360), (536, 536), (0, 0), (65535, 1360)]
            {
                let option = |size: u16| [before, &[2, 4], &size.to_be_bytes(), &[1]].concat();
                let mut segment = syn(&option(announced));
                clamp_mss(&mut segment, 1360);
                assert_eq!(segment, syn(&option(becomes)), "{before:?} {announced}");
            }
        }
    }

    #[test]
    fn options_that_contradict_themselves_are_left_alone() {
        for options in [
            &[][..],
            &[0, 2, 4, 5, 0xb4],
            &[1, 2, 4, 5],
            &[2, 4],
            &[2, 3, 5, 0xb4],
            &[2, 0, 5, 0xb4],
            &[3, 1, 2, 4, 5, 0xb4],
            &[9, 200, 2, 4, 5, 0xb4],
        ] {
            let mut segment = syn(options);
            let before = segment.clone();
            clamp_mss(&mut segment, 500);
            assert_eq!(segment, before, "{options:?}");
        }
        clamp_mss(&mut [], 500);
        clamp_mss(&mut [0xff; 13], 500);
    }

    #[test]
    fn selective_acknowledgements_are_forbidden_wherever_they_stand() {
        for before in [&[][..], &[1], &[2, 4, 5, 0xb4], &[8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1]] {
            let mut segment = syn(&[before, &[4, 2, 1]].concat());
            forbid_sack(&mut segment);
            assert_eq!(segment, syn(&[before, &[1, 1, 1]].concat()), "{before:?}");
        }
        for other in [&[][..], &[0, 4, 2], &[4], &[4, 3, 2], &[3, 1, 4, 2], &[9, 200, 4, 2]] {
            let mut segment = syn(other);
            let before = segment.clone();
            forbid_sack(&mut segment);
            assert_eq!(segment, before, "{other:?}");
        }
        forbid_sack(&mut []);
        forbid_sack(&mut [0xff; 13]);
    }

    proptest! {
        #[test]
        fn whatever_the_options_the_checksum_stays_right(
            options in proptest::collection::vec(prop_oneof![0u8..6, any::<u8>()], 0..40),
            most in 0u16..1500,
        ) {
            let mut segment = syn(&options);
            let before = segment.clone();
            clamp_mss(&mut segment, most);
            prop_assert_eq!(checksum::of_transport(1, 2, 6, &segment), 0);
            prop_assert_eq!((&segment[..16], segment.len()), (&before[..16], before.len()));
        }
    }

    #[test]
    fn the_scale_is_found_among_other_options() {
        assert_eq!(window_scale(&[2, 4, 5, 0xb4, 1, 3, 3, 7, 4, 2]), 7);
        assert_eq!(window_scale(&[3, 3, 200]), 14);
        for none in [&[][..], &[0, 3, 3, 7], &[3], &[3, 3], &[8, 0, 3, 3, 7], &[2, 200], &[3, 4, 7, 7]] {
            assert_eq!(window_scale(none), 0, "{none:?}");
        }
    }
}
