//! What is wrong with a configuration: every error at once, each with its place, its rule and a way out.

#![allow(rustdoc::broken_intra_doc_links, reason = "rules name tables of the file as they stand in it")]

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($variant:ident $rule:literal;)*) => {
        /// The rule that a configuration breaks. The names are stable: scripts may compare them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Code {
            $(#[doc = $rule] $variant,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Code] = &[$(Code::$variant,)*];

            /// Its name.
            pub const fn name(self) -> &'static str {
                match self { $(Code::$variant => stringify!($variant),)* }
            }

            /// The rule in a sentence.
            pub const fn rule(self) -> &'static str {
                match self { $(Code::$variant => $rule,)* }
            }
        }
    };
}

codes! {
    // The file as such.
    Unreadable "the file must be readable UTF-8 text";
    Syntax "the file must be valid TOML";
    UnknownKey "only keys of the configuration reference are known";
    MissingKey "the key is required";
    WrongType "the value has the wrong type";
    OutOfRange "the value is out of range";
    InvalidChoice "the value is none of those that the key takes";
    // Single values.
    InvalidName "a name has 2-128 characters (letters, digits, '.', '_', '-') and starts with a letter";
    InvalidDescription "a description has 2-256 characters and does not start with http:// or https://";
    InvalidAddress "the value must be a unicast IPv4 address";
    InvalidPrefix "the value must be an IPv4 prefix whose host bits are zero";
    InvalidMac "the value must be a unicast Ethernet address such as 02:00:00:00:00:01";
    InvalidDuration "the value must be a duration with units";
    InvalidCount "the value must be a number, or a number with a unit such as \"10k\" or \"1M\"";
    InvalidRate "the value must be a bit rate with its unit, such as \"100Mbps\"";
    InvalidPorts "the value must be a port from 1 to 65535, a range \"first/last\", or \"Any\"";
    InvalidPath "the value must be a usable path";
    InvalidListener "the value must be an IP address and a port to listen on";
    // Names that other parts refer to.
    DuplicateName "a name that others refer to must be unique";
    UnknownPort "the port must be one of the [[port]] tables";
    UnknownVpc "the VPC must be one of the [[vpc]] tables";
    UnknownVSwitch "the vSwitch must be one of the VPC's";
    UnknownPlan "the bandwidth plan must be one of the [[plan]] tables";
    UnknownGateway "the gateway must be one of the [[gateway]] tables";
    UnknownEip "the EIP must be one of the [[eip]] tables";
    StoreHasResources "with a [store], resources live there and not in the file";
    ApiNeedsKeys "who uses the API by TCP shows a key, and keys are kept in a [store]";
    ApiNeedsTls "the API speaks plain HTTP on loopback addresses only";
    InvalidTime "the value must be a time in UTC, as RFC 3339 writes it";
    SessionLogNowhere "a session log goes somewhere";
    SessionLogKeep "only an index is kept for some time";
    ApiTlsPair "a certificate and its key go together";
    // System and ports.
    NoPort "a gateway needs at least one [[port]]";
    TooMany "there are more of these than the engine can number";
    WorkersOrCores "give either the number of workers or their cores";
    DuplicateCore "a core runs one worker";
    BufferSize "a buffer size is a power of two from 2048 to 65536, and at most 4096 with an af_xdp port, 32768 with a dpdk port, 2048 with a capsule port";
    PortKeys "a port has a device, or with the back end pcap a capture to read or to write";
    PortPromiscuous "only a port of the back end dpdk can be promiscuous or not";
    PortShare "only a port of the back end af_xdp can be shared with the kernel";
    DpdkNotBuilt "this natgate was built without the back end dpdk";
    CapsuleNotBuilt "this natgate was built without the back end capsule";
    DpdkMixed "ports of the back ends dpdk or capsule and af_xdp cannot use the same packet buffers";
    CapsuleMixed "ports of the back ends capsule and dpdk cannot be in one gateway, for DPDK is started once";
    CapsuleRss "with the back end capsule a NIC distributes packets as capsule sets it up";
    DpdkArgument "an argument of DPDK's EAL starts with '-', has no blanks, and is none that natgate gives itself";
    DpdkUnused "the table [dpdk] goes with a port of the back end dpdk or capsule";
    DuplicateDevice "a device belongs to one port";
    DuplicateCapture "a capture is written by one port and not read by another";
    TimeoutOrder "an established TCP connection may not time out before one that is opening or closing";
    // Interfaces and routes.
    InterfaceConflict "a port carries one interface for each VLAN, and one for untagged frames";
    UnusableAddress "the network and broadcast addresses of a prefix are nobody's";
    OutsideOverlap "the prefixes of two outside interfaces may not overlap";
    NextHopNotOnLink "a next hop must lie on a link of the same side";
    NextHopIsOwn "a next hop may not be the gateway's own address";
    RouteConflict "a destination has one route";
    VpcDefaultRoute "a VPC has no default route: its way out is the NAT gateway";
    PublicRangeOverlap "public ranges may not overlap";
    PublicRangeInVpc "a public range may not share addresses with a VPC";
    VSwitchOutsideVpc "a vSwitch's CIDR lies in its VPC's";
    VSwitchOverlap "the CIDRs of two vSwitches of a VPC may not overlap";
    VSwitchAddress "the gateway's address lies in the vSwitch's CIDR";
    VSwitchLink "a vSwitch that is attached has both a port and an address";
    // Gateways and EIPs.
    SpecificationLimits "only PayByLcu has limits on request, up to 10000000 sessions and 1000000 new ones a second";
    QuotaGateways "the VPC has more gateways than its quota";
    QuotaEips "the gateway has more EIPs than its quota";
    QuotaDnat "the gateway has more DNAT entries than its quota";
    QuotaSnat "the gateway has more SNAT entries than its quota";
    EipDuplicate "an EIP is declared once";
    EipOutsideRanges "an EIP comes out of a public range";
    EipIsOwnAddress "an EIP may not be the gateway's own address or a next hop";
    EipLimits "an EIP has a bandwidth limit of its own or shares that of a plan";
    EipNotBound "an entry uses EIPs that are bound to its own gateway";
    // DNAT entries.
    DnatProtocol "protocol Any goes with port Any on both sides, TCP and UDP go with ports";
    DnatRangeLength "the public and the private range must have the same length";
    DnatPortConflict "(EIP, public port, protocol) is unique over all gateways, and ranges do not overlap";
    DnatAnyPortConflict "an EIP with an any-port DNAT entry serves no other entry";
    DnatPrivateConflict "(private IP, private port, protocol) is unique within a gateway";
    DnatPrivateOutsideVpc "the private IP lies in the CIDR of the gateway's VPC";
    DnatPrivateUnusable "the private IP is a host's: not the gateway's own, and no network or broadcast address";
    // SNAT entries.
    SnatSource "a source is a host or a CIDR, \"vswitch:NAME\", or \"vpc\"";
    SnatSourceOutsideVpc "the source lies in the CIDR of the gateway's VPC";
    SnatSourceConflict "two SNAT entries of a VPC may not have the same source";
    SnatPoolSize "a SNAT entry has 1 to 64 EIPs";
    SnatPoolDuplicate "a pool names each EIP once";
    SnatEips "SNAT pools have no more EIPs together than system.snat_eips";
    SnatFiltering "endpoint-dependent mapping goes with address-and-port-dependent filtering only";
    SnatFtp "the application-level gateway for FTP goes with endpoint-independent mapping only";
    SnatBlocks "port blocks go with endpoint-independent mapping, and at least one fits into the entry's ports";
    SnatDeterministic "with deterministic mapping each address of the source has a block of its own";
    SnatBlocksShared "an EIP whose ports are given out in blocks is in the pool of one SNAT entry only";
    // Requests to a running gateway.
    NotFound "the resource must exist";
    AmbiguousName "a name that stands for a resource must be that of one only";
    InUse "a resource that others use is not deleted";
    ReadOnly "the value does not change while the resource lives";
    InvalidTag "a resource has up to 20 tags; a key has 1-128 characters, a value up to 256";
    InvalidId "an identifier is a prefix such as eip- and 13 letters or digits that natgate gave";
    NoFreeAddress "a new EIP takes a free address of a public range";
    Unconfirmed "while an apply waits to be confirmed, nothing else is changed";
    NotUnconfirmed "only an apply that waits to be confirmed is confirmed or taken back";
    Outdated "what is applied is what was shown";
    BlockSessions "sessions of an entry whose ports are given out in blocks end when it changes or goes: they are neither kept nor drained";
    IdempotencyKey "an idempotency key has 1-128 visible characters and stands for one request";
    // A running gateway.
    RestartNeeded "this cannot change while natgate runs";
    DeletionProtected "a gateway with deletion protection is not removed";
    MtuAbovePort "an interface's MTU is at most what its port can carry";
    PortCount "the configuration must name as many ports as were opened";
    Exhausted "a process gives each number to one resource only, and they are used up";
}

/// The other side of a conflict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Conflict {
    /// Its key path.
    pub key: String,
    /// Its line in the file, from 1.
    pub line: Option<u32>,
    /// Its name, if it has one.
    pub name: Option<String>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Error {
    /// The rule's stable name.
    pub code: Code,
    /// The file.
    pub file: String,
    /// The line, from 1; none when the fault is that something is not there.
    pub line: Option<u32>,
    /// The key's path, such as `dnat[2].public_port` (positions count from 0).
    pub key: String,
    /// The value as it is written in the file.
    pub value: Option<String>,
    /// What the value has to satisfy.
    pub rule: String,
    /// With whom it conflicts.
    pub conflict: Option<Conflict>,
    /// What to do about it.
    pub hint: Option<String>,
}

impl fmt::Display for Error {
    /// As a compiler does: place first, then what and why, then what to do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        f.write_str(": ")?;
        if !self.key.is_empty() {
            f.write_str(&self.key)?;
            if let Some(value) = &self.value {
                write!(f, " = {value}")?;
            }
            f.write_str(": ")?;
        }
        write!(f, "{} [{}]", self.rule, self.code.name())?;
        if let Some(conflict) = &self.conflict {
            write!(f, "\n  conflicts with {}", conflict.key)?;
            if let Some(name) = &conflict.name {
                write!(f, " \"{name}\"")?;
            }
            if let Some(line) = conflict.line {
                write!(f, " at line {line}")?;
            }
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

/// All that is wrong, in the order of the file. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Errors(Vec<Error>);

impl Errors {
    /// The errors in the order of the file, or nothing if there is none.
    pub(super) fn of(mut errors: Vec<Error>) -> Result<(), Self> {
        if errors.is_empty() {
            return Ok(());
        }
        errors.sort_by_key(|e| e.line);
        Err(Self(errors))
    }

    /// Each of them.
    pub fn iter(&self) -> std::slice::Iter<'_, Error> {
        self.0.iter()
    }

    /// How many.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl From<Error> for Errors {
    fn from(error: Error) -> Self {
        Self(vec![error])
    }
}

impl<'a> IntoIterator for &'a Errors {
    type Item = &'a Error;
    type IntoIter = std::slice::Iter<'a, Error>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
impl std::error::Error for Errors {}
