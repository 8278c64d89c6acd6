//! The command line.

#![allow(rustdoc::broken_intra_doc_links, reason = "help texts show optional parts in brackets")]

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand};

pub use super::apply::{ApplyArgs, ConfirmArgs, ExportArgs, RollbackArgs};
pub use super::capture::CaptureArgs;
pub use super::doctor::DoctorArgs;
pub use super::keys::{AuditArgs, KeyVerb};
pub use super::measures::{ConformanceArgs, Measured, PktgenArgs, PktgenBackend, SpeedArgs};
pub use super::metering::MeteringArgs;
use super::nouns::SessionArgs;
pub use super::nouns::{
    DnatValues, EipValues, GatewayValues, PlanValues, SnatValues, VSwitchValues, Verb, VpcValues,
};
pub use super::session::SessionVerb;
pub use super::top::TopArgs;
use crate::control::address::{AddressFilter, Endpoint, Protocol};
use crate::control::protocol::{KindFilter, SessionsRequest, UsageBy};

/// A poll-mode NAT gateway: DNAT and SNAT on elastic IPs.
#[derive(Clone, Debug, Parser)]
#[command(name = "natgate", version, about, disable_help_subcommand = true, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 it is done; 1 it failed; 2 wrong input (arguments, configuration, filter); 3 no gateway \
                          is reached.\n\nWith the secret of an API key in NATGATE_KEY a command asks as the key's owner.";

/// The commands.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run the gateway until SIGTERM or SIGINT; SIGHUP applies a changed configuration file.
    Run(RunArgs),
    /// Check a configuration file and print all its errors.
    Check(CheckArgs),
    /// Look whether this machine is fit for the gateway: what is amiss, why it matters, and what mends it.
    ///
    /// Huge pages, drivers, queues, offloads, cores, limits, clock and what the kernel does on the gateway's ports. Changes
    /// nothing, and works without root as far as it can: what could not be seen is said.
    Doctor(DoctorArgs),
    /// Let the running gateway apply its changed configuration file, as one step.
    ///
    /// Returns when the change is in force on all workers, and prints what was added, changed and removed. A file with an
    /// error changes nothing.
    Reload(ReloadArgs),
    /// Show what runs: ports, workers, tables.
    Status(StatusArgs),
    /// Show all counters: what became of every packet, drops by reason; or what each gateway, EIP, entry or host has carried.
    Stats(StatsArgs),
    /// Show what happens at the moment, again and again: rates, sessions, workers, drops, ports, and who uses the most.
    ///
    /// Where standard input or output is no terminal, it prints plain text instead.
    Top(TopArgs),
    /// Print all metrics as Prometheus reads them; the HTTP API serves the same at /metrics.
    Metrics(MetricsArgs),
    /// Tell what gateways and EIPs used, hour by hour: peaks, bytes and capacity units.
    Metering(MeteringArgs),
    /// List live sessions. All conditions that are given must hold.
    Sessions(SessionsArgs),
    /// Sessions: list, show, end, watch.
    #[command(subcommand)]
    Session(SessionVerb),
    /// Tell who had an EIP's port at a time, from the index of the session log.
    Who(WhoArgs),
    /// Show what each stage decides about the next packets. All conditions that are given must hold.
    Trace(TraceArgs),
    /// Copy the next frames into a capture, each with what became of it. All conditions that are given must hold.
    ///
    /// The capture is pcapng: each frame has its port as interface, its direction, and as comment its verdict or drop reason, its
    /// entry and its worker. A packet that is translated is there twice, as it came and as it left. Frames that come faster than
    /// they are read are lost and counted; traffic never waits. What finds no room when it is to be sent or handed over is
    /// not seen here (natgate stats).
    Capture(CaptureArgs),
    /// Say what would happen to a packet, and by which entry, without sending one.
    Explain(ExplainArgs),
    /// Private networks, where the configuration file has a [store].
    #[command(subcommand)]
    Vpc(Verb<VpcValues>),
    /// Parts of private networks, where the configuration file has a [store].
    #[command(subcommand)]
    Vswitch(Verb<VSwitchValues>),
    /// NAT gateways, where the configuration file has a [store].
    #[command(subcommand)]
    Gateway(Verb<GatewayValues>),
    /// Bandwidth limits that several EIPs share, where the configuration file has a [store].
    #[command(subcommand)]
    Plan(Verb<PlanValues>),
    /// Elastic IPs, where the configuration file has a [store].
    #[command(subcommand)]
    Eip(Verb<EipValues>),
    /// DNAT entries, where the configuration file has a [store].
    #[command(subcommand)]
    Dnat(Verb<DnatValues>),
    /// SNAT entries, where the configuration file has a [store].
    #[command(subcommand)]
    Snat(Verb<SnatValues>),
    /// Write all resources into one file, where the configuration file has a [store].
    Export(ExportArgs),
    /// Make all resources what a file says, as one step: add, change and remove.
    ///
    /// The file is the whole truth: what it does not name is removed. Prints every change, and returns when all of them are stored
    /// and in force on all workers. A file that breaks a rule changes nothing. On a terminal it shows the changes first and asks.
    Apply(ApplyArgs),
    /// Keep what the last apply with --confirm made.
    Confirm(ConfirmArgs),
    /// Take the last apply with --confirm back now.
    Rollback(RollbackArgs),
    /// API keys: who may use the HTTP API from afar.
    #[command(subcommand)]
    Key(KeyVerb),
    /// Who changed what: resources and keys, the newest first.
    Audit(AuditArgs),
    /// Measure how fast this machine translates: the engine alone, on frames in memory.
    ///
    /// Frames are written into a ring of 1024 buffers and taken off it in batches; only the engine's time counts.
    Speed(SpeedArgs),
    /// Send packets through a device under test and measure rate, loss and latency.
    ///
    /// UDP packets of many flows leave by one device and are counted where they arrive, at another; addresses and ports may
    /// be translated on their way. Both devices answer ARP for the hosts that they pretend to be: use it in a laboratory.
    Pktgen(PktgenArgs),
    /// Measure what packets are owed (RFC by RFC), at natgate and at the kernel's NAT, in network namespaces of its own.
    ///
    /// Makes two namespaces, starts the gateway in one of them, sends frames from the other, and looks at what comes. Needs root; touches
    /// nothing outside of its namespaces. Fails if natgate misses a row.
    Conformance(ConformanceArgs),
    /// Print a completion script for a shell.
    Completions(CompletionsArgs),
    /// Write a man page for each command.
    Man(ManArgs),
}

/// Arguments of `run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/natgate/natgate.toml")]
    pub config: PathBuf,
}

/// Arguments of `metrics`.
#[derive(Clone, Debug, Args)]
pub struct MetricsArgs {
    /// The management socket of the gateway.
    #[arg(long, value_name = "PATH", env = "NATGATE_SOCKET", default_value = "/run/natgate/natgate.sock")]
    pub socket: PathBuf,
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
    pub sessions: SessionArgs,
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
    /// Show instead what each gateway, EIP, entry or private host has carried, those with the most sessions first.
    #[arg(long, value_enum)]
    pub by: Option<UsageBy>,
    /// With --by: show at most so many; otherwise all, of private hosts 10.
    #[arg(long, value_name = "NUMBER", requires = "by")]
    pub limit: Option<u64>,
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

/// Which sessions.
#[derive(Clone, Debug, Args)]
pub struct SessionConditions {
    /// Of this IP protocol: tcp, udp, icmp or a number.
    #[arg(long)]
    pub protocol: Option<Protocol>,
    /// Of this private address and port.
    #[arg(
        long,
        value_name = "ADDRESS",
        help = "Of this private address and port: ADDRESS[/LENGTH][:PORT] or :PORT"
    )]
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
}

impl SessionConditions {
    /// The same as a request.
    pub fn request(self) -> SessionsRequest {
        let Self { protocol, inside, eip, peer, entry, gateway, vpc, kind } = self;
        SessionsRequest { protocol, inside, eip, peer, entry, gateway, vpc, kind, limit: None, count: false }
    }
}

/// Arguments of `sessions`.
#[derive(Clone, Debug, Args)]
pub struct SessionsArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub conditions: SessionConditions,
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

/// Arguments of `who`.
#[derive(Clone, Debug, Args)]
pub struct WhoArgs {
    /// The EIP, its port (or ICMP identifier) and the protocol.
    #[arg(value_name = "ADDRESS:PORT/PROTOCOL", help = "Such as 203.0.113.16:40000/tcp, or 203.0.113.16/47")]
    pub external: External,
    /// When, in UTC; otherwise now.
    #[arg(long, value_name = "TIME", help = "When, in UTC, such as 2026-01-31T23:59:00Z; otherwise now")]
    pub at: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub client: ClientArgs,
}

/// An external endpoint on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct External {
    /// Address and port.
    pub endpoint: Endpoint,
    /// IP protocol.
    pub protocol: Protocol,
}

impl FromStr for External {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (endpoint, protocol) =
            text.split_once('/').ok_or("the protocol is missing: write ADDRESS:PORT/PROTOCOL")?;
        let (endpoint, protocol): (Endpoint, Protocol) = (endpoint.parse()?, protocol.parse()?);
        if endpoint.port.is_none() && (protocol.has_ports() || protocol == Protocol::ICMP) {
            return Err(format!("the port is missing: write {}:PORT/{protocol}", endpoint.address));
        }
        Ok(Self { endpoint, protocol })
    }
}

/// Arguments of `trace`.
#[derive(Clone, Debug, Args)]
pub struct TraceArgs {
    /// Of this IP protocol: tcp, udp, icmp or a number.
    #[arg(long)]
    pub protocol: Option<Protocol>,
    /// From this address and port, as received.
    #[arg(
        long,
        value_name = "ADDRESS",
        help = "From this address and port, as received: ADDRESS[/LENGTH][:PORT] or :PORT"
    )]
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
  length BYTES                  of the IP packet; a fragment without one fits where it lies
  ttl NUMBER                    its time to live; otherwise 64
  df                            it must not be fragmented
  fragment OFFSET [last]        a fragment of it, so many bytes behind the first one at 0
  identification NUMBER         by which fragments of a datagram are known; otherwise 0";

/// Arguments of `completions`.
#[derive(Clone, Debug, Args)]
pub struct CompletionsArgs {
    /// The shell.
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// Arguments of `man`.
#[derive(Clone, Debug, Args)]
pub struct ManArgs {
    /// The folder to write them to; made where there is none.
    #[arg(value_name = "FOLDER")]
    pub folder: PathBuf,
}

/// A positive time in seconds, at most a day.
pub(super) fn seconds(text: &str) -> Result<f64, String> {
    let seconds: Option<f64> = text.parse().ok();
    seconds
        .filter(|seconds| (0.01..=86_400.0).contains(seconds))
        .ok_or_else(|| "not a number of seconds from 0.01 to 86400".into())
}
