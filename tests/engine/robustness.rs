//! Whatever comes from a wire: nothing panics, every frame has exactly one end, and what leaves is right.

use proptest::prelude::*;
use proptest::sample::Index;

use crate::support::{Packet, cases, entry};

/// The frames of all sample packets.
fn frames() -> Vec<(u16, Vec<u8>)> {
    let net = entry::network(1);
    let port = |side| net.config().link(side).port;
    entry::samples().iter().map(|(side, packet)| (port(*side), net.frame_of(*side, packet))).collect()
}

/// Each sample frame cut at every length, as it is and with the IP header's length and checksum made to fit.
#[test]
fn frames_cut_at_every_length() {
    let mut net = entry::network(1);
    for (port, frame) in frames() {
        for len in 0..frame.len().min(200) {
            let mut cut = frame[..len].to_vec();
            entry::parse(&cut);
            net.inject(port, &cut);
            let l3 = if cut.get(12..14) == Some(&[0x81, 0]) { 18 } else { 14 };
            if let Some(field) = cut.get_mut(l3 + 2..l3 + 4) {
                field.copy_from_slice(&((len - l3) as u16).to_be_bytes());
                entry::fix_header(&mut cut);
                entry::parse(&cut);
                net.inject(port, &cut);
            }
        }
    }
}

/// Each bit of the first bytes of each sample frame flipped.
#[test]
fn frames_with_one_bit_flipped() {
    let mut net = entry::network(2);
    for (port, frame) in frames() {
        for bit in 0..8 * frame.len().min(70) {
            let mut flipped = frame.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            entry::parse(&flipped);
            net.inject(port, &flipped);
            entry::fix_header(&mut flipped);
            net.inject(port, &flipped);
        }
    }
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn parsers_take_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        entry::parse(&bytes);
    }

    #[test]
    fn parsers_take_changed_frames(
        which: Index,
        changes in prop::collection::vec(any::<u8>(), 0..9),
        tail in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let frames = frames();
        let (_, mut frame) = which.get(&frames).clone();
        entry::change(&mut frame, &changes);
        frame.extend(tail);
        entry::parse(&frame);
    }
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn the_engine_takes_any_frame(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        entry::frame(&bytes);
    }

    #[test]
    fn the_engine_takes_any_sequence(
        records in prop::collection::vec(
            (any::<u8>(), prop_oneof![3 => Just(0_u8), 1 => any::<u8>()], prop::collection::vec(any::<u8>(), 0..12)),
            1..40,
        ),
    ) {
        let mut bytes = vec![];
        for (what, wait, content) in records {
            bytes.extend([what | 0x80, wait, 0, content.len() as u8]);
            bytes.extend(content);
        }
        entry::sequence(&bytes);
    }
}

/// The judge itself: what it writes it reads again, and what is wrong it finds.
#[test]
fn the_codec_reads_what_it_writes() {
    for (_, packet) in entry::samples() {
        let bytes = packet.encode();
        assert_eq!(Packet::decode(&bytes).as_ref(), Ok(&packet));
        assert_eq!(Packet::reassemble(&packet.fragments(8)).as_ref(), Ok(&packet));
        for at in 0..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[at] ^= 0x10;
            assert_ne!(Packet::decode(&wrong).ok(), Some(packet.clone()), "byte {at} of {packet:?}");
        }
    }
}
