//! A capture being written: classic pcap with nanoseconds, which everything reads.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
use pcap_file::{DataLink, Endianness, PcapError, TsResolution};

/// Bytes of a frame that a capture holds at most: more than any slot.
const SNAPLEN: u32 = 1 << 18;

/// A file that frames are written to. After an error it takes no more.
pub(super) struct Sink {
    path: PathBuf,
    writer: Result<PcapWriter<BufWriter<File>>, io::Error>,
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sink").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Sink {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("cannot write the capture {}: {error}", path.display()))
        };
        let header = PcapHeader {
            snaplen: SNAPLEN,
            datalink: DataLink::ETHERNET,
            ts_resolution: TsResolution::NanoSecond,
            endianness: Endianness::native(),
            ..PcapHeader::default()
        };
        let file = File::create(path).map_err(named)?;
        let writer = PcapWriter::with_header(BufWriter::with_capacity(1 << 18, file), header)
            .map_err(|error| named(into_io(error)))?;
        Ok(Self { path: path.to_owned(), writer: Ok(writer) })
    }

    /// Writes a frame; `false` if that failed, now or before.
    pub(super) fn write(&mut self, time: Duration, frame: &[u8]) -> bool {
        let Ok(writer) = &mut self.writer else { return false };
        match writer.write_packet(&PcapPacket::new(time, frame.len() as u32, frame)) {
            Ok(_) => true,
            Err(error) => {
                self.writer = Err(into_io(error));
                false
            }
        }
    }

    /// Writes out what is buffered and says what went wrong since the start.
    pub(super) fn close(self) -> io::Result<()> {
        self.writer.and_then(|writer| writer.into_writer().flush()).map_err(|error| {
            let message = format!("the capture {} is incomplete: {error}", self.path.display());
            io::Error::new(error.kind(), message)
        })
    }
}

pub(super) fn into_io(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, other.to_string()),
    }
}
