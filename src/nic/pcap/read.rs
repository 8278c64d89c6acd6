//! A capture being read, pcap or pcapng.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pcap_file::pcap::PcapReader;
use pcap_file::pcapng::PcapNgReader;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::{Block, blocks::simple_packet::SimplePacketBlock};
use pcap_file::{DataLink, TsResolution};

use super::write::into_io;

/// The first four bytes of a pcapng file, in either byte order.
const PCAPNG: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// A capture of Ethernet frames.
pub(super) struct Source {
    path: PathBuf,
    format: Format,
    /// Records that hold no whole Ethernet frame.
    refused: u64,
}

enum Format {
    Pcap(PcapReader<File>),
    /// And the time of the last packet, for those without.
    PcapNg(PcapNgReader<File>, Duration),
}

/// What became of a record.
enum Record {
    Frame(Duration),
    Refused,
    /// It is no packet.
    Other,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Source {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("cannot read the capture {}: {error}", path.display()))
        };
        let format = Format::open(path).map_err(named)?;
        Ok(Self { path: path.to_owned(), format, refused: 0 })
    }

    /// Replaces the contents of `frame` by the next frame's bytes and returns its time since 1970; `None` at the end.
    ///
    /// # Errors
    /// The file is damaged; nothing behind that place can be read.
    pub(super) fn next(&mut self, frame: &mut Vec<u8>) -> io::Result<Option<Duration>> {
        loop {
            frame.clear();
            let record = match &mut self.format {
                Format::Pcap(reader) => next_pcap(reader, frame),
                Format::PcapNg(reader, last) => next_pcapng(reader, last, frame),
            };
            match record {
                None => return Ok(None),
                Some(Ok(Record::Frame(time))) => return Ok(Some(time)),
                Some(Ok(Record::Refused)) => self.refused += 1,
                Some(Ok(Record::Other)) => {}
                Some(Err(error)) => {
                    let message = format!("the capture {} is damaged: {error}", self.path.display());
                    return Err(io::Error::new(io::ErrorKind::InvalidData, message));
                }
            }
        }
    }

    /// Records so far that hold no whole Ethernet frame: cut off when they were captured, or of another kind of network.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }
}

impl Format {
    fn open(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut magic = [0; 4];
        let is_pcapng = file.read_exact(&mut magic).is_ok() && magic == PCAPNG;
        file.rewind()?;
        if is_pcapng {
            let reader = PcapNgReader::new(file).map_err(into_io)?;
            return Ok(Self::PcapNg(reader, Duration::ZERO));
        }
        let reader = PcapReader::new(file).map_err(|error| {
            io::Error::new(io::ErrorKind::InvalidData, format!("it is neither pcap nor pcapng ({error})"))
        })?;
        match reader.header().datalink {
            DataLink::ETHERNET => Ok(Self::Pcap(reader)),
            other => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("its frames are not Ethernet but link type {}", u32::from(other)),
            )),
        }
    }
}

fn next_pcap(reader: &mut PcapReader<File>, frame: &mut Vec<u8>) -> Option<io::Result<Record>> {
    let nanos = match reader.header().ts_resolution {
        TsResolution::MicroSecond => 1000,
        TsResolution::NanoSecond => 1,
    };
    // A raw packet: the reader's own checks refuse captures that were cut at a snap length.
    let packet = match reader.next_raw_packet()? {
        Ok(packet) => packet,
        Err(error) => return Some(Err(into_io(error))),
    };
    if packet.incl_len < packet.orig_len {
        return Some(Ok(Record::Refused));
    }
    frame.extend_from_slice(&packet.data);
    let part = Duration::from_nanos(u64::from(packet.ts_frac) * nanos);
    Some(Ok(Record::Frame(Duration::from_secs(u64::from(packet.ts_sec)) + part)))
}

fn next_pcapng(
    reader: &mut PcapNgReader<File>,
    last: &mut Duration,
    frame: &mut Vec<u8>,
) -> Option<io::Result<Record>> {
    // The block borrows the reader, and its interface must be asked for afterwards: what is needed is taken out.
    let (interface, stamp, original) = match reader.next_block()? {
        Ok(Block::EnhancedPacket(packet)) => {
            frame.extend_from_slice(&packet.data);
            // The crate takes the time stamp for nanoseconds whatever its unit is: as a number it is right.
            (packet.interface_id, Some(packet.timestamp.as_nanos()), packet.original_len)
        }
        Ok(Block::Packet(packet)) => {
            frame.extend_from_slice(&packet.data);
            (u32::from(packet.interface_id), Some(u128::from(packet.timestamp)), packet.original_len)
        }
        Ok(Block::SimplePacket(SimplePacketBlock { original_len, data })) => {
            // Without a length of its own: what is beyond the packet's length is padding.
            frame.extend_from_slice(&data[..data.len().min(original_len as usize)]);
            (0, None, original_len)
        }
        Ok(_) => return Some(Ok(Record::Other)),
        Err(error) => return Some(Err(into_io(error))),
    };
    let Some(interface) = reader.interfaces().get(interface as usize) else {
        return Some(Err(io::Error::other(format!("a packet of interface {interface}, which there is not"))));
    };
    if interface.linktype != DataLink::ETHERNET || frame.len() < original as usize {
        return Some(Ok(Record::Refused));
    }
    if let Some(stamp) = stamp {
        *last = time(interface, stamp);
    }
    Some(Ok(Record::Frame(*last)))
}

/// A time stamp in the units of its interface.
fn time(interface: &InterfaceDescriptionBlock<'_>, stamp: u128) -> Duration {
    let (mut resolution, mut offset) = (6, 0);
    for option in &interface.options {
        match option {
            InterfaceDescriptionOption::IfTsResol(value) => resolution = *value,
            InterfaceDescriptionOption::IfTsOffset(seconds) => offset = *seconds,
            _ => {}
        }
    }
    // The highest bit chooses between powers of two and of ten.
    let (base, power): (u128, _) =
        if resolution & 0x80 == 0 { (10, resolution) } else { (2, resolution & 0x7f) };
    let units = base.checked_pow(u32::from(power)).unwrap_or(u128::MAX);
    let nanos = stamp * 1_000_000_000 / units;
    let seconds = (nanos / 1_000_000_000) as u64;
    Duration::new(seconds.wrapping_add(offset), (nanos % 1_000_000_000) as u32)
}
