//! Arguments of the commands that measure: `speed`, `pktgen`, `conformance`.

use std::net::Ipv4Addr;
use std::str::FromStr;

use clap::{Args, ValueEnum};

use super::args::seconds;
use crate::pktgen::flows::Addresses;
use crate::pktgen::{Order, Size};
use crate::speed::Scenario;

/// Arguments of `speed`.
#[derive(Clone, Debug, Args)]
pub struct SpeedArgs {
    /// Which traffic, several with commas; otherwise all: dnat-any, dnat-port, snat, new-session, imix, hairpin, icmp.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub scenario: Vec<Scenario>,
    /// Sessions of each worker, hit at random; with new-session, sessions that are made before all are let expire.
    #[arg(long, value_name = "NUMBER", default_value_t = 65_536, value_parser = clap::value_parser!(u64).range(1..=50_000_000))]
    pub sessions: u64,
    /// DNAT entries, in the scenarios that use them; no more than there are sessions.
    #[arg(long, value_name = "NUMBER", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub entries: u64,
    /// Bytes of an Ethernet frame, its checksum included; imix has its own sizes (64, 594 and 1518 as 7 : 4 : 1).
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u16).range(64..=1518))]
    pub packet_size: u16,
    /// Packets given to the engine at once.
    #[arg(long, value_name = "NUMBER", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub batch: u16,
    /// Workers at the same time, each pinned to its own core with its own engine; what one carries is measured before.
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub workers: u16,
    /// How long to measure each.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub seconds: f64,
    /// Show the cycles of each stage, too.
    #[arg(long, conflicts_with = "json")]
    pub stages: bool,
    /// Measure the rows of the project's table of aims, beside numbers of FD.io VPP that were measured elsewhere.
    #[arg(long, conflicts_with_all = ["scenario", "sessions", "entries", "packet_size", "batch", "workers", "stages"])]
    pub table: bool,
    /// Print JSON: an object a line for each measurement.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `pktgen`.
#[derive(Clone, Debug, Args)]
pub struct PktgenArgs {
    /// The device by which packets leave.
    #[arg(long, value_name = "DEVICE")]
    pub send: Option<String>,
    /// The device at which they arrive.
    #[arg(long, value_name = "DEVICE")]
    pub receive: Option<String>,
    /// How both are opened; memory joins sender and receiver by a cable, to measure the generator itself.
    #[arg(long, value_enum, default_value_t)]
    pub backend: PktgenBackend,
    /// The address to send to on the first device, asked for by ARP.
    #[arg(long, value_name = "ADDRESS")]
    pub gateway: Option<Ipv4Addr>,
    /// The Ethernet address to send to.
    #[arg(long, value_name = "MAC", conflicts_with = "gateway")]
    pub gateway_mac: Option<MacAddress>,
    /// The address that asks for the gateway; otherwise the first source.
    #[arg(long, value_name = "ADDRESS", requires = "gateway")]
    pub address: Option<Ipv4Addr>,
    /// Source addresses; the first device answers ARP for them.
    #[arg(long, value_name = "ADDRESS[/LENGTH]", default_value = "10.0.0.0/16")]
    pub source: Addresses,
    /// Destination addresses.
    #[arg(long, value_name = "ADDRESS[/LENGTH]", default_value = "198.18.0.0/24")]
    pub destination: Addresses,
    /// Destination port.
    #[arg(long, value_name = "PORT", default_value_t = 9)]
    pub port: u16,
    /// More addresses for which both devices answer ARP (routers, private hosts), several with commas.
    #[arg(long, value_name = "ADDRESS[/LENGTH]", value_delimiter = ',')]
    pub answer: Vec<Addresses>,
    /// Flows at the same time.
    #[arg(long, value_name = "NUMBER", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub flows: u64,
    /// Whose turn it is: sequential, random, zipf or zipf:EXPONENT.
    #[arg(long, value_name = "ORDER", default_value = "random")]
    pub order: Order,
    /// Flows a second that end, each with another that begins (10k, 1.5M).
    #[arg(long, value_name = "RATE", default_value = "0")]
    pub new_flows: Rate,
    /// Packets a second (10k, 1.5M), or max.
    #[arg(long, value_name = "RATE", default_value = "max")]
    pub rate: Rate,
    /// Bytes of an Ethernet frame, its checksum included (64 to 1518), or imix: 64, 594 and 1518 as 7 : 4 : 1.
    #[arg(long, value_name = "BYTES", default_value = "64")]
    pub size: Size,
    /// How long to send.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub seconds: f64,
    /// Before that, send one flow after the other as fast as possible for so long and count nothing: the gateway then has sessions.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub warm_up: Option<f64>,
    /// Return each packet from where it arrives to where it came from.
    #[arg(long)]
    pub both_ways: bool,
    /// Look for the highest rate without loss (RFC 2544), at most --rate, by trials of --seconds each.
    #[arg(long)]
    pub find_rate: bool,
    /// With --find-rate: the share of packets that may be lost.
    #[arg(long, value_name = "SHARE", default_value = "0", requires = "find_rate", value_parser = share)]
    pub loss: f64,
    /// With --find-rate: the share of the rate within which it is to be known.
    #[arg(long, value_name = "SHARE", default_value = "0.01", requires = "find_rate", value_parser = share)]
    pub resolution: f64,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `conformance`.
#[derive(Clone, Debug, Args)]
pub struct ConformanceArgs {
    /// What is measured.
    #[arg(long, value_enum, default_value_t)]
    pub gateway: Measured,
    /// Only rows whose identifiers begin so, several with commas: udp, frag-01; otherwise all.
    #[arg(long, value_name = "ROW", value_delimiter = ',')]
    pub row: Vec<String>,
    /// Only list the rows.
    #[arg(long, conflicts_with_all = ["gateway", "row", "json", "markdown"])]
    pub list: bool,
    /// Print a table in Markdown, without evidence.
    #[arg(long, conflicts_with = "json")]
    pub markdown: bool,
    /// Print JSON: an object a line for each row.
    #[arg(long)]
    pub json: bool,
    /// What the process in the namespace of hosts and peers is told.
    #[arg(long, hide = true)]
    pub inside: Option<String>,
}

/// The gateways that `conformance` can measure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Measured {
    /// This program.
    #[default]
    Natgate,
    /// The kernel's NAT, set up by nftables.
    Nftables,
    /// One after the other.
    Both,
}

/// How `pktgen` opens its devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum PktgenBackend {
    /// The best that works.
    #[default]
    Auto,
    /// XDP sockets.
    AfXdp,
    /// Packet sockets.
    AfPacket,
    /// DPDK, in a natgate that was built with it; devices are PCI addresses or such as net_memif0,role=client.
    Dpdk,
    /// No devices: a cable in memory.
    Memory,
}

/// An Ethernet address on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacAddress(pub [u8; 6]);

impl FromStr for MacAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes: Option<Vec<u8>> = text
            .split(':')
            .map(|byte| u8::from_str_radix(byte, 16).ok().filter(|_| byte.len() == 2))
            .collect();
        let mac: Option<[u8; 6]> = bytes.and_then(|bytes| bytes.try_into().ok());
        mac.filter(|mac| mac[0] & 1 == 0)
            .map(Self)
            .ok_or_else(|| "not the Ethernet address of a station, such as 02:00:00:00:00:01".into())
    }
}

/// Things a second; none if as many as possible.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate(pub Option<f64>);

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "max" {
            return Ok(Self(None));
        }
        let (number, factor) = match text.as_bytes().last() {
            Some(b'k') => (&text[..text.len() - 1], 1e3),
            Some(b'M') => (&text[..text.len() - 1], 1e6),
            _ => (text, 1.0),
        };
        let rate: Option<f64> = number.parse().ok().map(|number: f64| number * factor);
        match rate {
            Some(rate) if (0.0..=1e9).contains(&rate) => Ok(Self(Some(rate))),
            _ => Err("neither max nor a number such as 2500, 10k or 1.5M".into()),
        }
    }
}

/// A share of a whole, as a number from 0 to 1.
fn share(text: &str) -> Result<f64, String> {
    let share: Option<f64> = text.parse().ok();
    share.filter(|share| (0.0..1.0).contains(share)).ok_or_else(|| "not a share from 0 to 1".into())
}
