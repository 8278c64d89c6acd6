//! Packets described in words, for `explain`.
//!
//! ```text
//! tcp 10.0.1.10:40000 > 198.51.100.7:443 from vpc prod
//! udp 198.51.100.7:999 > 203.0.113.16:80
//! icmp 10.0.1.10 > 198.51.100.7 id 7
//! tcp 198.51.100.7:5000 > 203.0.113.16:80 flags ack length 1500
//! ```
//!
//! The side that a packet comes from is inferred from its source address unless `from` says it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::control::address::{Endpoint, Protocol};

/// The side that a described packet comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// The Internet side.
    Outside,
    /// A VPC, by name.
    Vpc(String),
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outside => f.write_str("outside"),
            Self::Vpc(name) => write!(f, "vpc {name}"),
        }
    }
}

/// TCP flags that make a difference to a NAT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TcpFlags {
    /// Opens a connection.
    pub syn: bool,
    /// Acknowledges.
    pub ack: bool,
    /// Closes one direction.
    pub fin: bool,
    /// Ends the connection.
    pub rst: bool,
}

impl TcpFlags {
    /// A connection's first segment.
    pub const SYN: Self = Self { syn: true, ack: false, fin: false, rst: false };

    /// The flags as the byte in the TCP header.
    pub const fn bits(self) -> u8 {
        self.fin as u8 | (self.syn as u8) << 1 | (self.rst as u8) << 2 | (self.ack as u8) << 4
    }
}

impl fmt::Display for TcpFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [(self.syn, "syn"), (self.ack, "ack"), (self.fin, "fin"), (self.rst, "rst")];
        let names: Vec<_> = all.iter().filter_map(|(set, name)| set.then_some(*name)).collect();
        f.write_str(if names.is_empty() { "none" } else { "" })?;
        f.write_str(&names.join(","))
    }
}

impl FromStr for TcpFlags {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut flags = Self::default();
        if text == "none" {
            return Ok(flags);
        }
        for name in text.split(',') {
            *match name {
                "syn" => &mut flags.syn,
                "ack" => &mut flags.ack,
                "fin" => &mut flags.fin,
                "rst" => &mut flags.rst,
                _ => {
                    return Err(format!(
                        "\"{name}\" is no TCP flag: write syn, ack, fin, rst (several with commas) or none"
                    ));
                }
            } = true;
        }
        Ok(flags)
    }
}

/// A packet in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PacketDescription {
    /// Its IP protocol.
    pub protocol: Protocol,
    /// Its source.
    pub source: Endpoint,
    /// Its destination.
    pub destination: Endpoint,
    /// Where it comes from, if said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Side>,
    /// TCP: its flags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flags: Option<TcpFlags>,
    /// ICMP: whether it is an echo reply instead of a request.
    #[serde(default)]
    pub reply: bool,
    /// ICMP: its identifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u16>,
    /// Length of the IP packet in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u16>,
    /// Its time to live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u8>,
    /// Whether it must not be fragmented.
    #[serde(default)]
    pub df: bool,
    /// Of a fragment: where in its datagram it lies, in bytes. Only the first one, at zero, has ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fragment: Option<u16>,
    /// Whether it is the last fragment of its datagram.
    #[serde(default)]
    pub last: bool,
    /// Its identification, by which fragments of a datagram are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identification: Option<u16>,
}

impl PacketDescription {
    /// What is wrong with it, if anything: also for descriptions that came as JSON.
    pub fn check(&self) -> Result<(), String> {
        let Self { protocol, source, destination, .. } = self;
        for (name, end) in [("source", source), ("destination", destination)] {
            match end.port {
                None if protocol.has_ports() => {
                    return Err(format!(
                        "{name} \"{end}\" has no port, which {protocol} needs: write {end}:PORT"
                    ));
                }
                Some(_) if !protocol.has_ports() => {
                    let id = if *protocol == Protocol::ICMP {
                        " (an echo's identifier is written id NUMBER)"
                    } else {
                        ""
                    };
                    return Err(format!(
                        "{name} \"{end}\" has a port, which protocol {protocol} does not know{id}"
                    ));
                }
                _ => {}
            }
        }
        let tcp = *protocol == Protocol::TCP;
        let icmp = *protocol == Protocol::ICMP;
        let shortest = match self.fragment {
            Some(1..) => 21,
            _ if tcp => 40,
            _ => 28,
        };
        match self {
            Self { flags: Some(flags), .. } if !tcp => {
                Err(format!("flags {flags} go with tcp only, not with {protocol}"))
            }
            Self { id: Some(id), .. } if !icmp => {
                Err(format!("id {id} goes with icmp only, not with {protocol}"))
            }
            Self { reply: true, .. } if !icmp => {
                Err(format!("reply goes with icmp only, not with {protocol}"))
            }
            Self { length: Some(length), .. } if *length < shortest => Err(format!(
                "length {length} is shorter than the headers of {protocol}: at least {shortest} bytes"
            )),
            Self { fragment: Some(_), df: true, .. } => {
                Err("a fragment may be fragmented: df does not go with it".into())
            }
            Self { fragment: Some(at), .. } if at % 8 != 0 => {
                Err(format!("fragment {at} is no place of a fragment: a multiple of 8 bytes"))
            }
            Self { fragment: None | Some(0), last: true, .. } => {
                Err("last goes with a fragment that is not the first: write fragment OFFSET last".into())
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for PacketDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} > {}", self.protocol, self.source, self.destination)?;
        if self.reply {
            f.write_str(" reply")?;
        }
        if let Some(from) = &self.from {
            write!(f, " from {from}")?;
        }
        if let Some(flags) = self.flags {
            write!(f, " flags {flags}")?;
        }
        if let Some(id) = self.id {
            write!(f, " id {id}")?;
        }
        if let Some(length) = self.length {
            write!(f, " length {length}")?;
        }
        if let Some(ttl) = self.ttl {
            write!(f, " ttl {ttl}")?;
        }
        if self.df {
            f.write_str(" df")?;
        }
        if let Some(fragment) = self.fragment {
            write!(f, " fragment {fragment}")?;
        }
        if self.last {
            f.write_str(" last")?;
        }
        if let Some(identification) = self.identification {
            write!(f, " identification {identification}")?;
        }
        Ok(())
    }
}

/// The form, for error messages.
const FORM: &str = "write PROTOCOL SOURCE > DESTINATION [reply] [from outside | from vpc NAME] [flags FLAGS] [id NUMBER] \
                    [length BYTES] [ttl NUMBER] [df] [fragment OFFSET [last]] [identification NUMBER], in quotes because of the >";

impl FromStr for PacketDescription {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text).map_err(|rule| format!("packet description \"{text}\": {rule}"))
    }
}

fn parse(text: &str) -> Result<PacketDescription, String> {
    // The arrow may stand without spaces, and as a word for those who dislike quotes.
    let spaced = text.replace("->", ">").replace('>', " > ");
    let mut words = spaced.split_whitespace();
    let mut next =
        |what: &str| words.next().ok_or_else(|| format!("it ends where {what} should stand; {FORM}"));

    let protocol: Protocol = next("the protocol")?.parse()?;
    let source = next("the source")?.parse().map_err(|rule| format!("source {rule}; {FORM}"))?;
    let arrow = next("\">\"")?;
    if !matches!(arrow, ">" | "to") {
        return Err(format!("\"{arrow}\" stands where \">\" should; {FORM}"));
    }
    let destination =
        next("the destination")?.parse().map_err(|rule| format!("destination {rule}; {FORM}"))?;
    let mut packet = PacketDescription {
        protocol,
        source,
        destination,
        from: None,
        flags: None,
        reply: false,
        id: None,
        length: None,
        ttl: None,
        df: false,
        fragment: None,
        last: false,
        identification: None,
    };
    while let Some(word) = words.next() {
        let repeated = match word {
            "from" => packet.from.is_some(),
            "flags" => packet.flags.is_some(),
            "reply" => packet.reply,
            "id" => packet.id.is_some(),
            "length" => packet.length.is_some(),
            "ttl" => packet.ttl.is_some(),
            "df" => packet.df,
            "fragment" => packet.fragment.is_some(),
            "last" => packet.last,
            "identification" => packet.identification.is_some(),
            _ => return Err(format!("\"{word}\" is not understood; {FORM}")),
        };
        if repeated {
            return Err(format!("\"{word}\" is said twice"));
        }
        let mut value = || words.next().ok_or_else(|| format!("the value of \"{word}\" is missing; {FORM}"));
        match word {
            "reply" => packet.reply = true,
            "df" => packet.df = true,
            "last" => packet.last = true,
            "flags" => packet.flags = Some(value()?.parse()?),
            "id" => packet.id = Some(number(word, value()?)?),
            "length" => packet.length = Some(number(word, value()?)?),
            "ttl" => packet.ttl = Some(number(word, value()?)?),
            "fragment" => packet.fragment = Some(number(word, value()?)?),
            "identification" => packet.identification = Some(number(word, value()?)?),
            _ => {
                packet.from = Some(match value()? {
                    "outside" => Side::Outside,
                    "vpc" => Side::Vpc(value()?.to_owned()),
                    other => {
                        return Err(format!(
                            "from \"{other}\" is no side: write from outside or from vpc NAME"
                        ));
                    }
                });
            }
        }
    }
    packet.check()?;
    Ok(packet)
}

fn number<T: FromStr>(word: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| {
        let most = (1u64 << (8 * size_of::<T>())) - 1;
        format!("{word} \"{value}\" is not a number from 0 to {most}")
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(text: &str) -> Result<PacketDescription, String> {
        text.parse()
    }

    #[test]
    fn descriptions_are_read() {
        let read = packet("tcp 10.0.1.10:40000 > 198.51.100.7:443 from vpc prod").unwrap();
        assert_eq!(read.protocol, Protocol::TCP);
        assert_eq!(read.source.to_string(), "10.0.1.10:40000");
        assert_eq!(read.destination.to_string(), "198.51.100.7:443");
        assert_eq!(read.from, Some(Side::Vpc("prod".into())));
        let read = packet("UDP 198.51.100.7:999->203.0.113.16:80 from outside ttl 1").unwrap();
        assert_eq!((read.protocol, read.ttl, read.from), (Protocol::UDP, Some(1), Some(Side::Outside)));
        let read = packet("icmp 10.0.1.10 to 198.51.100.7 reply id 7").unwrap();
        assert_eq!((read.id, read.reply), (Some(7), true));
        let read = packet("tcp 1.2.3.4:1>5.6.7.8:2 flags syn,ack length 1500").unwrap();
        assert_eq!(read.flags.unwrap().bits(), 0x12);
        let read = packet("udp 1.2.3.4:1 > 5.6.7.8:2 fragment 1480 length 30 last identification 9").unwrap();
        assert_eq!(
            (read.fragment, read.length, read.last, read.identification),
            (Some(1480), Some(30), true, Some(9))
        );
        assert_eq!(packet("47 10.0.1.10 > 198.51.100.7").unwrap().protocol, Protocol(47));
    }

    #[test]
    fn errors_name_the_description_the_value_and_the_rule() {
        let errors: Vec<_> = [
            "",
            "tpc 10.0.1.10:40000 > 198.51.100.7:443",
            "tcp 10.0.1.10:40000",
            "tcp 10.0.1.10:40000 198.51.100.7:443",
            "tcp 10.0.1.10 > 198.51.100.7:443",
            "tcp 10.0.1.10:70000 > 198.51.100.7:443",
            "tcp 10.0.1:1 > 198.51.100.7:443",
            "icmp 10.0.1.10:7 > 198.51.100.7",
            "udp 10.0.1.10:7 > 198.51.100.7:53 flags syn",
            "udp 10.0.1.10:7 > 198.51.100.7:53 id 7",
            "tcp 10.0.1.10:7 > 198.51.100.7:53 flags psh",
            "tcp 10.0.1.10:7 > 198.51.100.7:53 from inside",
            "tcp 10.0.1.10:7 > 198.51.100.7:53 from vpc",
            "tcp 10.0.1.10:7 > 198.51.100.7:53 ttl 256",
            "tcp 10.0.1.10:7 > 198.51.100.7:53 ttl 1 ttl 1",
            "tcp 10.0.1.10:7 > 198.51.100.7:53 length 39",
            "tcp 10.0.1.10:7 > 198.51.100.7:53 please",
            "tcp 10.0.1.10:7 > 198.51.100.7:53 fragment 12",
            "tcp 10.0.1.10:7 > 198.51.100.7:53 fragment 8 length 20",
            "tcp 10.0.1.10:7 > 198.51.100.7:53 fragment 0 last",
            "tcp 10.0.1.10:7 > 198.51.100.7:53 last",
        ]
        .iter()
        .map(|text| packet(text).unwrap_err())
        .collect();
        insta::assert_snapshot!(errors.join("\n"));
    }

    fn endpoint(ports: bool) -> impl Strategy<Value = Endpoint> {
        (any::<u32>(), any::<u16>()).prop_map(move |(address, port)| Endpoint {
            address: address.into(),
            port: ports.then_some(port),
        })
    }

    fn description() -> impl Strategy<Value = PacketDescription> {
        any::<u8>().prop_map(Protocol).prop_flat_map(|protocol| {
            let from = prop_oneof![
                Just(None),
                Just(Some(Side::Outside)),
                "[a-z][a-z0-9.-]{1,9}".prop_map(|name| Some(Side::Vpc(name))),
            ];
            let flags = any::<Option<[bool; 4]>>();
            let numbers = (
                any::<[bool; 2]>(),
                any::<Option<u16>>(),
                proptest::option::of(40u16..),
                any::<Option<u8>>(),
                any::<Option<(u8, bool)>>(),
            );
            (endpoint(protocol.has_ports()), endpoint(protocol.has_ports()), from, flags, numbers).prop_map(
                move |(source, destination, from, flags, ([reply, df], id, length, ttl, fragment))| {
                    let tcp = protocol == Protocol::TCP;
                    let icmp = protocol == Protocol::ICMP;
                    let flags = flags.map(|[syn, ack, fin, rst]| TcpFlags { syn, ack, fin, rst });
                    PacketDescription {
                        protocol,
                        source,
                        destination,
                        from,
                        flags: flags.filter(|_| tcp),
                        reply: reply && icmp,
                        id: id.filter(|_| icmp),
                        length,
                        ttl,
                        df: df && fragment.is_none(),
                        fragment: fragment.map(|(at, _)| u16::from(at) * 8),
                        last: fragment.is_some_and(|(at, last)| at > 0 && last),
                        identification: None,
                    }
                },
            )
        })
    }

    proptest! {
        #[test]
        fn a_description_is_read_back_as_written(packet in description()) {
            prop_assert_eq!(packet.to_string().parse(), Ok(packet.clone()));
            let json = serde_json::to_string(&packet).unwrap();
            prop_assert_eq!(serde_json::from_str::<PacketDescription>(&json).unwrap(), packet);
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = packet(&text);
        }

        #[test]
        fn no_words_panic(words in proptest::collection::vec(
            prop_oneof![
                Just("tcp".to_owned()), Just(">".into()), Just("1.2.3.4:5".into()), Just("from".into()),
                Just("vpc".into()), Just("flags".into()), Just("syn".into()), Just("ttl".into()), "\\PC{0,5}",
            ], 0..12))
        {
            let _ = packet(&words.join(" "));
        }
    }
}
