//! `natgate capture`: frames with what became of each, as pcapng.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::pcapng::{Block, PcapNgWriter};
use pcap_file::{DataLink, Endianness, PcapError};

use super::Console;
use super::args::ClientArgs;
use super::ask::{Failed, ask};
use crate::control::address::{AddressFilter, Protocol};
use crate::control::protocol::{Answer, CaptureRequest, Captured, Request};

const EXAMPLES: &str = "\
Examples:
  natgate capture --dropped --seconds 60 -w drops.pcapng
  natgate capture --eip 203.0.113.16 --protocol tcp -w - | tshark -r - -T fields -e frame.interface_name -e frame.comment
  natgate capture --host 10.0.1.10:443 -w - | wireshark -k -i -";

/// Arguments of `capture`.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CaptureArgs {
    /// On this port of the gateway, coming or leaving; otherwise on all.
    #[arg(long, value_name = "NAME")]
    pub port: Option<String>,
    /// Of this IP protocol: tcp, udp, icmp or a number.
    #[arg(long)]
    pub protocol: Option<Protocol>,
    /// With this address and port at either end, as it came or as it left.
    #[arg(
        long,
        value_name = "ADDRESS",
        help = "With this address and port at either end, as it came or as it left: ADDRESS[/LENGTH][:PORT] or :PORT"
    )]
    pub host: Option<AddressFilter>,
    /// With this EIP at either end, as it came or as it left.
    #[arg(long, value_name = "ADDRESS")]
    pub eip: Option<Ipv4Addr>,
    /// Only packets that are dropped.
    #[arg(long)]
    pub dropped: bool,
    /// End after so many frames.
    #[arg(short = 'n', long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    pub packets: Option<u64>,
    /// End after this time.
    #[arg(long, value_name = "SECONDS", value_parser = super::args::seconds)]
    pub seconds: Option<f64>,
    /// Keep at most so many bytes of each frame.
    #[arg(short, long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(14..=65_536))]
    pub snap_length: Option<u32>,
    /// The file to write, in pcapng; - is standard output.
    #[arg(short, long, value_name = "FILE")]
    pub write: String,
    /// The management socket of the gateway.
    #[arg(long, value_name = "PATH", env = "NATGATE_SOCKET", default_value = "/run/natgate/natgate.sock")]
    pub socket: std::path::PathBuf,
}

/// Captures until the end that was asked for.
pub(super) fn execute(args: &CaptureArgs, console: &mut Console<'_>) -> Result<(), Failed> {
    let CaptureArgs { port, protocol, host, eip, dropped, packets, seconds, snap_length, write, socket } =
        args.clone();
    let client = ClientArgs { socket, json: false };
    let request = Request::Capture(CaptureRequest {
        port,
        protocol,
        host,
        eip,
        dropped,
        snap_length,
        packets,
        seconds,
    });
    let end = if write == "-" {
        if io::stdout().is_terminal() {
            let message =
                "a capture is nothing for a terminal: write it to a file, or pipe it to tshark -r -";
            return Err(Failed::Input(message.to_owned()));
        }
        run(&client, request, &mut *console.out)?
    } else {
        let file = create(Path::new(&write)).map_err(|error| Failed::Other(format!("{write}: {error}")))?;
        run(&client, request, BufWriter::new(file))?
    };
    let frames = super::output::counted(end.count as usize, "frame");
    console.note(format_args!(
        "{frames} captured, {} lost because they came faster than they were read",
        end.lost
    ));
    Ok(())
}

/// A new file, or an old one emptied; only for its owner, for it holds what others say to each other.
fn create(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().write(true).create(true).truncate(true).mode(0o600).open(path)
}

fn run(
    client: &ClientArgs,
    request: Request,
    out: impl Write,
) -> Result<crate::control::protocol::End, Failed> {
    let mut file = None;
    let mut out = Some(out);
    let end = ask(client, request, |answer| {
        let Answer::Captured(captured) = answer else { return Ok(()) };
        // Begun with the first frame: a request that is refused leaves no file that looks like a capture.
        if let Some(out) = out.take() {
            file = Some(Pcapng::new(out)?);
        }
        match &mut file {
            Some(file) => file.write(&captured),
            None => Ok(()),
        }
    })?;
    if let Some(out) = out.take() {
        // Without a frame, too, it is a capture that can be read.
        Pcapng::new(out)?.flush()?;
    }
    Ok(end)
}

/// A capture that is being written. Each frame is out when it has been written: a reader at the other end of a pipe sees it at
/// once, and a capture that is broken off is whole.
struct Pcapng<W: Write> {
    writer: PcapNgWriter<W>,
    /// Ports that were described, in the order of their numbers.
    ports: Vec<String>,
}

impl<W: Write> Pcapng<W> {
    fn new(out: W) -> io::Result<Self> {
        let application = format!("natgate {}", env!("CARGO_PKG_VERSION"));
        let section = SectionHeaderBlock {
            endianness: Endianness::native(),
            options: vec![SectionHeaderOption::UserApplication(Cow::Owned(application))],
            ..SectionHeaderBlock::default()
        };
        let writer = PcapNgWriter::with_section_header(out, section).map_err(io_error)?;
        Ok(Self { writer, ports: Vec::new() })
    }

    fn write(&mut self, captured: &Captured) -> io::Result<()> {
        let known = self.ports.iter().position(|port| *port == captured.port);
        let interface = if let Some(known) = known { known } else { self.describe(&captured.port)? };
        let data =
            bytes(&captured.bytes).ok_or_else(|| io::Error::other("the gateway sent a broken frame"))?;
        // Bits 0 and 1: inbound or outbound.
        let direction = if captured.outbound { 2 } else { 1 };
        let mut options = vec![
            EnhancedPacketOption::Comment(Cow::Borrowed(&captured.comment)),
            EnhancedPacketOption::Flags(direction),
        ];
        if captured.lost > 0 {
            options.push(EnhancedPacketOption::DropCount(captured.lost));
        }
        let packet = EnhancedPacketBlock {
            interface_id: interface as u32,
            timestamp: Duration::from_nanos(captured.at_unix_nanoseconds),
            original_len: captured.length,
            data: Cow::Owned(data),
            options,
        };
        self.writer.write_block(&Block::EnhancedPacket(packet)).map_err(io_error)?;
        self.flush()
    }

    fn describe(&mut self, port: &str) -> io::Result<usize> {
        let description = InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: 0,
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Owned(port.to_owned())),
                // Timestamps are in nanoseconds.
                InterfaceDescriptionOption::IfTsResol(9),
            ],
        };
        self.writer.write_block(&Block::InterfaceDescription(description)).map_err(io_error)?;
        self.ports.push(port.to_owned());
        Ok(self.ports.len() - 1)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.get_mut().flush()
    }
}

fn io_error(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        error => io::Error::other(error.to_string()),
    }
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    hex.as_bytes()
        .chunks(2)
        .map(|pair| Some((digit(pair.first()?)? << 4 | digit(pair.get(1)?)?) as u8))
        .collect()
}
