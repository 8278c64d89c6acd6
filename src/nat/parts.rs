//! Which bytes of a datagram have come, so that none of its fragments is let through that overlaps another (RFC 1858 §4): what
//! its receiver puts together begins with the ports that it was translated by, and holds each byte once.

use crate::wire::Datagram;
use crate::wire::datagram::MORE_FRAGMENTS;

/// Fragments of a datagram that are told apart; no more are let through. The largest datagram has 45 in packets of 1,500 bytes.
pub const MOST: usize = 64;

/// The bytes of a datagram's payload that fragments have brought, each from its first to behind its last, in the order in
/// which they came.
pub type Ranges = [[u16; 2]; MOST];

/// The bytes that one fragment brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    start: u16,
    end: u16,
    is_last: bool,
}

/// What a fragment is to those that have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It brings what is missing.
    New,
    /// It brings exactly what another one has brought.
    Again,
    /// It overlaps another one, is empty, reaches past the end, claims another end, or is one too many.
    Not,
}

/// How much of a datagram has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    count: u16,
    bytes: u16,
    /// Behind the last byte that has come.
    reach: u16,
    has_last: bool,
}

impl Part {
    /// Of a fragment that passed the parser: nothing reaches past 65,535 bytes.
    pub const fn of(datagram: &Datagram) -> Self {
        let start = datagram.fragment_offset() as u16;
        let len = datagram.total_len.saturating_sub(datagram.header_len() as u16);
        Self { start, end: start.saturating_add(len), is_last: datagram.fragment & MORE_FRAGMENTS == 0 }
    }
}

impl Extent {
    /// Whether all of the datagram has come.
    pub const fn is_complete(&self) -> bool {
        self.has_last && self.bytes == self.reach
    }

    /// What a fragment is to those that have come.
    pub fn fit(&self, ranges: &Ranges, part: Part) -> Fit {
        let Part { start, end, is_last } = part;
        let come = ranges.get(..usize::from(self.count)).unwrap_or_default();
        if come.contains(&[start, end]) {
            let was_last = self.has_last && end == self.reach;
            return if is_last == was_last { Fit::Again } else { Fit::Not };
        }
        let is_apart = come.iter().all(|[from, to]| end <= *from || start >= *to);
        let ends_well =
            if self.has_last { !is_last && end <= self.reach } else { !is_last || end >= self.reach };
        if start < end && is_apart && ends_well && come.len() < MOST { Fit::New } else { Fit::Not }
    }

    /// Takes note of a fragment if it is [new](Fit::New).
    pub fn add(&mut self, ranges: &mut Ranges, part: Part) {
        if self.fit(ranges, part) != Fit::New {
            return;
        }
        let Some(free) = ranges.get_mut(usize::from(self.count)) else { return };
        *free = [part.start, part.end];
        self.count += 1;
        self.bytes = self.bytes.saturating_add(part.end - part.start);
        self.reach = self.reach.max(part.end);
        self.has_last |= part.is_last;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(start: u16, end: u16, is_last: bool) -> Part {
        Part { start, end, is_last }
    }

    /// A datagram of which these parts have come.
    fn after(parts: &[Part]) -> (Extent, Ranges) {
        let (mut extent, mut ranges) = (Extent::default(), [[0; 2]; MOST]);
        for part in parts {
            assert_eq!(extent.fit(&ranges, *part), Fit::New, "{part:?} of {parts:?}");
            extent.add(&mut ranges, *part);
        }
        (extent, ranges)
    }

    #[test]
    fn what_overlaps_does_not_fit() {
        let (extent, ranges) = after(&[part(0, 16, false), part(32, 48, false)]);
        for (start, end, is_last, fit) in [
            (0, 16, false, Fit::Again),
            (32, 48, false, Fit::Again),
            (16, 32, false, Fit::New),
            (16, 24, false, Fit::New),
            (48, 50, true, Fit::New),
            (64, 80, false, Fit::New),
            (0, 8, false, Fit::Not),
            (8, 24, false, Fit::Not),
            (16, 40, false, Fit::Not),
            (0, 64, false, Fit::Not),
            // Empty, and an end in front of what has come.
            (24, 24, false, Fit::Not),
            (16, 32, true, Fit::Not),
            (32, 48, true, Fit::Not),
        ] {
            assert_eq!(extent.fit(&ranges, part(start, end, is_last)), fit, "{start} to {end}");
        }
    }

    #[test]
    fn nothing_comes_behind_the_end() {
        let (extent, ranges) = after(&[part(0, 16, false), part(24, 30, true)]);
        assert!(!extent.is_complete());
        for (start, end, is_last) in [(32, 40, false), (30, 38, false), (16, 24, true), (24, 30, false)] {
            assert_eq!(extent.fit(&ranges, part(start, end, is_last)), Fit::Not, "{start} to {end}");
        }
        assert_eq!(extent.fit(&ranges, part(24, 30, true)), Fit::Again);
        let (extent, _) = after(&[part(0, 16, false), part(24, 30, true), part(16, 24, false)]);
        assert!(extent.is_complete());
    }

    #[test]
    fn no_more_than_are_told_apart() {
        let each = |at: usize| part(at as u16 * 8, at as u16 * 8 + 8, false);
        let (extent, ranges) = after(&(0..MOST).map(each).collect::<Vec<_>>());
        assert_eq!(extent.fit(&ranges, each(MOST)), Fit::Not);
        assert_eq!(extent.fit(&ranges, each(MOST - 1)), Fit::Again);
    }

    proptest! {
        /// Whatever comes, what fits brings each byte once, and it is all there exactly if no byte is missing.
        #[test]
        fn each_byte_once(parts in prop::collection::vec((0..12_u16, 0..5_u16, any::<bool>()), 0..60)) {
            let (mut extent, mut ranges) = (Extent::default(), [[0; 2]; MOST]);
            let (mut bytes, mut end) = ([false; 200], None);
            for (start, len, is_last) in parts {
                let part = part(start * 8, (start + len) * 8, is_last);
                let is_new = extent.fit(&ranges, part) == Fit::New;
                extent.add(&mut ranges, part);
                if is_new {
                    for byte in &mut bytes[usize::from(part.start)..usize::from(part.end)] {
                        prop_assert!(!std::mem::replace(byte, true), "twice: {part:?}");
                    }
                    if is_last {
                        prop_assert_eq!(end.replace(usize::from(part.end)), None);
                    }
                }
                let come = bytes.iter().filter(|byte| **byte).count();
                prop_assert!(end.is_none_or(|end| bytes[end..].iter().all(|byte| !byte)));
                prop_assert_eq!(extent.is_complete(), end == Some(come));
            }
        }
    }
}
