//! What a private host sends on an FTP control connection, with the lines in it that are written anew. They may have another length, so
//! the sequence numbers behind them move, and so do the acknowledgements of the peer.
//!
//! A line that may announce an endpoint is held back until it is whole: the peer gets none of it, acknowledges none of it, and a
//! host that sends a part of it again is answered with nothing, or with all of the new line once that is known. So whatever pieces
//! the old line comes in, first or again, the peer sees the new line in one piece and always the same.

use arrayvec::ArrayVec;

use crate::wire::ftp::{self, Announcement, LINE, Line, Text};

/// Lines written anew that are remembered, as they may be sent again. A client waits for the reply to one before it sends another.
pub(super) const EDITS: usize = 4;

/// The first byte of a TLS connection (RFC 8446 §5.1), which begins no line.
const TLS_HANDSHAKE: u8 = 0x16;

/// A line that was written anew.
#[derive(Clone, Debug, Default)]
struct Edit {
    /// The sequence number of its first byte, as the host counts.
    start: u32,
    /// The number behind its last byte, as the host counts.
    end: u32,
    /// What stands in its place.
    text: Text,
}

impl Edit {
    /// By how much longer it is than before, modulo 2^32.
    fn growth(&self) -> u32 {
        (self.text.len() as u32).wrapping_sub(self.end.wrapping_sub(self.start))
    }
}

/// What the bytes to come belong to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// The line that is held back: at first an empty one.
    #[default]
    Held,
    /// A line that announces nothing.
    Passing,
    /// A connection that cannot be read any more: it is encrypted.
    Blind,
}

/// What becomes of an announcement.
pub(super) trait Announced {
    /// The endpoint to announce instead; none if the line is to stay as it is.
    fn announced(&mut self, announcement: Announcement) -> Option<(u32, u16)>;

    /// A line that may announce something stays as it is without being understood.
    fn left_alone(&mut self);
}

/// How a segment goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Passed {
    /// Its sequence number.
    pub sequence: u32,
    /// Whether it lacks the end of what the host sent.
    pub is_cut: bool,
}

/// One direction of a control connection: what the private host sends.
#[derive(Clone, Debug, Default)]
pub(super) struct Stream {
    /// The sequence number of the first byte that was not read yet.
    next: u32,
    /// The line that is held back, as far as it has come.
    line: ArrayVec<u8, LINE>,
    place: Place,
    /// How far the numbers have moved by lines that are forgotten.
    moved: u32,
    /// The lines that are remembered, in order.
    edits: ArrayVec<Edit, EDITS>,
}

/// Whether a sequence number is not behind another.
const fn is_up_to(a: u32, b: u32) -> bool {
    b.wrapping_sub(a).cast_signed() >= 0
}

const fn first_of(a: u32, b: u32) -> u32 {
    if is_up_to(a, b) { a } else { b }
}

impl Stream {
    /// The stream that begins at a sequence number.
    pub(super) fn at(next: u32) -> Self {
        Self { next, ..Self::default() }
    }

    /// The number of the first byte that is held back.
    fn held(&self) -> u32 {
        self.next.wrapping_sub(self.line.len() as u32)
    }

    /// The peer's number for a number of the host's. Inside a line that is written anew it is that of its beginning.
    pub(super) fn outward(&self, number: u32) -> u32 {
        let mut moved = self.moved;
        for edit in &self.edits {
            if is_up_to(edit.end, number) {
                moved = moved.wrapping_add(edit.growth());
            } else {
                return first_of(number, edit.start).wrapping_add(moved);
            }
        }
        number.wrapping_add(moved)
    }

    /// The host's number for one that the peer acknowledges. Inside a new line it is that of its beginning: the host sends it again.
    pub(super) fn inward(&self, number: u32) -> u32 {
        let mut moved = self.moved;
        for edit in &self.edits {
            let start = edit.start.wrapping_add(moved);
            let end = start.wrapping_add(edit.text.len() as u32);
            if is_up_to(end, number) {
                moved = moved.wrapping_add(edit.growth());
            } else if is_up_to(start, number) {
                return edit.start;
            } else {
                break;
            }
        }
        number.wrapping_sub(moved)
    }

    /// Passes a segment's payload on into `out`, which has room for it and for the growth of its lines. `ends` says that nothing
    /// follows it, `acknowledged` how far the peer has acknowledged, as it counts.
    pub(super) fn pass(
        &mut self,
        (sequence, payload, ends): (u32, &[u8], bool),
        acknowledged: u32,
        to: &mut impl Announced,
        out: &mut Vec<u8>,
    ) -> Passed {
        out.clear();
        let len = payload.len() as u32;
        let end = sequence.wrapping_add(len);
        let (held_before, held_line) = (self.held(), self.line.clone());
        if !is_up_to(sequence, self.next) {
            // Something before it is missing: it is not known where its lines begin. The host sends it again.
            return Passed { sequence: self.outward(held_before), is_cut: len > 0 || ends };
        }
        let skipped = self.next.wrapping_sub(sequence) as usize;
        let fresh = payload.get(skipped..);
        self.read(fresh.unwrap_or_default(), acknowledged, to);
        if ends && end == self.next && fresh.is_some() {
            // The line will never be whole. The end itself has a number, too.
            self.line.clear();
            self.place = Place::Passing;
            self.next = self.next.wrapping_add(1);
        }
        let stop = first_of(end, self.held());
        // What was held back and is not any more goes first.
        let is_released = self.held() != held_before;
        if len == 0 && !is_released {
            return Passed { sequence: self.outward(stop), is_cut: false };
        }
        let mut at = if is_released { first_of(sequence, held_before) } else { sequence };
        at = first_of(at, stop);
        if let Some(edit) = self.edits.iter().find(|edit| is_up_to(edit.start, at) && !is_up_to(edit.end, at))
        {
            at = edit.start;
        }
        let passed = Passed { sequence: self.outward(at), is_cut: !is_up_to(end, stop) };
        let source = Source { held: &held_line, held_from: held_before, payload, sequence };
        for edit in &self.edits {
            if is_up_to(edit.end, at) || is_up_to(stop, edit.start) {
                continue;
            }
            source.copy(at, edit.start, out);
            out.extend_from_slice(&edit.text);
            at = edit.end;
        }
        source.copy(at, stop, out);
        passed
    }

    /// Reads bytes that were not read yet.
    fn read(&mut self, bytes: &[u8], acknowledged: u32, to: &mut impl Announced) {
        for byte in bytes {
            self.next = self.next.wrapping_add(1);
            match self.place {
                Place::Blind => {}
                Place::Passing if *byte == b'\n' => self.place = Place::Held,
                Place::Passing => {}
                Place::Held if self.line.is_empty() && *byte == TLS_HANDSHAKE => self.place = Place::Blind,
                Place::Held => self.hold(*byte, acknowledged, to),
            }
        }
    }

    /// One more byte of the line that is held back.
    fn hold(&mut self, byte: u8, acknowledged: u32, to: &mut impl Announced) {
        if self.line.try_push(byte).is_err() {
            to.left_alone();
            self.line.clear();
            self.place = if byte == b'\n' { Place::Held } else { Place::Passing };
        } else if byte == b'\n' {
            self.finish(acknowledged, to);
            self.line.clear();
        } else if !ftp::may_announce(&self.line) {
            self.line.clear();
            self.place = Place::Passing;
        }
    }

    /// The line is whole.
    fn finish(&mut self, acknowledged: u32, to: &mut impl Announced) {
        let announcement = match ftp::read(&self.line) {
            Line::Announces(announcement) => announcement,
            Line::Malformed => return to.left_alone(),
            Line::Other => return,
        };
        if self.edits.is_full() && !self.forget(acknowledged) {
            return to.left_alone();
        }
        let Some((address, port)) = to.announced(announcement) else { return };
        let text = Announcement { address, port, ..announcement }.write(&self.line);
        // There is room: that was seen to.
        let _ = self.edits.try_push(Edit { start: self.held(), end: self.next, text });
    }

    /// Forgets the oldest line, if the peer has it.
    fn forget(&mut self, acknowledged: u32) -> bool {
        let Some(oldest) = self.edits.first() else { return false };
        let end = oldest.end.wrapping_add(self.moved).wrapping_add(oldest.growth());
        let is_known = is_up_to(end, acknowledged);
        if is_known {
            self.moved = self.moved.wrapping_add(oldest.growth());
            self.edits.remove(0);
        }
        is_known
    }
}

/// The bytes that the host sent: those that were held back, and those of a segment.
struct Source<'a> {
    held: &'a [u8],
    held_from: u32,
    payload: &'a [u8],
    sequence: u32,
}

impl Source<'_> {
    /// Appends the bytes from one number up to another.
    fn copy(&self, from: u32, to: u32, out: &mut Vec<u8>) {
        if is_up_to(to, from) {
            return;
        }
        let middle = if is_up_to(self.sequence, from) { from } else { first_of(self.sequence, to) };
        let parts = [(self.held, self.held_from, from, middle), (self.payload, self.sequence, middle, to)];
        for (bytes, base, from, to) in parts {
            let range = from.wrapping_sub(base) as usize..to.wrapping_sub(base) as usize;
            if from != to {
                out.extend_from_slice(bytes.get(range).unwrap_or_default());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EIP: u32 = 0xcb00_7110;

    /// Announces the EIP and the port plus one.
    #[derive(Default)]
    struct Nat {
        announced: usize,
        left_alone: usize,
    }

    impl Announced for Nat {
        fn announced(&mut self, announcement: Announcement) -> Option<(u32, u16)> {
            self.announced += 1;
            Some((EIP, announcement.port + 1))
        }

        fn left_alone(&mut self) {
            self.left_alone += 1;
        }
    }

    const ASKED: &[u8] = b"USER a\r\nPORT 10,0,0,5,4,1\r\nLIST\r\neprt |1|10.0.0.5|2000|\r\nQUIT\r\n";
    const HEARD: &[u8] = b"USER a\r\nPORT 203,0,113,16,4,2\r\nLIST\r\nEPRT |1|203.0.113.16|2001|\r\nQUIT\r\n";

    /// A peer that takes what fits to what it has.
    struct Peer {
        first: u32,
        has: Vec<u8>,
    }

    impl Peer {
        fn next(&self) -> u32 {
            self.first.wrapping_add(self.has.len() as u32)
        }

        fn hear(&mut self, sequence: u32, bytes: &[u8]) {
            let behind = self.next().wrapping_sub(sequence).cast_signed();
            assert!(behind >= 0, "a hole");
            let old = bytes.len().min(behind as usize);
            let known = sequence.wrapping_sub(self.first) as usize;
            assert_eq!(self.has[known..known + old], bytes[..old], "what comes again is the same");
            self.has.extend_from_slice(&bytes[old..]);
        }
    }

    #[test]
    fn lines_are_written_anew_in_one_piece_wherever_they_are_split() {
        for first in [1000, 0, u32::MAX - 20] {
            for a in 0..ASKED.len() {
                for b in a..ASKED.len() {
                    let (mut stream, mut nat, mut out) = (Stream::at(first), Nat::default(), Vec::new());
                    let mut peer = Peer { first, has: vec![] };
                    for (from, to) in [(0, a), (a, b), (b, ASKED.len())] {
                        let sequence = first.wrapping_add(from as u32);
                        let segment = (sequence, &ASKED[from..to], false);
                        let passed = stream.pass(segment, peer.next(), &mut nat, &mut out);
                        peer.hear(passed.sequence, &out);
                    }
                    assert_eq!(peer.has, HEARD, "{a} {b}");
                    assert_eq!((nat.announced, nat.left_alone), (2, 0));
                    assert_eq!(stream.inward(peer.next()), first.wrapping_add(ASKED.len() as u32));
                }
            }
        }
    }

    #[test]
    fn a_line_that_is_too_long_or_ends_with_the_connection_passes_as_it_is() {
        let long = [b"PORT ".as_slice(), &[b'1'; 100], b"\r\nPORT 10,0,0,5,4,1\r\n"].concat();
        let (mut stream, mut nat, mut out) = (Stream::at(7), Nat::default(), Vec::new());
        let mut peer = Peer { first: 7, has: vec![] };
        for (n, byte) in long.iter().enumerate() {
            let passed = stream.pass((7 + n as u32, &[*byte], false), peer.next(), &mut nat, &mut out);
            peer.hear(passed.sequence, &out);
        }
        assert_eq!(peer.has, [&long[..107], b"PORT 203,0,113,16,4,2\r\n"].concat());
        assert_eq!((nat.announced, nat.left_alone), (1, 1));

        let (mut stream, mut nat, mut out) = (Stream::at(7), Nat::default(), Vec::new());
        let passed = stream.pass((7, b"PORT 10", false), 7, &mut nat, &mut out);
        assert_eq!((passed, out.len()), (Passed { sequence: 7, is_cut: true }, 0));
        let passed = stream.pass((14, b"", true), 7, &mut nat, &mut out);
        assert_eq!((passed, &out[..]), (Passed { sequence: 7, is_cut: false }, &b"PORT 10"[..]));
        let passed = stream.pass((15, b"", false), 7, &mut nat, &mut out);
        assert_eq!((passed, out.len()), (Passed { sequence: 15, is_cut: false }, 0));
    }

    #[test]
    fn what_is_encrypted_is_not_read() {
        let (mut stream, mut nat, mut out) = (Stream::at(7), Nat::default(), Vec::new());
        let bytes = b"AUTH TLS\r\n\x16\x03\x01\nPORT 10,0,0,5,4,1\r\nP";
        stream.pass((7, bytes, false), 7, &mut nat, &mut out);
        assert_eq!((&out[..], nat.announced), (&bytes[..], 0));
    }

    #[test]
    fn more_lines_than_are_remembered_wait_for_the_acknowledgement() {
        let line = b"PORT 10,0,0,5,4,1\r\n";
        let (mut stream, mut nat, mut out) = (Stream::at(0), Nat::default(), Vec::new());
        stream.pass((0, &line.repeat(EDITS + 1), false), 0, &mut nat, &mut out);
        assert_eq!((nat.announced, nat.left_alone), (EDITS, 1));
        let sent = out.len() as u32;
        let end = ((EDITS + 1) * line.len()) as u32;
        assert_eq!(stream.inward(sent), end);
        for n in 0..100 {
            let sequence = end + n * line.len() as u32;
            let acknowledged = stream.outward(sequence);
            let passed = stream.pass((sequence, line, false), acknowledged, &mut nat, &mut out);
            assert_eq!(passed.sequence, acknowledged);
            assert_eq!(out, b"PORT 203,0,113,16,4,2\r\n");
            let acknowledged = acknowledged + out.len() as u32;
            assert_eq!(stream.inward(acknowledged), sequence + line.len() as u32);
        }
    }

    proptest! {
        /// A host that sends any pieces in any order, mostly from where it was acknowledged, over a network that loses some.
        #[test]
        fn the_peer_hears_the_same_however_segments_are_lost_and_sent_again(
            first: u32,
            steps in prop::collection::vec((0usize..40, 1usize..50, any::<bool>()), 0..60),
        ) {
            let (mut stream, mut nat, mut out) = (Stream::at(first), Nat::default(), Vec::new());
            let mut peer = Peer { first, has: vec![] };
            let tail = std::iter::repeat_n((0, ASKED.len(), false), 3);
            for (ahead, len, is_lost) in steps.into_iter().chain(tail) {
                let acknowledged = stream.inward(peer.next()).wrapping_sub(first) as usize;
                prop_assert!(acknowledged <= ASKED.len());
                let from = (acknowledged + ahead).saturating_sub(20 * usize::from(ahead > 0)).min(ASKED.len());
                let to = (from + len).min(ASKED.len());
                let sequence = first.wrapping_add(from as u32);
                let passed = stream.pass((sequence, &ASKED[from..to], false), peer.next(), &mut nat, &mut out);
                if !is_lost && passed.sequence.wrapping_sub(peer.next()).cast_signed() <= 0 {
                    peer.hear(passed.sequence, &out);
                }
                prop_assert!(HEARD.starts_with(&peer.has));
            }
            prop_assert_eq!(peer.has, HEARD);
            prop_assert_eq!(nat.announced, 2);
        }

        #[test]
        fn no_segments_do_harm(
            segments in prop::collection::vec(
                (any::<u8>(), prop::collection::vec(prop::sample::select(b"PORTEprt 10,5|\r\n\x16".to_vec()), 0..90), any::<bool>()),
                0..20,
            ),
            acknowledged: u32,
        ) {
            let (mut stream, mut nat, mut out) = (Stream::at(0), Nat::default(), Vec::new());
            for (sequence, payload, ends) in segments {
                stream.pass((u32::from(sequence), &payload, ends), acknowledged, &mut nat, &mut out);
                prop_assert!(out.len() <= payload.len() + LINE + EDITS * ftp::GROWTH + 40);
                stream.inward(u32::from(sequence));
            }
        }
    }
}
