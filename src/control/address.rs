//! Addresses as people write them in filters and packet descriptions.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::policy::Prefix;

/// An IP protocol, written `tcp`, `udp`, `icmp` or as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP.
    pub const ICMP: Self = Self(1);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);

    /// Whether its packets have ports.
    pub const fn has_ports(self) -> bool {
        matches!(self, Self::TCP | Self::UDP)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ICMP => f.write_str("icmp"),
            Self::TCP => f.write_str("tcp"),
            Self::UDP => f.write_str("udp"),
            Self(number) => number.fmt(f),
        }
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "icmp" => Ok(Self::ICMP),
            "tcp" => Ok(Self::TCP),
            "udp" => Ok(Self::UDP),
            other => other.parse().map(Self).map_err(|_| {
                format!("\"{text}\" is no IP protocol: write tcp, udp, icmp or a number from 0 to 255")
            }),
        }
    }
}

impl From<Protocol> for String {
    fn from(protocol: Protocol) -> Self {
        protocol.to_string()
    }
}

impl TryFrom<String> for Protocol {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// A condition on an address and a port, written `ADDRESS[/LENGTH][:PORT]` or `:PORT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct AddressFilter {
    /// The addresses, or any.
    pub prefix: Option<Prefix>,
    /// The port (or ICMP identifier), or any.
    pub port: Option<u16>,
}

impl fmt::Display for AddressFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix {
            Some(prefix) if prefix.len() == 32 => Ipv4Addr::from(prefix.address()).fmt(f)?,
            Some(prefix) => prefix.fmt(f)?,
            None => {}
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl FromStr for AddressFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |rule: String| format!("\"{text}\": {rule}; write ADDRESS[/LENGTH][:PORT] or :PORT");
        let (address, port) = match text.split_once(':') {
            Some((address, port)) => (address, Some(parse_port(port).map_err(wrong)?)),
            None => (text, None),
        };
        let prefix = if address.is_empty() { None } else { Some(parse_prefix(address).map_err(wrong)?) };
        if prefix.is_none() && port.is_none() {
            return Err(wrong("neither an address nor a port is given".into()));
        }
        Ok(Self { prefix, port })
    }
}

impl From<AddressFilter> for String {
    fn from(filter: AddressFilter) -> Self {
        filter.to_string()
    }
}

impl TryFrom<String> for AddressFilter {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// The address and port of a packet, or of a session's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// The address.
    pub address: Ipv4Addr,
    /// The port, where the protocol has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.address),
            None => self.address.fmt(f),
        }
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, port) = match text.split_once(':') {
            Some((address, port)) => (address, Some(parse_port(port)?)),
            None => (text, None),
        };
        Ok(Self { address: parse_address(address)?, port })
    }
}

fn parse_address(text: &str) -> Result<Ipv4Addr, String> {
    text.parse().map_err(|_| format!("\"{text}\" is no IPv4 address"))
}

fn parse_port(text: &str) -> Result<u16, String> {
    // `u16::from_str` would take a sign.
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let port = digits.then(|| text.parse().ok()).flatten();
    port.ok_or_else(|| format!("port \"{text}\" is not a number from 0 to 65535"))
}

fn parse_prefix(text: &str) -> Result<Prefix, String> {
    let Some((address, len)) = text.split_once('/') else {
        return Ok(Prefix::host(parse_address(text)?.into()));
    };
    let address = u32::from(parse_address(address)?);
    let len = len.parse().ok().filter(|len| *len <= 32);
    let len = len.ok_or_else(|| format!("the prefix length of \"{text}\" is not a number from 0 to 32"))?;
    let prefix = Prefix::of(address, len);
    if prefix.address() == address {
        Ok(prefix)
    } else {
        Err(format!("\"{text}\" has bits behind its prefix length, {prefix} has not"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filter(text: &str) -> Result<AddressFilter, String> {
        text.parse()
    }

    #[test]
    fn filters_are_read() {
        let host = Prefix::host(0x0a00_0101);
        assert_eq!(filter("10.0.1.1").unwrap(), AddressFilter { prefix: Some(host), port: None });
        assert_eq!(filter("10.0.1.1:80").unwrap(), AddressFilter { prefix: Some(host), port: Some(80) });
        assert_eq!(filter(":80").unwrap(), AddressFilter { prefix: None, port: Some(80) });
        let net = Some(Prefix::of(0x0a00_0000, 8));
        assert_eq!(filter("10.0.0.0/8:53").unwrap(), AddressFilter { prefix: net, port: Some(53) });
    }

    #[test]
    fn wrong_filters_name_value_and_rule() {
        for (text, rule) in [
            ("", "neither an address nor a port"),
            ("10.0.0", "no IPv4 address"),
            ("10.0.0.1:", "port \"\""),
            ("10.0.0.1:+80", "port \"+80\""),
            ("10.0.0.1:65536", "port \"65536\""),
            ("10.0.0.1/33", "prefix length"),
            ("10.0.0.1/8", "10.0.0.0/8 has not"),
            ("::1", "port \":1\""),
        ] {
            let error = filter(text).unwrap_err();
            assert!(error.starts_with(&format!("\"{text}\": ")) && error.contains(rule), "{error}");
        }
    }

    #[test]
    fn protocols_are_read() {
        assert_eq!("TCP".parse(), Ok(Protocol::TCP));
        assert_eq!("47".parse(), Ok(Protocol(47)));
        assert!("tpc".parse::<Protocol>().unwrap_err().contains("\"tpc\""));
        assert!("256".parse::<Protocol>().is_err());
    }

    proptest! {
        #[test]
        fn a_filter_is_read_back_as_written(
            address: u32, len in 0u8..=32, with_prefix: bool, port: Option<u16>,
        ) {
            prop_assume!(with_prefix || port.is_some());
            let filter = AddressFilter { prefix: with_prefix.then(|| Prefix::of(address, len)), port };
            prop_assert_eq!(filter.to_string().parse(), Ok(filter));
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = text.parse::<AddressFilter>();
            let _ = text.parse::<Endpoint>();
            let _ = text.parse::<Protocol>();
        }
    }
}
