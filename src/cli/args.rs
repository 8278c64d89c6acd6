//! The command line.

#![allow(rustdoc::broken_intra_doc_links, reason = "help texts show optional parts in brackets")]

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::control::address::{AddressFilter, Protocol};
use crate::control::protocol::KindFilter;
use crate::speed::Scenario;

/// A poll-mode NAT gateway: DNAT and SNAT on elastic IPs.
#[derive(Clone, Debug, Parser)]
#[command(name = "natgate", version, about, disable_help_subcommand = true, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 it is done; 1 it failed; 2 wrong input (arguments, configuration, filter); 3 no gateway \
                          is reached.";

/// The commands.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run the gateway until SIGTERM or SIGINT; SIGHUP applies a changed configuration file.
    Run(RunArgs),
    /// Check a configuration file and print all its errors.
    Check(CheckArgs),
    /// Let the running gateway apply its changed configuration file, as one step.
    ///
    /// Returns when the change is in force on all workers, and prints what was added, changed and removed. A file with an
    /// error changes nothing.
    Reload(ReloadArgs),
    /// Show what runs: ports, workers, tables.
    Status(StatusArgs),
    /// Show all counters: what became of every packet, drops by reason.
    Stats(StatsArgs),
    /// List live sessions. All conditions that are given must hold.
    Sessions(SessionsArgs),
    /// Show what each stage decides about the next packets. All conditions that are given must hold.
    Trace(TraceArgs),
    /// Say what would happen to a packet, and by which entry, without sending one.
    Explain(ExplainArgs),
    /// Measure how fast this machine translates: the engine alone, on frames in memory.
    ///
    /// Frames are written into a ring of 1024 buffers and taken off it in batches; only the engine's time counts.
    Speed(SpeedArgs),
    /// Print a completion script for a shell.
    Completions(CompletionsArgs),
}

/// Arguments of `run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/natgate/natgate.toml")]
    pub config: PathBuf,
}

/// Arguments of `check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/natgate/natgate.toml")]
    pub config: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of all commands that ask a running gateway.
#[derive(Clone, Debug, Args)]
pub struct ClientArgs {
    /// The management socket of the gateway.
    #[arg(long, value_name = "PATH", env = "NATGATE_SOCKET", default_value = "/run/natgate/natgate.sock")]
    pub socket: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `reload`.
#[derive(Clone, Debug, Args)]
pub struct ReloadArgs {
    /// Only print what would change.
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub client: ClientArgs,
}

/// Arguments of `status`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub client: ClientArgs,
}

/// Arguments of `stats`.
#[derive(Clone, Debug, Args)]
pub struct StatsArgs {
    /// Show rates over this time, again and again.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub interval: Option<f64>,
    /// With --interval: show so many times, then end.
    #[arg(long, value_name = "NUMBER", requires = "interval", value_parser = clap::value_parser!(u64).range(1..))]
    pub times: Option<u64>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub client: ClientArgs,
}

/// Arguments of `sessions`.
#[derive(Clone, Debug, Args)]
pub struct SessionsArgs {
    /// Of this IP protocol: tcp, udp, icmp or a number.
    #[arg(long)]
    pub protocol: Option<Protocol>,
    /// Of this private address and port: ADDRESS[/LENGTH][:PORT] or :PORT.
    #[arg(long, value_name = "ADDRESS")]
    pub inside: Option<AddressFilter>,
    /// On this EIP and port (or ICMP identifier).
    #[arg(long, value_name = "ADDRESS")]
    pub eip: Option<AddressFilter>,
    /// With this peer.
    #[arg(long, value_name = "ADDRESS")]
    pub peer: Option<AddressFilter>,
    /// Made by the entry of this name.
    #[arg(long, value_name = "NAME")]
    pub entry: Option<String>,
    /// Of this gateway.
    #[arg(long, value_name = "NAME")]
    pub gateway: Option<String>,
    /// Of this VPC.
    #[arg(long, value_name = "NAME")]
    pub vpc: Option<String>,
    /// Made by entries of this table.
    #[arg(long, value_enum)]
    pub kind: Option<KindFilter>,
    /// Show at most so many.
    #[arg(long, value_name = "NUMBER")]
    pub limit: Option<u64>,
    /// Only say how many there are.
    #[arg(long)]
    pub count: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub client: ClientArgs,
}

/// Arguments of `trace`.
#[derive(Clone, Debug, Args)]
pub struct TraceArgs {
    /// Of this IP protocol: tcp, udp, icmp or a number.
    #[arg(long)]
    pub protocol: Option<Protocol>,
    /// From this address and port, as received: ADDRESS[/LENGTH][:PORT] or :PORT.
    #[arg(long, value_name = "ADDRESS")]
    pub source: Option<AddressFilter>,
    /// To this address and port, as received.
    #[arg(long, value_name = "ADDRESS")]
    pub destination: Option<AddressFilter>,
    /// With this address and port at either end, as received.
    #[arg(long, value_name = "ADDRESS")]
    pub host: Option<AddressFilter>,
    /// Received on this port of the gateway.
    #[arg(long, value_name = "NAME")]
    pub port: Option<String>,
    /// Only packets that are dropped.
    #[arg(long)]
    pub dropped: bool,
    /// How many packets to show.
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub packets: u32,
    /// How long to wait for them.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub timeout: f64,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub client: ClientArgs,
}

/// Arguments of `explain`.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXPLAIN)]
pub struct ExplainArgs {
    /// The packet: PROTOCOL SOURCE > DESTINATION, in quotes because of the >, and what is said below.
    #[arg(required = true, value_name = "PACKET")]
    pub packet: Vec<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub client: ClientArgs,
}

const EXPLAIN: &str = "\
Examples:
  natgate explain 'tcp 10.0.1.10:40000 > 198.51.100.7:443 from vpc prod'
  natgate explain 'udp 198.51.100.7:999 > 203.0.113.16:80'
  natgate explain 'icmp 10.0.1.10 > 198.51.100.7 id 7'

After the destination may follow:
  from outside, from vpc NAME   where it comes from; otherwise inferred from its source
  flags syn,ack,fin,rst         of a TCP segment; otherwise syn; none is possible
  reply                         an ICMP echo reply; otherwise a request
  id NUMBER                     of an ICMP echo
  length BYTES                  of the IP packet
  ttl NUMBER                    its time to live; otherwise 64
  df                            it must not be fragmented";

/// Arguments of `speed`.
#[derive(Clone, Debug, Args)]
pub struct SpeedArgs {
    /// Which traffic, several with commas; otherwise all: dnat-any, dnat-port, snat, new-session, imix, hairpin, icmp.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub scenario: Vec<Scenario>,
    /// Sessions of each worker, hit at random; with new-session, sessions that are made before all are let expire.
    #[arg(long, value_name = "NUMBER", default_value_t = 65_536, value_parser = clap::value_parser!(u64).range(1..=50_000_000))]
    pub sessions: u64,
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
    #[arg(long, conflicts_with_all = ["scenario", "sessions", "packet_size", "batch", "workers", "stages"])]
    pub table: bool,
    /// Print JSON: an object a line for each measurement.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `completions`.
#[derive(Clone, Debug, Args)]
pub struct CompletionsArgs {
    /// The shell.
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// A positive time in seconds, at most a day.
fn seconds(text: &str) -> Result<f64, String> {
    let seconds: Option<f64> = text.parse().ok();
    seconds
        .filter(|seconds| (0.01..=86_400.0).contains(seconds))
        .ok_or_else(|| "not a number of seconds from 0.01 to 86400".into())
}
