//! The tables of the file as they are written, value by value. What can be judged by looking at one value alone is
//! judged here; what concerns several is the matter of `validate`.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::allocation::{BLOCK_SIZES, BLOCKS_PER_HOST};
use super::document::{Field, Spot, Table};
use super::model::{SegmentSize, Source, Specification, Transport};
use super::reference as known;
use super::settings::{Collector, Hugepages, Idle, Rss, TimeoutOverrides, WorkerFailure};
use super::values::{self, Ports};
use super::words::{Description, Name, Vlan};
use crate::policy::{Filtering, Mapping, PortRange, Prefix, Timeouts};

pub(super) struct File {
    pub(super) here: Spot,
    pub(super) system: Option<SystemTable>,
    pub(super) timeouts: Option<TimeoutTable>,
    pub(super) quotas: Option<QuotaTable>,
    pub(super) store: Option<StoreTable>,
    pub(super) api: Option<ApiTable>,
    pub(super) session_log: Option<SessionLogTable>,
    pub(super) metering: Option<MeteringTable>,
    pub(super) dpdk: Option<DpdkTable>,
    pub(super) ports: Vec<PortTable>,
    pub(super) outside: Vec<OutsideTable>,
    pub(super) vpcs: Vec<VpcTable>,
    pub(super) gateways: Vec<GatewayTable>,
    pub(super) plans: Vec<PlanTable>,
    pub(super) eips: Vec<EipTable>,
    pub(super) dnat: Vec<DnatTable>,
    pub(super) snat: Vec<SnatTable>,
}

impl File {
    pub(super) fn read(t: Table<'_, '_>) -> Self {
        Self {
            here: t.here,
            system: t.table("system", &known::SYSTEM).map(SystemTable::read),
            timeouts: t.table("timeouts", &known::TIMEOUT).map(TimeoutTable::read),
            quotas: t.table("quotas", &known::QUOTA).map(QuotaTable::read),
            store: t.table("store", &known::STORE).map(StoreTable::read),
            api: t.table("api", &known::API).map(ApiTable::read),
            session_log: t.table("session_log", &known::SESSION_LOG).map(SessionLogTable::read),
            metering: t.table("metering", &known::METERING).map(MeteringTable::read),
            dpdk: t.table("dpdk", &known::DPDK).map(DpdkTable::read),
            ports: t.tables("port", &known::PORTS).into_iter().map(PortTable::read).collect(),
            outside: t.tables("outside", &known::OUTSIDE).into_iter().map(OutsideTable::read).collect(),
            vpcs: t.tables("vpc", &known::VPC).into_iter().map(VpcTable::read).collect(),
            gateways: t.tables("gateway", &known::GATEWAYS).into_iter().map(GatewayTable::read).collect(),
            plans: t.tables("plan", &known::PLAN).into_iter().map(PlanTable::read).collect(),
            eips: t.tables("eip", &known::EIP).into_iter().map(EipTable::read).collect(),
            dnat: t.tables("dnat", &known::DNAT).into_iter().map(DnatTable::read).collect(),
            snat: t.tables("snat", &known::SNAT).into_iter().map(SnatTable::read).collect(),
        }
    }
}

pub(super) struct SystemTable {
    pub(super) here: Spot,
    pub(super) workers: Option<Field<u64>>,
    pub(super) cores: Option<Vec<Field<u64>>>,
    pub(super) sessions: Option<Field<u64>>,
    pub(super) neighbours: Option<Field<u64>>,
    pub(super) snat_eips: Option<Field<u64>>,
    pub(super) buffers: Option<Field<u64>>,
    pub(super) buffer_size: Option<Field<u64>>,
    pub(super) idle: Option<Field<Idle>>,
    pub(super) worker_failure: Option<Field<WorkerFailure>>,
    pub(super) control: Option<Field<String>>,
    pub(super) log: Option<Field<log::LevelFilter>>,
}

impl SystemTable {
    fn read(t: Table<'_, '_>) -> Self {
        use log::LevelFilter::{Debug, Error, Info, Trace, Warn};
        let levels = [("error", Error), ("warn", Warn), ("info", Info), ("debug", Debug), ("trace", Trace)];
        Self {
            here: t.here,
            workers: t.optional("workers", values::number(1, 256)),
            cores: t.list("cores", values::number(0, 4095)),
            sessions: t.optional("sessions", values::count(1024, 1_000_000_000)),
            neighbours: t.optional("neighbours", values::count(64, 1_000_000)),
            snat_eips: t.optional("snat_eips", values::count(16, 1_000_000)),
            buffers: t.optional("buffers", values::count(1024, 16_000_000)),
            buffer_size: t.optional("buffer_size", values::number(2048, 65536)),
            idle: t.optional("idle", values::choice(&[("poll", Idle::Poll), ("sleep", Idle::Sleep)])),
            worker_failure: t.optional(
                "worker_failure",
                values::choice(&[("restart", WorkerFailure::Restart), ("exit", WorkerFailure::Exit)]),
            ),
            control: t.optional("control", values::socket_path),
            log: t.optional("log", values::choice(&levels)),
        }
    }
}

pub(super) struct TimeoutTable {
    pub(super) here: Spot,
    pub(super) profile: Option<Field<Timeouts>>,
    pub(super) tcp_established: Option<Field<Duration>>,
    pub(super) tcp_transitory: Option<Field<Duration>>,
    udp: Option<Field<Duration>>,
    icmp: Option<Field<Duration>>,
    other: Option<Field<Duration>>,
    tcp_reset: Option<Field<bool>>,
}

impl TimeoutTable {
    fn read(t: Table<'_, '_>) -> Self {
        Self {
            here: t.here,
            profile: t.optional("profile", values::choice(&values::PROFILES)),
            tcp_established: t.optional("tcp_established", values::timeout),
            tcp_transitory: t.optional("tcp_transitory", values::timeout),
            udp: t.optional("udp", values::timeout),
            icmp: t.optional("icmp", values::timeout),
            other: t.optional("other", values::timeout),
            tcp_reset: t.optional("tcp_reset", values::boolean),
        }
    }

    /// What the table replaces: a profile all values, a single key one.
    pub(super) fn overrides(&self) -> TimeoutOverrides {
        let value = |field: &Option<Field<Duration>>| field.as_ref().map(|f| f.value);
        let single = TimeoutOverrides {
            tcp_established: value(&self.tcp_established),
            tcp_transitory: value(&self.tcp_transitory),
            udp: value(&self.udp),
            icmp: value(&self.icmp),
            other: value(&self.other),
            tcp_reset: self.tcp_reset.as_ref().map(|field| field.value),
        };
        match &self.profile {
            Some(profile) => single.or(TimeoutOverrides::all(profile.value)),
            None => single,
        }
    }
}

pub(super) struct StoreTable {
    pub(super) path: Option<Field<String>>,
}

impl StoreTable {
    fn read(t: Table<'_, '_>) -> Self {
        Self { path: t.optional("path", values::path) }
    }
}

pub(super) struct ApiTable {
    pub(super) here: Spot,
    pub(super) socket: Option<Field<String>>,
    pub(super) listen: Option<Field<SocketAddr>>,
    pub(super) tls_certificate: Option<Field<String>>,
    pub(super) tls_key: Option<Field<String>>,
}

impl ApiTable {
    fn read(t: Table<'_, '_>) -> Self {
        Self {
            here: t.here,
            socket: t.optional("socket", values::socket_path),
            listen: t.optional("listen", values::listener),
            tls_certificate: t.optional("tls_certificate", values::path),
            tls_key: t.optional("tls_key", values::path),
        }
    }
}

pub(super) struct SessionLogTable {
    pub(super) here: Spot,
    pub(super) file: Option<Field<String>>,
    pub(super) syslog: Option<Field<Collector>>,
    pub(super) ipfix: Option<Field<Collector>>,
    pub(super) index: Option<Field<String>>,
    pub(super) keep: Option<Field<Duration>>,
    pub(super) events: Option<Field<u64>>,
}

impl SessionLogTable {
    fn read(t: Table<'_, '_>) -> Self {
        Self {
            here: t.here,
            file: t.optional("file", values::path),
            syslog: t.optional("syslog", values::collector),
            ipfix: t.optional("ipfix", values::collector),
            index: t.optional("index", values::path),
            keep: t.optional("keep", values::retention),
            events: t.optional("events", values::count(1024, 16_000_000)),
        }
    }
}

pub(super) struct MeteringTable {
    pub(super) path: Option<Field<String>>,
    pub(super) keep: Option<Field<Duration>>,
}

impl MeteringTable {
    fn read(t: Table<'_, '_>) -> Self {
        Self { path: t.optional("path", values::path), keep: t.optional("keep", values::retention) }
    }
}

pub(super) struct DpdkTable {
    pub(super) here: Spot,
    pub(super) hugepages: Option<Field<Hugepages>>,
    pub(super) memory: Option<Field<u64>>,
    pub(super) telemetry: Option<Field<bool>>,
    pub(super) rss: Option<Field<Rss>>,
    pub(super) arguments: Vec<Field<String>>,
}

impl DpdkTable {
    fn read(t: Table<'_, '_>) -> Self {
        let hugepages = [("auto", Hugepages::Auto), ("require", Hugepages::Require), ("off", Hugepages::Off)];
        Self {
            here: t.here,
            hugepages: t.optional("hugepages", values::choice(&hugepages)),
            memory: t.optional("memory", values::number(32, 1 << 20)),
            telemetry: t.optional("telemetry", values::boolean),
            rss: t.optional("rss", values::choice(&[("owner", Rss::Owner), ("flow", Rss::Flow)])),
            arguments: t.list("arguments", values::dpdk_argument).unwrap_or_default(),
        }
    }
}

pub(super) struct QuotaTable {
    pub(super) dnat_entries_per_gateway: Option<Field<u64>>,
    pub(super) snat_entries_per_gateway: Option<Field<u64>>,
    pub(super) eips_per_gateway: Option<Field<u64>>,
    pub(super) gateways_per_vpc: Option<Field<u64>>,
}

impl QuotaTable {
    fn read(t: Table<'_, '_>) -> Self {
        let quota = || values::count(0, u64::from(u32::MAX));
        Self {
            dnat_entries_per_gateway: t.optional("dnat_entries_per_gateway", quota()),
            snat_entries_per_gateway: t.optional("snat_entries_per_gateway", quota()),
            eips_per_gateway: t.optional("eips_per_gateway", quota()),
            gateways_per_vpc: t.optional("gateways_per_vpc", quota()),
        }
    }
}

/// The words for a back end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BackendWord {
    Auto,
    AfXdp,
    AfPacket,
    Dpdk,
    Capsule,
    Pcap,
}

impl BackendWord {
    /// Whether the port is one of DPDK's, by whichever way.
    pub(super) fn is_dpdk(self) -> bool {
        matches!(self, Self::Dpdk | Self::Capsule)
    }
}

pub(super) struct PortTable {
    pub(super) here: Spot,
    pub(super) name: Option<Field<Name>>,
    pub(super) device: Option<Field<String>>,
    pub(super) backend: Option<Field<BackendWord>>,
    pub(super) share: Option<Field<bool>>,
    pub(super) promiscuous: Option<Field<bool>>,
    pub(super) replay: Option<Field<String>>,
    pub(super) capture: Option<Field<String>>,
    pub(super) mac: Option<Field<[u8; 6]>>,
}

impl PortTable {
    fn read(t: Table<'_, '_>) -> Self {
        let backends = [
            ("auto", BackendWord::Auto),
            ("af_xdp", BackendWord::AfXdp),
            ("af_packet", BackendWord::AfPacket),
            ("dpdk", BackendWord::Dpdk),
            ("capsule", BackendWord::Capsule),
            ("pcap", BackendWord::Pcap),
        ];
        let backend = t.optional("backend", values::choice(&backends));
        let is_dpdk = backend.as_ref().is_some_and(|backend| backend.value.is_dpdk());
        Self {
            here: t.here,
            name: t.required("name", values::name),
            device: t.optional("device", if is_dpdk { values::dpdk_device } else { values::device }),
            backend,
            share: t.optional("share", values::boolean),
            promiscuous: t.optional("promiscuous", values::boolean),
            replay: t.optional("replay", values::path),
            capture: t.optional("capture", values::path),
            mac: t.optional("mac", values::mac),
        }
    }
}

pub(super) struct RouteTable {
    pub(super) here: Spot,
    pub(super) to: Option<Field<Prefix>>,
    pub(super) via: Option<Field<Ipv4Addr>>,
}

impl RouteTable {
    fn read(t: Table<'_, '_>) -> Self {
        Self { here: t.here, to: t.required("to", values::prefix), via: t.required("via", values::address) }
    }

    fn read_all(t: &Table<'_, '_>) -> Vec<Self> {
        t.tables("routes", &known::ROUTE).into_iter().map(Self::read).collect()
    }
}

pub(super) struct OutsideTable {
    pub(super) here: Spot,
    pub(super) port: Option<Field<Name>>,
    pub(super) vlan: Option<Field<Vlan>>,
    pub(super) address: Option<Field<(Ipv4Addr, Prefix)>>,
    pub(super) gateway: Option<Field<Ipv4Addr>>,
    pub(super) routes: Vec<RouteTable>,
    pub(super) mtu: Option<Field<u16>>,
    pub(super) tcp_mss: Option<Field<SegmentSize>>,
    pub(super) public: Vec<Field<Prefix>>,
}

impl OutsideTable {
    fn read(t: Table<'_, '_>) -> Self {
        Self {
            here: t.here,
            port: t.required("port", values::name),
            vlan: t.optional("vlan", values::vlan),
            address: t.required("address", values::interface_address),
            gateway: t.optional("gateway", values::address),
            routes: RouteTable::read_all(&t),
            mtu: t.optional("mtu", values::mtu),
            tcp_mss: t.optional("tcp_mss", values::tcp_mss),
            public: t.list("public", values::unicast_prefix).unwrap_or_default(),
        }
    }
}

pub(super) struct VpcTable {
    pub(super) here: Spot,
    pub(super) name: Option<Field<Name>>,
    pub(super) cidr: Option<Field<Prefix>>,
    pub(super) description: Option<Field<Description>>,
    pub(super) routes: Vec<RouteTable>,
    pub(super) vswitches: Vec<VSwitchTable>,
}

impl VpcTable {
    fn read(t: Table<'_, '_>) -> Self {
        Self {
            here: t.here,
            name: t.required("name", values::name),
            cidr: t.required("cidr", values::unicast_prefix),
            description: t.optional("description", values::description),
            routes: RouteTable::read_all(&t),
            vswitches: t.tables("vswitch", &known::VSWITCH).into_iter().map(VSwitchTable::read).collect(),
        }
    }
}

pub(super) struct VSwitchTable {
    pub(super) here: Spot,
    pub(super) name: Option<Field<Name>>,
    pub(super) cidr: Option<Field<Prefix>>,
    pub(super) description: Option<Field<Description>>,
    pub(super) port: Option<Field<Name>>,
    pub(super) vlan: Option<Field<Vlan>>,
    pub(super) address: Option<Field<Ipv4Addr>>,
    pub(super) mtu: Option<Field<u16>>,
}

impl VSwitchTable {
    fn read(t: Table<'_, '_>) -> Self {
        Self {
            here: t.here,
            name: t.required("name", values::name),
            cidr: t.required("cidr", values::unicast_prefix),
            description: t.optional("description", values::description),
            port: t.optional("port", values::name),
            vlan: t.optional("vlan", values::vlan),
            address: t.optional("address", values::address),
            mtu: t.optional("mtu", values::mtu),
        }
    }
}

pub(super) struct GatewayTable {
    pub(super) here: Spot,
    pub(super) name: Option<Field<Name>>,
    pub(super) vpc: Option<Field<Name>>,
    pub(super) vswitch: Option<Field<Name>>,
    pub(super) specification: Option<Field<Specification>>,
    pub(super) sessions: Option<Field<u64>>,
    pub(super) new_sessions_per_second: Option<Field<u64>>,
    pub(super) host_sessions: Option<Field<Option<u32>>>,
    pub(super) deletion_protection: Option<Field<bool>>,
    pub(super) description: Option<Field<Description>>,
}

impl GatewayTable {
    fn read(t: Table<'_, '_>) -> Self {
        Self {
            here: t.here,
            name: t.required("name", values::name),
            vpc: t.required("vpc", values::name),
            vswitch: t.required("vswitch", values::name),
            specification: t.optional("specification", values::choice(&values::SPECIFICATIONS)),
            sessions: t.optional("sessions", values::count(1, 10_000_000)),
            new_sessions_per_second: t.optional("new_sessions_per_second", values::count(1, 1_000_000)),
            host_sessions: t.optional("host_sessions", values::count_or_unlimited),
            deletion_protection: t.optional("deletion_protection", values::boolean),
            description: t.optional("description", values::description),
        }
    }
}

pub(super) struct PlanTable {
    pub(super) here: Spot,
    pub(super) name: Option<Field<Name>>,
    pub(super) bandwidth: Option<Field<u64>>,
    pub(super) description: Option<Field<Description>>,
}

impl PlanTable {
    fn read(t: Table<'_, '_>) -> Self {
        Self {
            here: t.here,
            name: t.required("name", values::name),
            bandwidth: t.required("bandwidth", values::rate),
            description: t.optional("description", values::description),
        }
    }
}

pub(super) struct EipTable {
    pub(super) here: Spot,
    pub(super) address: Option<Field<Ipv4Addr>>,
    pub(super) gateway: Option<Field<Name>>,
    pub(super) ping: Option<Field<bool>>,
    pub(super) bandwidth: Option<Field<u64>>,
    pub(super) plan: Option<Field<Name>>,
    pub(super) name: Option<Field<Name>>,
    pub(super) description: Option<Field<Description>>,
}

impl EipTable {
    fn read(t: Table<'_, '_>) -> Self {
        Self {
            here: t.here,
            address: t.required("address", values::address),
            gateway: t.optional("gateway", values::name),
            ping: t.optional("ping", values::boolean),
            bandwidth: t.optional("bandwidth", values::rate),
            plan: t.optional("plan", values::name),
            name: t.optional("name", values::name),
            description: t.optional("description", values::description),
        }
    }
}

pub(super) struct DnatTable {
    pub(super) here: Spot,
    pub(super) name: Option<Field<Name>>,
    pub(super) gateway: Option<Field<Name>>,
    pub(super) eip: Option<Field<Ipv4Addr>>,
    pub(super) public_port: Option<Field<Ports>>,
    pub(super) private_ip: Option<Field<Ipv4Addr>>,
    pub(super) private_port: Option<Field<Ports>>,
    pub(super) protocol: Option<Field<Option<Transport>>>,
    pub(super) timeouts: Option<TimeoutTable>,
    pub(super) description: Option<Field<Description>>,
}

impl DnatTable {
    fn read(t: Table<'_, '_>) -> Self {
        Self {
            here: t.here,
            name: t.optional("name", values::name),
            gateway: t.required("gateway", values::name),
            eip: t.required("eip", values::address),
            public_port: t.required("public_port", values::ports),
            private_ip: t.required("private_ip", values::address),
            private_port: t.required("private_port", values::ports),
            protocol: t.required("protocol", values::protocol),
            timeouts: t.table("timeouts", &known::TIMEOUT).map(TimeoutTable::read),
            description: t.optional("description", values::description),
        }
    }
}

pub(super) struct SnatTable {
    pub(super) here: Spot,
    pub(super) name: Option<Field<Name>>,
    pub(super) gateway: Option<Field<Name>>,
    pub(super) source: Option<Field<Source>>,
    pub(super) eips: Option<Vec<Field<Ipv4Addr>>>,
    pub(super) mapping: Option<Field<Mapping>>,
    pub(super) filtering: Option<Field<Filtering>>,
    pub(super) ports: Option<Field<PortRange>>,
    pub(super) port_blocks: Option<Field<u64>>,
    pub(super) blocks_per_host: Option<Field<u64>>,
    pub(super) deterministic: Option<Field<bool>>,
    pub(super) ftp: Option<Field<bool>>,
    pub(super) untranslated: Vec<Field<Prefix>>,
    pub(super) timeouts: Option<TimeoutTable>,
    pub(super) description: Option<Field<Description>>,
}

impl SnatTable {
    fn read(t: Table<'_, '_>) -> Self {
        Self {
            here: t.here,
            name: t.optional("name", values::name),
            gateway: t.required("gateway", values::name),
            source: t.required("source", values::source),
            eips: t.required_list("eips", values::address),
            mapping: t.optional("mapping", values::choice(&values::MAPPINGS)),
            filtering: t.optional("filtering", values::choice(&values::FILTERS)),
            ports: t.optional("ports", values::port_range),
            port_blocks: t.optional("port_blocks", values::count(BLOCK_SIZES.0, BLOCK_SIZES.1)),
            blocks_per_host: t
                .optional("blocks_per_host", values::count(BLOCKS_PER_HOST.0, BLOCKS_PER_HOST.1)),
            deterministic: t.optional("deterministic", values::boolean),
            ftp: t.optional("ftp", values::boolean),
            untranslated: t.list("untranslated", values::prefix).unwrap_or_default(),
            timeouts: t.table("timeouts", &known::TIMEOUT).map(TimeoutTable::read),
            description: t.optional("description", values::description),
        }
    }
}
