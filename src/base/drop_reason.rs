//! Why a frame is dropped. This one list is read by the engine, the counters, the metrics, the CLI and the
//! README.

use std::fmt;

macro_rules! reasons {
    ($($variant:ident $name:literal $text:literal;)*) => {
        /// The one reason for which a frame is dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $(#[doc = $text] $variant,)*
        }

        impl DropReason {
            /// Every reason, in the order of its counter.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)*];

            /// The name in metrics, JSON and the CLI.
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)* }
            }

            /// What it means, in a sentence for operators.
            pub const fn description(self) -> &'static str {
                match self { $(DropReason::$variant => $text,)* }
            }
        }
    };
}

reasons! {
    // Link layer.
    FrameTooShort "frame-too-short" "The frame ends before its headers do.";
    OtherStation "other-station" "The destination MAC address is another station's.";
    UnknownVlan "unknown-vlan" "No interface is configured for this VLAN (or for untagged frames) on this port.";
    EtherType "ether-type" "Neither IPv4 nor ARP: other protocols are not bridged.";
    ArpMalformed "arp-malformed" "The ARP packet has wrong types, lengths or addresses.";
    LinkBroadcast "link-broadcast" "An IPv4 packet to a unicast address arrived as link broadcast or multicast (RFC 1812 5.3.4).";
    // IPv4 header.
    IpVersion "ip-version" "The IP version is not 4.";
    IpHeaderLength "ip-header-length" "The IP header length is below 20 bytes or runs past the packet.";
    IpTotalLength "ip-total-length" "The IP total length is below the header or above the frame.";
    IpChecksum "ip-checksum" "The IP header checksum is wrong.";
    IpOptions "ip-options" "The IP options are malformed.";
    SourceRoute "source-route" "The packet carries a source route option (RFC 7126 4.3).";
    TtlZero "ttl-zero" "The packet arrived with a TTL of zero.";
    TtlExpired "ttl-expired" "The TTL ran out here; the sender is told by ICMP Time Exceeded.";
    MartianSource "martian-source" "The source address may not appear on a wire (RFC 1812 5.3.7).";
    MartianDestination "martian-destination" "The destination address may not be forwarded to (RFC 1812 5.3.7).";
    SpoofedSource "spoofed-source" "A private address of a VPC, or an own EIP, came as source from the outside.";
    SourceOutsideVpc "source-outside-vpc" "The source address does not belong to the VPC that the packet came from.";
    // Transport.
    TransportTruncated "transport-truncated" "The transport header is cut short.";
    TransportMalformed "transport-malformed" "The transport header contradicts itself or the IP header.";
    TransportChecksum "transport-checksum" "A checksum that had to be verified is wrong.";
    IcmpType "icmp-type" "An ICMP type that a NAT does not pass.";
    IcmpErrorMalformed "icmp-error-malformed" "An ICMP error whose quoted packet cannot be read.";
    IcmpErrorNoFlow "icmp-error-no-flow" "An ICMP error about a flow that is not known.";
    ProtocolUnsupported "protocol-unsupported" "A protocol without ports that only an any-port DNAT entry can carry.";
    // Fragments.
    FragmentTiny "fragment-tiny" "A fragment that would split the transport header (RFC 1858 3).";
    FragmentOverlap "fragment-overlap" "A fragment that overlaps another of its datagram (RFC 1858 4), runs past its end or past 65535 bytes, or is one of more than 64.";
    FragmentNoFirst "fragment-no-first" "A later fragment whose first fragment did not come in time.";
    FragmentTableFull "fragment-table-full" "A later fragment that waited for its first fragment and made room for another.";
    FtpFragment "ftp-fragment" "A fragment of what a client sends on an FTP control connection, whose lines are read only whole.";
    // Where to.
    NotOurs "not-ours" "The destination is no address of this gateway.";
    EipUnassigned "eip-unassigned" "The EIP has no entry that takes this packet.";
    NoMapping "no-mapping" "No mapping and no entry for this external address and port.";
    FlowConflict "flow-conflict" "The peer already speaks to this private endpoint by another DNAT entry, from the same port: the answers could not be told apart.";
    Filtered "filtered" "The mapping exists but its filter does not admit this peer.";
    NoSnatEntry "no-snat-entry" "No SNAT or any-port DNAT entry covers this private source.";
    NoRoute "no-route" "No route to the destination.";
    LocalUnserved "local-unserved" "Addressed to the gateway itself, which offers no such service.";
    HairpinLoop "hairpin-loop" "The packet would turn round inside the gateway more than once.";
    // Limits.
    SessionTableFull "session-table-full" "The worker's session table has no room.";
    SessionLimit "session-limit" "The gateway's specification allows no more SNAT sessions.";
    SessionRateLimit "session-rate-limit" "The gateway's specification allows no more new SNAT sessions this second.";
    HostQuota "host-quota" "The private host has as many sessions as its quota allows.";
    PortsExhausted "ports-exhausted" "No external port is free for this source.";
    Bandwidth "bandwidth" "The EIP's bandwidth limit is reached.";
    TcpNotSyn "tcp-not-syn" "A TCP segment without a session that does not open one.";
    UnsolicitedSyn "unsolicited-syn" "An unsolicited inbound SYN, held silently (RFC 5382 REQ-4).";
    SessionEnding "session-ending" "A segment of a TCP connection that was reset because its session was ended by request or by a change of its entry; its sender is told.";
    // Neighbours.
    NeighbourUnresolved "neighbour-unresolved" "The next hop did not answer ARP in time.";
    NeighbourQueueFull "neighbour-queue-full" "Too many packets wait for the next hop's MAC address.";
    NeighbourTableFull "neighbour-table-full" "No room for another neighbour.";
    // The way out.
    FragmentationNeeded "fragmentation-needed" "Larger than the way out allows, with DF set; the sender is told by ICMP.";
    TooLarge "too-large" "Larger than the way out allows, and it cannot be fragmented.";
    HandoffFull "handoff-full" "The ring to the worker that owns the session is full.";
    TransmitFull "transmit-full" "The port's transmit queue did not take the frame.";
    WorkerDied "worker-died" "The worker that had it died of a defect of natgate and was started anew.";
    NoBuffer "no-buffer" "No buffer was free for a frame of the gateway's own.";
}

impl DropReason {
    /// How many there are: the length of a counter array.
    pub const COUNT: usize = Self::ALL.len();

    /// The reason of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.name() == name)
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
