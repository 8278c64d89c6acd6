//! Every table and key of the file, in one place: the parser knows no other keys, and the README's configuration
//! reference is rendered from here.

use std::fmt::Write as _;

/// A table of the file.
#[derive(Debug)]
pub struct Section {
    /// Its path, such as `vpc.vswitch`.
    pub path: &'static str,
    /// How it is written, such as `[[vpc.vswitch]]`.
    pub header: &'static str,
    /// What it is.
    pub meaning: &'static str,
    /// Its keys.
    pub keys: &'static [Key],
}

/// A key of a table.
#[derive(Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What it takes.
    pub kind: &'static str,
    /// What holds when it is not there.
    pub default: &'static str,
    /// What it means.
    pub meaning: &'static str,
}

impl Section {
    /// Whether the table has this key.
    pub fn has(&self, name: &str) -> bool {
        self.keys.iter().any(|key| key.name == name)
    }
}

const REQUIRED: &str = "required";
const NONE: &str = "none";

const fn key(name: &'static str, kind: &'static str, default: &'static str, meaning: &'static str) -> Key {
    Key { name, kind, default, meaning }
}

const NAME: Key = key("name", "name", NONE, "Shown in listings; need not be unique.");
const UNIQUE_NAME: Key = key("name", "name", REQUIRED, "Unique; other tables refer to it.");
const DESCRIPTION: Key = key("description", "text", NONE, "For people.");
const PORT: Key = key("port", "port name", REQUIRED, "The port it is on.");
const VLAN: Key = key("vlan", "1-4094", "untagged", "The 802.1Q VLAN it has on the port.");
const MTU: Key = key("mtu", "576-9216", "the port's", "Largest IP packet, in bytes.");
const GATEWAY: Key = key("gateway", "gateway name", REQUIRED, "The gateway that the entry belongs to.");
const TIMEOUTS: Key =
    key("timeouts", "table", "`[timeouts]`", "Timeouts of this entry's sessions; the keys of `[timeouts]`.");

/// The file itself.
pub static ROOT: Section = Section {
    path: "",
    header: "the file",
    meaning: "The tables of the file.",
    keys: &[
        key("system", "table", "defaults", "Workers, memory, control socket."),
        key("timeouts", "table", "profile `rfc`", "How long sessions live without traffic."),
        key("quotas", "table", "defaults", "How many resources there may be."),
        key("store", "table", NONE, "Where resources are kept when requests change them."),
        key("api", "table", "defaults", "Where the HTTP API is served."),
        key("session_log", "table", NONE, "Where sessions are logged."),
        key("metering", "table", NONE, "Where it is kept what gateways and EIPs used."),
        key(
            "dpdk",
            "table",
            "defaults",
            "How DPDK is started, for ports of the back ends `dpdk` and `capsule`.",
        ),
        key("port", "tables", REQUIRED, "NIC ports."),
        key("outside", "tables", NONE, "Interfaces on the Internet side."),
        key("vpc", "tables", NONE, "Private networks."),
        key("gateway", "tables", NONE, "NAT gateways."),
        key("plan", "tables", NONE, "Bandwidth plans."),
        key("eip", "tables", NONE, "Elastic IPs."),
        key("dnat", "tables", NONE, "DNAT entries."),
        key("snat", "tables", NONE, "SNAT entries."),
    ],
};

/// `[system]`.
pub static SYSTEM: Section = Section {
    path: "system",
    header: "[system]",
    meaning: "What the process takes of the machine. A reload cannot change these keys, except `log`.",
    keys: &[
        key("workers", "1-256", "one per core, less the first", "Number of workers."),
        key(
            "cores",
            "list of core numbers",
            NONE,
            "Instead of `workers`: one worker on each of these cores.",
        ),
        key("sessions", "count, 1024 - 1G", "1048576", "Sessions that there is room for, over all workers."),
        key("neighbours", "count, 64 - 1M", "16384", "Neighbours (ARP) that each worker has room for."),
        key("snat_eips", "count, 16 - 1M", "1024", "EIPs in SNAT pools that each worker has room for."),
        key(
            "buffers",
            "count, 1024 - 16M",
            "as the ports need",
            "Packet buffers, over all ports and workers.",
        ),
        key(
            "buffer_size",
            "power of two, 2048-65536",
            "2048",
            "Bytes of a packet buffer; at most 4096 with `af_xdp`, 32768 with `dpdk`, 2048 with `capsule`.",
        ),
        key(
            "idle",
            "`poll` or `sleep`",
            "as the back ends need",
            "Whether a worker without traffic polls on or sleeps until a frame comes.",
        ),
        key(
            "worker_failure",
            "`restart` or `exit`",
            "`restart`",
            "What becomes of a worker that dies of a defect: it is started anew without its sessions (DNAT needs none), or natgate ends.",
        ),
        key("control", "path", "`/run/natgate/natgate.sock`", "The management socket."),
        key("log", "`error`, `warn`, `info`, `debug` or `trace`", "`info`", "What is logged."),
    ],
};

/// `[timeouts]`.
pub static TIMEOUT: Section = Section {
    path: "timeouts",
    header: "[timeouts]",
    meaning: "How long a session lives without traffic, from 1 s to 30 d. Also as `timeouts = { … }` in DNAT and SNAT entries, \
              where a profile replaces all values and a single key replaces one.",
    keys: &[
        key(
            "profile",
            "`rfc` or `alibaba`",
            "`rfc`",
            "The values of the keys below where they are not given: `rfc` 2h4m, 4m, 5m, 60s, 5m; `alibaba` 900s, 4m, 60s, 60s, 60s.",
        ),
        key("tcp_established", "duration", "2h4m", "Established TCP connections (RFC 5382 REQ-5)."),
        key(
            "tcp_transitory",
            "duration",
            "4m",
            "TCP connections that are opening, closing or were reset (RFC 5382 REQ-5).",
        ),
        key("udp", "duration", "5m", "UDP (RFC 4787 REQ-5)."),
        key("icmp", "duration", "60s", "ICMP queries (RFC 5508 REQ-2)."),
        key("other", "duration", "5m", "Other protocols through an any-port DNAT entry."),
        key(
            "tcp_reset",
            "boolean",
            "false",
            "Send both hosts a reset when an established TCP connection expires, so that neither waits for the other in vain.",
        ),
    ],
};

/// `[quotas]`.
pub static QUOTA: Section = Section {
    path: "quotas",
    header: "[quotas]",
    meaning: "How many resources the file may declare.",
    keys: &[
        key("dnat_entries_per_gateway", "count", "100", "DNAT entries of a gateway."),
        key("snat_entries_per_gateway", "count", "40", "SNAT entries of a gateway."),
        key("eips_per_gateway", "count", "20", "EIPs bound to a gateway."),
        key("gateways_per_vpc", "count", "5", "Gateways of a VPC."),
    ],
};

/// `[[port]]`.
pub static PORTS: Section = Section {
    path: "port",
    header: "[[port]]",
    meaning: "A NIC port. A reload cannot change ports.",
    keys: &[
        UNIQUE_NAME,
        key(
            "device",
            "network device",
            "required without `pcap`",
            "The device that the port takes; for `dpdk` and `capsule` a PCI address (`0000:03:00.0`) or a virtual device (`net_af_packet0,iface=eth0`).",
        ),
        key(
            "backend",
            "`auto`, `af_xdp`, `af_packet`, `dpdk`, `capsule` or `pcap`",
            "`auto`; `pcap` if a capture is given",
            "How frames are received and sent; `auto` takes the best of `af_xdp` and `af_packet` that works and says which. `dpdk` is in a natgate that was built with it, as is `capsule`, another way onto DPDK.",
        ),
        key("share", "boolean", "false", "`af_xdp` only: leave to the kernel what is not the gateway's."),
        key(
            "promiscuous",
            "boolean",
            "false",
            "`dpdk` only: have the NIC deliver frames to any Ethernet address and not only those to its own and to all, for a NIC whose filter lacks its own address. What is addressed to others is dropped and counted all the same.",
        ),
        key("replay", "path", NONE, "`pcap` only: the capture whose frames arrive on the port."),
        key("capture", "path", NONE, "`pcap` only: the capture that gets the frames that leave."),
        key(
            "mac",
            "Ethernet address",
            "02:6e:67:00:00:NN",
            "`pcap` only: the port's Ethernet address; NN is its position, from 1.",
        ),
    ],
};

/// `[dpdk]`.
pub static DPDK: Section = Section {
    path: "dpdk",
    header: "[dpdk]",
    meaning: "How DPDK is started, where a port has the back end `dpdk` or `capsule`. A reload cannot change it.",
    keys: &[
        key(
            "hugepages",
            "`auto`, `require` or `off`",
            "`auto`",
            "Whether its memory is made of huge pages; `auto` takes ordinary ones, and says so, where too few are free.",
        ),
        key("memory", "MiB, 32-1048576", "as the buffers need", "Memory that it takes."),
        key(
            "telemetry",
            "boolean",
            "false",
            "Open DPDK's telemetry socket, for `dpdk-telemetry.py -f natgate`.",
        ),
        key(
            "rss",
            "`owner` or `flow`",
            "`owner`",
            "How NICs distribute what comes from the Internet over several workers: `owner` brings each packet to the worker that owns its external port, so that none is handed over; `flow` spreads flows, also those to one DNAT port, and SNAT ports are chosen so that a mapping's first peer answers to its owner.",
        ),
        key("arguments", "list of texts", NONE, "Further arguments of DPDK's EAL, such as `--iova-mode=va`."),
    ],
};

/// `[[outside]]`.
pub static OUTSIDE: Section = Section {
    path: "outside",
    header: "[[outside]]",
    meaning: "An interface on the Internet side.",
    keys: &[
        PORT,
        VLAN,
        key("address", "address/length", REQUIRED, "The gateway's own address and the on-link prefix."),
        key("gateway", "address", NONE, "Next hop of the default route."),
        key("routes", "list of `{ to, via }`", NONE, "Further routes."),
        MTU,
        key(
            "tcp_mss",
            "`\"mtu\"` or 536-9176",
            "off",
            "The largest segment size that TCP connections across it may announce: larger ones in SYN segments of both directions are \
             lowered. `mtu`: what fits into the MTU of the way.",
        ),
        key(
            "public",
            "list of prefixes",
            NONE,
            "Ranges from which EIPs come, on this link or routed to `address`.",
        ),
    ],
};

/// An element of `routes`.
pub static ROUTE: Section = Section {
    path: "routes",
    header: "routes = [{ … }]",
    meaning: "A route of an outside interface or of a VPC.",
    keys: &[
        key("to", "prefix", REQUIRED, "The destinations."),
        key(
            "via",
            "address",
            REQUIRED,
            "The next hop: on the outside interface's link, or in an attached vSwitch of the VPC.",
        ),
    ],
};

/// `[store]`.
pub static STORE: Section = Section {
    path: "store",
    header: "[store]",
    meaning: "With this table VPCs, gateways, EIPs and entries live in a store, which requests change while natgate runs, and the file may not declare any. A reload cannot change it.",
    keys: &[key(
        "path",
        "path",
        "`/var/lib/natgate/natgate.redb`",
        "The file of the store; made where there is none.",
    )],
};

/// `[api]`.
pub static API: Section = Section {
    path: "api",
    header: "[api]",
    meaning: "Where the HTTP API is served. A reload cannot change it.",
    keys: &[
        key(
            "socket",
            "path",
            "`api.sock` beside `system.control`",
            "A Unix socket for root and the user that natgate runs as.",
        ),
        key(
            "listen",
            "address:port",
            NONE,
            "A TCP listener for whoever shows a key (`natgate key create`); without TLS on a loopback address only.",
        ),
        key("tls_certificate", "path", NONE, "The certificate chain of `listen`, as PEM."),
        key("tls_key", "path", NONE, "The private key of the certificate, as PEM."),
    ],
};

/// `[metering]`.
pub static METERING: Section = Section {
    path: "metering",
    header: "[metering]",
    meaning: "With this table it is kept what gateways and EIPs used, hour by hour. A reload cannot change it.",
    keys: &[
        key(
            "path",
            "path",
            "`/var/lib/natgate/metering`",
            "The directory of its files; made where there is none.",
        ),
        key("keep", "duration", "`400d`", "How long the files of a month are kept after its end."),
    ],
};

/// `[session_log]`.
pub static SESSION_LOG: Section = Section {
    path: "session_log",
    header: "[session_log]",
    meaning: "Where sessions are logged, those of DNAT entries too: at least one place. A reload cannot change it.",
    keys: &[
        key("file", "path", NONE, "JSON lines; the file is opened anew when it was moved away or removed."),
        key(
            "syslog",
            "address:port",
            NONE,
            "A syslog server (RFC 5424), by UDP, or as `tcp://address:port` by TCP with octet counting (RFC 6587).",
        ),
        key(
            "ipfix",
            "address:port",
            NONE,
            "An IPFIX collector (RFC 7011, events of RFC 8158), by UDP, or as `tcp://address:port` by TCP.",
        ),
        key("index", "path", NONE, "A directory for what `natgate who` looks in."),
        key("keep", "duration", "`30d`", "How long the index remembers."),
        key(
            "events",
            "count",
            "`65536`",
            "Events of a worker that may wait to be written; more are lost, and counted in the log.",
        ),
    ],
};

/// `[[vpc]]`.
pub static VPC: Section = Section {
    path: "vpc",
    header: "[[vpc]]",
    meaning: "A private network. Two VPCs may use the same addresses.",
    keys: &[
        UNIQUE_NAME,
        key("cidr", "prefix", REQUIRED, "Its addresses: no other source may come from it."),
        DESCRIPTION,
        key("routes", "list of `{ to, via }`", NONE, "Networks behind routers of the VPC."),
        key("vswitch", "tables", NONE, "Its vSwitches."),
    ],
};

/// `[[vpc.vswitch]]`.
pub static VSWITCH: Section = Section {
    path: "vpc.vswitch",
    header: "[[vpc.vswitch]]",
    meaning: "A part of the VPC above it. Without `port` and `address` it is not attached, and is reached by a route of the VPC.",
    keys: &[
        key("name", "name", REQUIRED, "Unique in its VPC; other tables refer to it."),
        key("cidr", "prefix", REQUIRED, "Its addresses, inside the VPC's."),
        DESCRIPTION,
        key("port", "port name", NONE, "The port it is attached to."),
        VLAN,
        key("address", "address", "required with `port`", "The gateway's own address in it."),
        MTU,
    ],
};

/// `[[gateway]]`.
pub static GATEWAYS: Section = Section {
    path: "gateway",
    header: "[[gateway]]",
    meaning: "A NAT gateway.",
    keys: &[
        UNIQUE_NAME,
        key("vpc", "VPC name", REQUIRED, "Its VPC."),
        key("vswitch", "vSwitch name", REQUIRED, "Its vSwitch."),
        key(
            "specification",
            "`Unlimited`, `Small`, `Middle`, `Large`, `XLarge.1` or `PayByLcu`",
            "`Unlimited`",
            "Limits SNAT sessions and new ones a second: 10k/1k, 50k/5k, 200k/10k, 1M/50k, 2M/100k.",
        ),
        key("sessions", "count, up to 10M", "2M", "`PayByLcu` only: sessions on request."),
        key(
            "new_sessions_per_second",
            "count, up to 1M",
            "100k",
            "`PayByLcu` only: new sessions a second on request.",
        ),
        key(
            "host_sessions",
            "count or `unlimited`",
            "100k",
            "SNAT sessions that one private host may have (RFC 6888 REQ-4).",
        ),
        key("deletion_protection", "boolean", "false", "A reload whose file lacks the gateway is refused."),
        DESCRIPTION,
    ],
};

/// `[[plan]]`.
pub static PLAN: Section = Section {
    path: "plan",
    header: "[[plan]]",
    meaning: "A bandwidth plan: a limit that several EIPs share.",
    keys: &[
        key("name", "name", REQUIRED, "Unique; EIPs refer to it."),
        key(
            "bandwidth",
            "bit rate",
            REQUIRED,
            "What passes by all of its EIPs together in each direction, over all workers; bursts of 0.1 s are let through.",
        ),
        DESCRIPTION,
    ],
};

/// `[[eip]]`.
pub static EIP: Section = Section {
    path: "eip",
    header: "[[eip]]",
    meaning: "An elastic IP.",
    keys: &[
        key("address", "address", REQUIRED, "The public address, out of a public range."),
        key("gateway", "gateway name", "not bound", "The gateway it is bound to."),
        key("ping", "boolean", "true", "Answer echo requests to it where no any-port entry takes them."),
        key(
            "bandwidth",
            "bit rate",
            NONE,
            "What passes by it in each direction, over all workers; bursts of 0.1 s are let through.",
        ),
        key("plan", "plan name", NONE, "Instead of `bandwidth`: the plan whose limit it shares."),
        NAME,
        DESCRIPTION,
    ],
};

/// `[[dnat]]`.
pub static DNAT: Section = Section {
    path: "dnat",
    header: "[[dnat]]",
    meaning: "A DNAT entry: a public port, range or whole EIP that leads to a private host.",
    keys: &[
        NAME,
        GATEWAY,
        key("eip", "address", REQUIRED, "The EIP, bound to this gateway."),
        key(
            "public_port",
            "port, `\"first/last\"` or `\"Any\"`",
            REQUIRED,
            "The public port or ports; `Any` maps the whole address.",
        ),
        key("private_ip", "address", REQUIRED, "The private host, in the VPC's CIDR."),
        key(
            "private_port",
            "port, `\"first/last\"` or `\"Any\"`",
            REQUIRED,
            "The private port or ports, as many as public ones.",
        ),
        key("protocol", "`TCP`, `UDP` or `Any`", REQUIRED, "`Any` goes with port `Any`."),
        TIMEOUTS,
        DESCRIPTION,
    ],
};

/// `[[snat]]`.
pub static SNAT: Section = Section {
    path: "snat",
    header: "[[snat]]",
    meaning: "An SNAT entry: private sources and the EIPs that they leave with. The most specific source wins.",
    keys: &[
        NAME,
        GATEWAY,
        key(
            "source",
            "address, prefix, `vswitch:NAME` or `vpc`",
            REQUIRED,
            "Whose packets it translates; unique in the VPC.",
        ),
        key(
            "eips",
            "list of 1-64 addresses",
            REQUIRED,
            "The EIPs, bound to this gateway. A host keeps to one while it has sessions.",
        ),
        key(
            "mapping",
            "`endpoint-independent` or `endpoint-dependent`",
            "`endpoint-independent`",
            "One external port for all peers, or one for each (RFC 4787 REQ-1).",
        ),
        key(
            "filtering",
            "`endpoint-independent`, `address-dependent` or `address-and-port-dependent`",
            "as `mapping`",
            "Which peers may send to a mapping (RFC 4787 REQ-8); endpoint-dependent mapping takes only the last.",
        ),
        key("ports", "`\"first/last\"`", "`\"1/65535\"`", "External ports that it may use."),
        key(
            "port_blocks",
            "count, 64-32768",
            NONE,
            "Each private host gets blocks of so many neighbouring ports and keeps them while it has sessions (RFC 6888 §4); the session \
             log tells of the blocks instead of the sessions. Its EIPs serve no other SNAT entry.",
        ),
        key("blocks_per_host", "1-16", "4", "With `port_blocks`: blocks that one private host may have."),
        key(
            "deterministic",
            "boolean",
            "false",
            "With `port_blocks`: each address of the source has one block, computed from the address (RFC 7422), so that no log is \
             needed; `natgate who` computes it back.",
        ),
        key(
            "ftp",
            "boolean",
            "false",
            "The application-level gateway for FTP in active mode: `PORT` and `EPRT` of private clients to port 21 announce the EIP, and the \
             server may connect (RFC 959, RFC 2428). Goes with endpoint-independent mapping.",
        ),
        key(
            "untranslated",
            "list of prefixes",
            NONE,
            "Destinations that it does not translate (RFC 6888 REQ-6).",
        ),
        TIMEOUTS,
        DESCRIPTION,
    ],
};

/// All tables, in the order of the reference.
pub static SECTIONS: [&Section; 19] = [
    &ROOT,
    &SYSTEM,
    &TIMEOUT,
    &QUOTA,
    &STORE,
    &API,
    &SESSION_LOG,
    &METERING,
    &DPDK,
    &PORTS,
    &OUTSIDE,
    &ROUTE,
    &VPC,
    &VSWITCH,
    &GATEWAYS,
    &PLAN,
    &EIP,
    &DNAT,
    &SNAT,
];

/// The reference as it stands in the README.
pub fn markdown() -> String {
    let mut text = String::new();
    for section in SECTIONS {
        // Writing to a String cannot fail.
        let _ = write!(text, "#### `{}`\n\n{}\n\n", section.header.trim_matches('`'), section.meaning);
        text.push_str("| key | takes | default | meaning |\n| --- | --- | --- | --- |\n");
        for key in section.keys {
            let _ = writeln!(text, "| `{}` | {} | {} | {} |", key.name, key.kind, key.default, key.meaning);
        }
        text.push('\n');
    }
    text.push_str(NOTATION);
    text
}

const NOTATION: &str = "\
A *name* has 2-128 characters (letters, digits, `.`, `_`, `-`) and starts with a letter; a *text* has 2-256 characters. A \
*duration* is written with units (`\"5m\"`, `\"2h4m\"`, `\"500ms\"`), a *count* as a number or with a decimal unit (`\"10k\"`, `\"1M\"`), a \
*bit rate* as `\"100Mbps\"`. Unknown keys are errors.
";
