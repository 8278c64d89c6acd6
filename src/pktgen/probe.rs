//! The generator's frames: UDP over IPv4 with a mark and the time of sending in the payload.
//!
//! ```text
//! Ethernet (14) | IPv4 (20) | UDP (8) | mark (4) trial (2) way (1) 0 (1) time in ns (8) 0 (2) | zeros
//! ```

use crate::base::Moment;
use crate::nic::Mac;
use crate::pktgen::flows::Ends;
use crate::wire::bytes::{get_u16, get_u32, put, put_u16, put_u32};
use crate::wire::{checksum, ethernet, protocol};

/// Bytes of a frame's checksum, which counts for its size on the wire but is never in memory.
pub const FCS: usize = 4;
const L3: usize = ethernet::HEADER;
const L4: usize = L3 + 20;
const PAYLOAD: usize = L4 + 8;
/// Bytes of the payload that are not zero.
const STAMP: usize = 18;
const MARK: u32 = 0x6e67_7067;

/// Which way a probe goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Way {
    /// From the sender.
    There = 0,
    /// Returned by the receiver.
    Back = 1,
}

/// What a received probe says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The trial that it belongs to.
    pub trial: u16,
    /// Which way it goes.
    pub way: Way,
    /// When it was sent.
    pub sent: Moment,
}

/// Writes a probe over the whole of `frame`, which has at least 60 bytes.
pub fn write(frame: &mut [u8], macs: (Mac, Mac), ends: &Ends, trial: u16, sent: Moment) {
    let (to, from) = macs;
    put(frame, 0, &to);
    put(frame, 6, &from);
    put_u16(frame, 12, ethernet::IPV4);
    let mut header = [0; 20];
    header[0] = 0x45;
    header[8] = 64;
    header[9] = protocol::UDP;
    put_u16(&mut header, 2, (frame.len() - L3) as u16);
    put_u32(&mut header, 12, ends.source.0);
    put_u32(&mut header, 16, ends.destination.0);
    let sum = checksum::of_header(&header);
    put_u16(&mut header, 10, sum);
    put(frame, L3, &header);
    put_u16(frame, L4, ends.source.1);
    put_u16(frame, L4 + 2, ends.destination.1);
    put_u16(frame, L4 + 4, (frame.len() - L4) as u16);
    put_u16(frame, L4 + 6, 0);
    if let Some(payload) = frame.get_mut(PAYLOAD..) {
        payload.fill(0);
    }
    put_u32(frame, PAYLOAD, MARK);
    put_u16(frame, PAYLOAD + 4, trial);
    put(frame, PAYLOAD + 8, &sent.0.to_be_bytes());
    finish_checksum(frame, ends);
}

/// Only the first bytes of the payload count: the others are zero.
fn finish_checksum(frame: &mut [u8], ends: &Ends) {
    let length = (frame.len() - L4) as u16;
    let pseudo = checksum::pseudo_header(ends.source.0, ends.destination.0, protocol::UDP, length);
    let summed = frame.get(L4..PAYLOAD + STAMP).unwrap_or_default();
    let sum = !checksum::fold(checksum::sum(summed, pseudo));
    // RFC 768: a checksum of zero would say that there is none.
    put_u16(frame, L4 + 6, if sum == 0 { 0xffff } else { sum });
}

/// Reads a frame; `None` if it is no probe.
pub fn read(frame: &[u8]) -> Option<Probe> {
    let is_probe = frame.len() >= PAYLOAD + STAMP
        && get_u16(frame, 12) == ethernet::IPV4
        && frame[L3] == 0x45
        && frame[L3 + 9] == protocol::UDP
        && get_u32(frame, PAYLOAD) == MARK;
    if !is_probe {
        return None;
    }
    let way = if frame[PAYLOAD + 6] == 0 { Way::There } else { Way::Back };
    let time = frame.get(PAYLOAD + 8..).and_then(|rest| rest.first_chunk());
    let sent = Moment(u64::from_be_bytes(*time?));
    Some(Probe { trial: get_u16(frame, PAYLOAD + 4), way, sent })
}

/// Turns a received probe into one that goes back to where it came from, with its time of sending. Checksums stay right:
/// the same words are added in another order, but for the way.
pub fn turn(frame: &mut [u8], mac: Mac) {
    let (mut sender, mut addresses, mut ports) = ([0; 6], [0; 8], [0; 4]);
    sender.copy_from_slice(&frame[6..12]);
    addresses.copy_from_slice(&frame[L3 + 12..L3 + 20]);
    ports.copy_from_slice(&frame[L4..L4 + 4]);
    put(frame, 0, &sender);
    put(frame, 6, &mac);
    addresses.rotate_left(4);
    put(frame, L3 + 12, &addresses);
    ports.rotate_left(2);
    put(frame, L4, &ports);
    frame[PAYLOAD + 6] = Way::Back as u8;
    frame[L3 + 8] = 64;
    put_u16(frame, L3 + 10, 0);
    let sum = checksum::of_header(frame.get(L3..L4).unwrap_or_default());
    put_u16(frame, L3 + 10, sum);
    let ends = Ends {
        source: (get_u32(frame, L3 + 12), get_u16(frame, L4)),
        destination: (get_u32(frame, L3 + 16), get_u16(frame, L4 + 2)),
    };
    put_u16(frame, L4 + 6, 0);
    finish_checksum(frame, &ends);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_right(frame: &[u8]) {
        assert_eq!(checksum::of(&frame[L3..L4]), 0, "the header's checksum");
        let (source, destination) = (get_u32(frame, L3 + 12), get_u32(frame, L3 + 16));
        assert_eq!(checksum::of_transport(source, destination, protocol::UDP, &frame[L4..]), 0, "UDP's");
    }

    #[test]
    fn probes_are_written_read_and_turned() {
        let ends = Ends { source: (0x0a00_0001, 1024), destination: (0xc633_6407, 9) };
        for len in [60, 61, 590, 1514] {
            let mut frame = vec![0xaa; len];
            let sent = Moment(0x0123_4567_89ab_cdef);
            write(&mut frame, ([2; 6], [4; 6]), &ends, 7, sent);
            assert_right(&frame);
            assert_eq!(read(&frame), Some(Probe { trial: 7, way: Way::There, sent }));
            turn(&mut frame, [6; 6]);
            assert_right(&frame);
            assert_eq!(read(&frame), Some(Probe { trial: 7, way: Way::Back, sent }));
            assert_eq!(frame[..12], [4, 4, 4, 4, 4, 4, 6, 6, 6, 6, 6, 6]);
            assert_eq!((get_u32(&frame, L3 + 12), get_u16(&frame, L4)), ends.destination);
            assert_eq!((get_u32(&frame, L3 + 16), get_u16(&frame, L4 + 2)), ends.source);
        }
    }

    #[test]
    fn other_frames_are_no_probes() {
        let mut frame = vec![0; 60];
        assert_eq!(read(&frame), None);
        let ends = Ends { source: (1, 1), destination: (2, 2) };
        write(&mut frame, ([2; 6], [4; 6]), &ends, 7, Moment(1));
        assert_eq!(read(&frame[..59]), None);
        frame[12] = 0x86;
        assert_eq!(read(&frame), None);
    }
}
