//! Settings of the process: workers, memory, quotas, timeouts.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::model::Transport;
use super::units::format_duration;
use crate::base::Tick;
use crate::policy::Timeouts;

/// How many workers there are, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Workers {
    /// One per core, less the first.
    #[default]
    PerCore,
    /// This many.
    Count(u16),
    /// One on each of these cores, in worker order. Not empty.
    Cores(Vec<usize>),
}

impl Workers {
    /// How many workers that makes on a machine with this many cores.
    pub fn count(&self, cores: usize) -> usize {
        match self {
            Self::PerCore => cores.saturating_sub(1).clamp(1, 256),
            Self::Count(count) => usize::from(*count),
            Self::Cores(cores) => cores.len(),
        }
    }
}

/// What a worker without traffic does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Polls on: the shortest delay, a core at full load.
    Poll,
    /// Sleeps until a frame comes.
    Sleep,
}

/// What becomes of a worker that dies of a defect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WorkerFailure {
    /// It is started anew, without its sessions.
    #[default]
    Restart,
    /// The gateway ends.
    Exit,
}

/// What the process takes of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct System {
    /// Workers and their cores.
    pub workers: Workers,
    /// Sessions over all workers.
    pub sessions: usize,
    /// Neighbours that each worker has room for.
    pub neighbours: usize,
    /// EIPs in SNAT pools that there is room for.
    pub snat_eips: usize,
    /// Packet buffers over all ports and workers; none: as the ports need.
    pub buffers: Option<usize>,
    /// Bytes of a packet buffer: a power of two from 2048 to 65536.
    pub buffer_size: usize,
    /// What an idle worker does; none: as the back ends need.
    pub idle: Option<Idle>,
    /// What becomes of a worker that dies.
    pub worker_failure: WorkerFailure,
    /// The management socket.
    pub control: PathBuf,
    /// What is logged.
    pub log: log::LevelFilter,
}

impl Default for System {
    fn default() -> Self {
        Self {
            workers: Workers::default(),
            sessions: 1 << 20,
            neighbours: 1 << 14,
            snat_eips: 1024,
            buffers: None,
            buffer_size: 2048,
            idle: None,
            worker_failure: WorkerFailure::default(),
            control: PathBuf::from("/run/natgate/natgate.sock"),
            log: log::LevelFilter::Info,
        }
    }
}

/// Where the HTTP API is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Api {
    /// The Unix socket.
    pub socket: PathBuf,
    /// The TCP listener.
    pub listen: Option<SocketAddr>,
    /// The listener's certificate chain and its private key: files in PEM.
    pub tls: Option<(PathBuf, PathBuf)>,
}

/// A collector of logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Collector {
    /// Its address and port.
    pub address: SocketAddr,
    /// How it is reached.
    pub transport: Transport,
}

/// Where sessions are logged. At least one place is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionLog {
    /// A file of JSON lines.
    pub file: Option<PathBuf>,
    /// A syslog server (RFC 5424), by UDP (RFC 5426) or TCP (RFC 6587).
    pub syslog: Option<Collector>,
    /// An IPFIX collector (RFC 7011, RFC 8158), by UDP or TCP.
    pub ipfix: Option<Collector>,
    /// The directory of the index that answers who had an address.
    pub index: Option<PathBuf>,
    /// How long the index remembers.
    pub keep: Duration,
    /// Events of one worker that may wait to be written.
    pub events: usize,
}

/// Where it is kept what gateways and EIPs used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metering {
    /// The directory.
    pub path: PathBuf,
    /// How long hours are kept.
    pub keep: Duration,
}

/// Which pages DPDK's memory is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hugepages {
    /// Huge pages if enough are free.
    #[default]
    Auto,
    /// Huge pages, or natgate does not start.
    Require,
    /// Ordinary pages.
    Off,
}

/// How NICs distribute what comes from the outside over the workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rss {
    /// Each packet to the worker that owns its external port.
    #[default]
    Owner,
    /// By flow.
    Flow,
}

/// How DPDK is started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dpdk {
    /// The pages of its memory.
    pub hugepages: Hugepages,
    /// Memory in MiB; none: as the buffers need.
    pub memory: Option<u32>,
    /// Whether it opens its telemetry socket.
    pub telemetry: bool,
    /// How NICs distribute what comes from the outside.
    pub rss: Rss,
    /// Further arguments of its EAL.
    pub arguments: Vec<String>,
}

/// How many resources there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// DNAT entries of a gateway.
    pub dnat_entries_per_gateway: u32,
    /// SNAT entries of a gateway.
    pub snat_entries_per_gateway: u32,
    /// EIPs of a gateway.
    pub eips_per_gateway: u32,
    /// Gateways of a VPC.
    pub gateways_per_vpc: u32,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            dnat_entries_per_gateway: 100,
            snat_entries_per_gateway: 40,
            eips_per_gateway: 20,
            gateways_per_vpc: 5,
        }
    }
}

/// Timeouts that replace others where they are given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeoutOverrides {
    /// Established TCP connections.
    pub tcp_established: Option<Duration>,
    /// TCP connections that are opening, closing or were reset.
    pub tcp_transitory: Option<Duration>,
    /// UDP.
    pub udp: Option<Duration>,
    /// ICMP queries.
    pub icmp: Option<Duration>,
    /// Other protocols.
    pub other: Option<Duration>,
    /// Resets to both hosts of an established TCP connection that expires.
    pub tcp_reset: Option<bool>,
}

impl TimeoutOverrides {
    /// Every value of a profile.
    pub(crate) fn all(timeouts: Timeouts) -> Self {
        let duration = |ticks: u32| Some(Duration::from_nanos(u64::from(ticks) * Tick::NANOS));
        Self {
            tcp_established: duration(timeouts.tcp_established),
            tcp_transitory: duration(timeouts.tcp_transitory),
            udp: duration(timeouts.udp),
            icmp: duration(timeouts.icmp),
            other: duration(timeouts.other),
            tcp_reset: Some(timeouts.tcp_reset),
        }
    }

    /// These, and where one is not given, that of `base`.
    pub(crate) fn or(self, base: Self) -> Self {
        Self {
            tcp_established: self.tcp_established.or(base.tcp_established),
            tcp_transitory: self.tcp_transitory.or(base.tcp_transitory),
            udp: self.udp.or(base.udp),
            icmp: self.icmp.or(base.icmp),
            other: self.other.or(base.other),
            tcp_reset: self.tcp_reset.or(base.tcp_reset),
        }
    }

    /// `base` with these in place.
    pub fn over(self, base: Timeouts) -> Timeouts {
        let ticks = |own: Option<Duration>, base: u32| own.map_or(base, Tick::ticks);
        Timeouts {
            tcp_established: ticks(self.tcp_established, base.tcp_established),
            tcp_transitory: ticks(self.tcp_transitory, base.tcp_transitory),
            udp: ticks(self.udp, base.udp),
            icmp: ticks(self.icmp, base.icmp),
            other: ticks(self.other, base.other),
            tcp_reset: self.tcp_reset.unwrap_or(base.tcp_reset),
        }
    }
}

impl fmt::Display for TimeoutOverrides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            ("tcp_established", self.tcp_established),
            ("tcp_transitory", self.tcp_transitory),
            ("udp", self.udp),
            ("icmp", self.icmp),
            ("other", self.other),
        ];
        let resets = self.tcp_reset.map(|resets| format!("tcp_reset {resets}"));
        let given: Vec<String> = all
            .into_iter()
            .filter_map(|(key, value)| Some(format!("{key} {}", format_duration(value?))))
            .chain(resets)
            .collect();
        f.write_str(&given.join(", "))
    }
}
