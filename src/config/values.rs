//! Readers of single values: from TOML to a type that holds only what is allowed.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::DeValue;

use super::document::{Problem, kind_of};
use super::error::Code;
use super::model::{SegmentSize, Source, Specification, Transport};
use super::settings::Collector;
use super::units;
use super::words::{Description, Name, Vlan};
use crate::policy::{Filtering, Mapping, PortRange, Prefix, Timeouts};

type Read<T> = Result<T, Problem>;

/// Reads a value that is there as text.
pub(crate) fn read<T>(text: &str, reader: impl Fn(&DeValue<'_>) -> Read<T>) -> Read<T> {
    reader(&DeValue::String(text.into()))
}

/// The words for specifications.
pub(crate) const SPECIFICATIONS: [(&str, Specification); 6] = [
    ("Unlimited", Specification::Unlimited),
    ("Small", Specification::Small),
    ("Middle", Specification::Middle),
    ("Large", Specification::Large),
    ("XLarge.1", Specification::XLarge1),
    ("PayByLcu", Specification::PAY_BY_LCU),
];

/// The words for timeout profiles.
pub(crate) const PROFILES: [(&str, Timeouts); 2] = [("rfc", Timeouts::RFC), ("alibaba", Timeouts::ALIBABA)];

/// The words for mappings.
pub(crate) const MAPPINGS: [(&str, Mapping); 2] = [
    ("endpoint-independent", Mapping::EndpointIndependent),
    ("endpoint-dependent", Mapping::EndpointDependent),
];

/// The words for filters.
pub(crate) const FILTERS: [(&str, Filtering); 3] = [
    ("endpoint-independent", Filtering::EndpointIndependent),
    ("address-dependent", Filtering::AddressDependent),
    ("address-and-port-dependent", Filtering::AddressAndPortDependent),
];

/// The protocol of a DNAT entry; none: any.
pub(crate) fn protocol(value: &DeValue<'_>) -> Read<Option<Transport>> {
    const WORDS: [(&str, Option<Transport>); 3] =
        [("TCP", Some(Transport::Tcp)), ("UDP", Some(Transport::Udp)), ("Any", None)];
    let alike =
        value.as_str().and_then(|text| WORDS.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)));
    alike.map_or_else(|| choice(&WORDS)(value), |(_, word)| Ok(*word))
}

fn wrong_type(expected: &str, value: &DeValue<'_>) -> Problem {
    Problem::new(Code::WrongType).rule(format!("expected {expected}, found {}", kind_of(value)))
}

fn string<'v>(expected: &str, value: &'v DeValue<'_>) -> Read<&'v str> {
    value.as_str().ok_or_else(|| wrong_type(expected, value))
}

/// An integer, as wide as TOML's and signed.
fn integer(value: &DeValue<'_>) -> Option<i128> {
    let integer = value.as_integer()?;
    // A number that does not even fit here is out of every range.
    Some(i128::from_str_radix(integer.as_str(), integer.radix()).unwrap_or(i128::MAX))
}

fn between(code: Code, value: i128, least: u64, most: u64) -> Read<u64> {
    u64::try_from(value)
        .ok()
        .filter(|v| (least..=most).contains(v))
        .ok_or_else(|| Problem::new(code).rule(format!("the value must be from {least} to {most}")))
}

/// An integer within bounds.
pub(crate) fn number(least: u64, most: u64) -> impl Fn(&DeValue<'_>) -> Read<u64> {
    move |value| {
        let number = integer(value).ok_or_else(|| wrong_type("an integer", value))?;
        between(Code::OutOfRange, number, least, most)
    }
}

/// A number within bounds, with or without a decimal unit.
pub(crate) fn count(least: u64, most: u64) -> impl Fn(&DeValue<'_>) -> Read<u64> {
    move |value| {
        let number = match value.as_str() {
            Some(text) => units::count(text).ok_or_else(|| Problem::new(Code::InvalidCount))?.into(),
            None => integer(value).ok_or_else(|| wrong_type("a number", value))?,
        };
        between(Code::OutOfRange, number, least, most)
    }
}

/// A count, or `unlimited` for none.
pub(crate) fn count_or_unlimited(value: &DeValue<'_>) -> Read<Option<u32>> {
    if value.as_str() == Some("unlimited") {
        return Ok(None);
    }
    count(1, u64::from(u32::MAX))(value).map(|count| Some(count as u32))
}

pub(crate) fn boolean(value: &DeValue<'_>) -> Read<bool> {
    value.as_bool().ok_or_else(|| wrong_type("true or false", value))
}

/// One of several words.
pub(crate) fn choice<T: Copy>(words: &[(&str, T)]) -> impl Fn(&DeValue<'_>) -> Read<T> {
    move |value| {
        let text = string("a string", value)?;
        words.iter().find(|(word, _)| *word == text).map(|(_, choice)| *choice).ok_or_else(|| {
            let known: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            let alike = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
            let problem = Problem::new(Code::InvalidChoice)
                .rule(format!("the value must be one of {}", known.join(", ")));
            match alike {
                Some((word, _)) => problem.hint(format!("write \"{word}\"")),
                None => problem,
            }
        })
    }
}

pub(crate) fn name(value: &DeValue<'_>) -> Read<Name> {
    Name::new(string("a name", value)?).ok_or_else(|| Problem::new(Code::InvalidName))
}

pub(crate) fn description(value: &DeValue<'_>) -> Read<Description> {
    Description::new(string("a text", value)?).ok_or_else(|| Problem::new(Code::InvalidDescription))
}

/// Text that names a file or a device.
pub(crate) fn path(value: &DeValue<'_>) -> Read<String> {
    let text = string("a path", value)?;
    if text.is_empty() || text.contains('\0') {
        return Err(Problem::new(Code::InvalidPath).hint("a path is not empty and has no NUL"));
    }
    Ok(text.to_owned())
}

/// A path that a Unix socket can have (`sockaddr_un` holds 107 bytes and a NUL).
pub(crate) fn socket_path(value: &DeValue<'_>) -> Read<String> {
    let text = path(value)?;
    if text.len() > 107 {
        return Err(Problem::new(Code::InvalidPath).hint("the path of a Unix socket has at most 107 bytes"));
    }
    Ok(text)
}

/// An address and a TCP port to listen on.
pub(crate) fn listener(value: &DeValue<'_>) -> Read<SocketAddr> {
    let text = string("an address and a port", value)?;
    let address = text.parse::<SocketAddr>().ok().filter(|address| address.port() != 0);
    address.ok_or_else(|| {
        Problem::new(Code::InvalidListener).hint("such as \"127.0.0.1:8080\" or \"[::1]:8080\"")
    })
}

/// The address and the port of a collector of logs, and how it is reached.
pub(crate) fn collector(value: &DeValue<'_>) -> Read<Collector> {
    let text = string("an address and a port", value)?;
    let (transport, text) = match text.split_once("://") {
        None => (Some(Transport::Udp), text),
        Some(("udp", rest)) => (Some(Transport::Udp), rest),
        Some(("tcp", rest)) => (Some(Transport::Tcp), rest),
        Some((_, rest)) => (None, rest),
    };
    let address = text.parse::<SocketAddr>().ok();
    let address = address.filter(|address| address.port() != 0 && !address.ip().is_unspecified());
    match (address, transport) {
        (Some(address), Some(transport)) => Ok(Collector { address, transport }),
        _ => Err(Problem::new(Code::InvalidListener)
            .rule("the value must be an IP address and a port")
            .hint("such as \"192.0.2.1:514\" or \"tcp://[2001:db8::1]:4739\"")),
    }
}

/// A network device's name (`IFNAMSIZ` leaves 15 bytes).
pub(crate) fn device(value: &DeValue<'_>) -> Read<String> {
    let text = string("the name of a network device", value)?;
    let odd = |c: char| c.is_whitespace() || c == '/' || c == '\0';
    if text.is_empty() || text.len() > 15 || text.contains(odd) || text == "." || text == ".." {
        return Err(Problem::new(Code::InvalidPath)
            .rule("the value must be the name of a network device: 1 to 15 bytes, no blanks or slashes"));
    }
    Ok(text.to_owned())
}

/// A device as DPDK names it.
pub(crate) fn dpdk_device(value: &DeValue<'_>) -> Read<String> {
    let text = string("a device", value)?;
    let is_pci = matches!(text.len(), 7 | 12)
        && text.contains('.')
        && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b':' || b == b'.');
    let is_virtual = text.len() > 4 && text.starts_with("net_") && !text.contains('\0');
    if !is_pci && !is_virtual {
        return Err(Problem::new(Code::InvalidPath).rule(
            "the value must be a PCI address such as 0000:03:00.0 or a virtual device of DPDK such as \
             net_af_packet0,iface=eth0",
        ));
    }
    Ok(text.to_owned())
}

/// An argument of DPDK's EAL that natgate does not give itself.
pub(crate) fn dpdk_argument(value: &DeValue<'_>) -> Read<String> {
    /// By which natgate decides on cores, devices, memory and files, and the key to use instead.
    const OWN: [(&str, &str); 20] = [
        ("-l", "system.cores"),
        ("-c", "system.cores"),
        ("-S", "system.cores"),
        ("-s", "system.cores"),
        ("--lcores", "system.cores"),
        ("--main-lcore", "system.cores"),
        ("-a", "device of a [[port]]"),
        ("--allow", "device of a [[port]]"),
        ("-b", "device of a [[port]]"),
        ("--block", "device of a [[port]]"),
        ("--vdev", "device of a [[port]]"),
        ("--no-pci", "device of a [[port]]"),
        ("-m", "memory"),
        ("--no-huge", "hugepages"),
        ("--in-memory", "hugepages"),
        ("--telemetry", "telemetry"),
        ("--no-telemetry", "telemetry"),
        ("--proc-type", "nothing: natgate is a process of its own"),
        ("--no-shconf", "hugepages"),
        ("--file-prefix", "nothing: it is natgate"),
    ];
    let text = string("an argument", value)?;
    let name = text.split('=').next().unwrap_or_default();
    let own = OWN.iter().find(|(own, _)| {
        // A short option may have its value behind it.
        *own == name || own.len() == 2 && !name.starts_with("--") && name.starts_with(own)
    });
    if let Some((_, key)) = own {
        return Err(Problem::new(Code::DpdkArgument).hint(format!("use {key} instead")));
    }
    if !text.starts_with('-') || text.contains(|c: char| c.is_whitespace() || c == '\0') {
        return Err(Problem::new(Code::DpdkArgument)
            .hint("write an option with its value as one text, such as \"--iova-mode=va\""));
    }
    Ok(text.to_owned())
}

/// Whether an address may belong to a host (RFC 1122 §3.2.1.3, RFC 6890).
fn is_unicast(address: Ipv4Addr) -> bool {
    !(address.octets()[0] == 0 || address.is_loopback() || address.octets()[0] >= 224)
}

pub(crate) fn address(value: &DeValue<'_>) -> Read<Ipv4Addr> {
    let text = string("an address", value)?;
    let address: Ipv4Addr = text.parse().map_err(|_| {
        let problem = Problem::new(Code::InvalidAddress);
        if text.contains('/') { problem.hint("write the address without a prefix length") } else { problem }
    })?;
    if is_unicast(address) { Ok(address) } else { Err(Problem::new(Code::InvalidAddress)) }
}

fn split_prefix(text: &str) -> Option<(Ipv4Addr, u8)> {
    let (address, len) = text.split_once('/')?;
    let plain = !len.is_empty() && len.bytes().all(|b| b.is_ascii_digit());
    let len = len.parse().ok().filter(|len| plain && *len <= 32)?;
    Some((address.parse().ok()?, len))
}

/// Any prefix, written with its length and without host bits.
pub(crate) fn prefix(value: &DeValue<'_>) -> Read<Prefix> {
    let text = string("a prefix", value)?;
    let Some((address, len)) = split_prefix(text) else {
        let problem = Problem::new(Code::InvalidPrefix);
        return Err(match text.parse::<Ipv4Addr>() {
            Ok(_) => problem.hint(format!("write \"{text}/32\" for one address")),
            Err(_) => problem.hint("write it as \"10.0.0.0/16\""),
        });
    };
    let prefix = Prefix::of(address.into(), len);
    if prefix.address() != u32::from(address) {
        return Err(Problem::new(Code::InvalidPrefix).hint(format!("did you mean \"{prefix}\"?")));
    }
    Ok(prefix)
}

/// A prefix of addresses that hosts may have.
pub(crate) fn unicast_prefix(value: &DeValue<'_>) -> Read<Prefix> {
    let prefix = prefix(value)?;
    let special = [Prefix::of(0, 8), Prefix::of(0x7f00_0000, 8), Prefix::of(0xe000_0000, 3)];
    if special.iter().any(|s| s.covers(prefix) || prefix.covers(*s)) {
        return Err(Problem::new(Code::InvalidPrefix)
            .rule("the prefix must consist of unicast addresses: nothing of 0/8, 127/8, 224/3"));
    }
    Ok(prefix)
}

/// An interface's own address with the length of its on-link prefix.
pub(crate) fn interface_address(value: &DeValue<'_>) -> Read<(Ipv4Addr, Prefix)> {
    let text = string("an address with its prefix length", value)?;
    let problem = |hint: &str| Problem::new(Code::InvalidAddress).hint(hint);
    let (address, len) =
        split_prefix(text).ok_or_else(|| problem("write address and length, as in \"203.0.113.2/24\""))?;
    if !is_unicast(address) || len == 0 {
        return Err(problem("the interface needs a unicast address and a length from 1 to 32"));
    }
    Ok((address, Prefix::of(address.into(), len)))
}

pub(crate) fn vlan(value: &DeValue<'_>) -> Read<Vlan> {
    let id = number(1, 4094)(value)?;
    Vlan::new(id as u16).ok_or_else(|| Problem::new(Code::OutOfRange))
}

/// The largest TCP segment size, or `mtu` for what fits.
pub(crate) fn tcp_mss(value: &DeValue<'_>) -> Read<SegmentSize> {
    if value.as_str() == Some("mtu") {
        return Ok(SegmentSize::Mtu);
    }
    if value.as_str().is_some() {
        return Err(
            Problem::new(Code::InvalidChoice).rule("the value must be \"mtu\" or a number from 536 to 9176")
        );
    }
    number(536, 9176)(value).map(|bytes| SegmentSize::Bytes(bytes as u16))
}

pub(crate) fn mtu(value: &DeValue<'_>) -> Read<u16> {
    number(576, 9216)(value).map(|mtu| mtu as u16)
}

pub(crate) fn mac(value: &DeValue<'_>) -> Read<[u8; 6]> {
    let text = string("an Ethernet address", value)?;
    let octets: Option<Vec<u8>> = text
        .split(':')
        .map(|octet| if octet.len() == 2 { u8::from_str_radix(octet, 16).ok() } else { None })
        .collect();
    octets
        .and_then(|octets| <[u8; 6]>::try_from(octets).ok())
        .filter(|mac| mac[0] & 1 == 0 && *mac != [0; 6])
        .ok_or_else(|| Problem::new(Code::InvalidMac))
}

/// An idle timeout.
pub(crate) fn timeout(value: &DeValue<'_>) -> Read<Duration> {
    duration(
        value,
        "a timeout must be from 1s to 30d",
        Duration::from_secs(1)..=Duration::from_hours(30 * 24),
    )
}

/// How long something is kept.
pub(crate) fn retention(value: &DeValue<'_>) -> Read<Duration> {
    let most = Duration::from_hours(3660 * 24);
    duration(value, "the time must be from 1h to 3660d", Duration::from_hours(1)..=most)
}

fn duration(value: &DeValue<'_>, rule: &str, range: RangeInclusive<Duration>) -> Read<Duration> {
    let problem = Problem::new(Code::InvalidDuration);
    if let Some(number) = integer(value) {
        return Err(problem.hint(format!("a number alone has no unit: write \"{number}s\"")));
    }
    let text = string("a duration", value)?;
    let duration = units::duration(text).ok_or_else(|| {
        problem.hint("write whole numbers with units: \"5m\", \"2h4m\", \"90s\", \"500ms\"")
    })?;
    if range.contains(&duration) { Ok(duration) } else { Err(Problem::new(Code::OutOfRange).rule(rule)) }
}

/// A bit rate.
pub(crate) fn rate(value: &DeValue<'_>) -> Read<u64> {
    units::rate(string("a bit rate", value)?).ok_or_else(|| Problem::new(Code::InvalidRate))
}

/// Ports as a DNAT entry has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ports {
    Any,
    Range(PortRange),
}

impl Ports {
    /// Number of ports.
    pub(crate) fn len(range: PortRange) -> u32 {
        u32::from(range.last - range.first) + 1
    }
}

fn port(text: &str) -> Option<u16> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|port| plain && *port != 0)
}

pub(crate) fn ports(value: &DeValue<'_>) -> Read<Ports> {
    let one = |port: u16| Ports::Range(PortRange { first: port, last: port });
    if let Some(number) = integer(value) {
        let port = between(Code::InvalidPorts, number, 1, 65535)?;
        return Ok(one(port as u16));
    }
    let text = string("a port", value)?;
    if text.eq_ignore_ascii_case("any") {
        return Ok(Ports::Any);
    }
    if let Some(port) = port(text) {
        return Ok(one(port));
    }
    range(text).map(Ports::Range).ok_or_else(|| {
        let problem = Problem::new(Code::InvalidPorts);
        match text.split_once(['-', ':']).and_then(|(a, b)| Some((port(a.trim())?, port(b.trim())?))) {
            Some((first, last)) => problem.hint(format!("write \"{first}/{last}\"")),
            None => match text.split_once('/').and_then(|(a, b)| Some((port(a)?, port(b)?))) {
                Some((first, last)) => {
                    problem.hint(format!("the first port comes first: \"{last}/{first}\""))
                }
                None => problem,
            },
        }
    })
}

fn range(text: &str) -> Option<PortRange> {
    let (first, last) = text.split_once('/')?;
    let (first, last) = (port(first)?, port(last)?);
    (first <= last).then_some(PortRange { first, last })
}

/// A range of external ports.
pub(crate) fn port_range(value: &DeValue<'_>) -> Read<PortRange> {
    match ports(value)? {
        Ports::Range(range) => Ok(range),
        Ports::Any => Ok(PortRange::ALL),
    }
}

pub(crate) fn source(value: &DeValue<'_>) -> Read<Source> {
    let text = string("a source", value)?;
    if text == "vpc" {
        return Ok(Source::Vpc);
    }
    if let Some(name) = text.strip_prefix("vswitch:") {
        return Name::new(name).map(Source::VSwitch).ok_or_else(|| Problem::new(Code::InvalidName));
    }
    if let Ok(host) = text.parse() {
        return Ok(Source::Host(host));
    }
    if text.contains('/') {
        return prefix(value).map(Source::Cidr);
    }
    Err(Problem::new(Code::SnatSource))
}
