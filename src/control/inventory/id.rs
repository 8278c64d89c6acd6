//! Identifiers of resources: a prefix that says the kind, and 13 letters and digits that say which.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The kinds of resources, in the order in which they refer to each other: a resource refers to earlier kinds only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A private network.
    Vpc,
    /// A part of a private network.
    VSwitch,
    /// A NAT gateway.
    Gateway,
    /// A bandwidth limit that several EIPs share.
    Plan,
    /// An elastic IP.
    Eip,
    /// A DNAT entry.
    Dnat,
    /// A SNAT entry.
    Snat,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 7] =
        [Self::Vpc, Self::VSwitch, Self::Gateway, Self::Plan, Self::Eip, Self::Dnat, Self::Snat];

    /// The word for one of it.
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Vpc => "vpc",
            Self::VSwitch => "vswitch",
            Self::Gateway => "gateway",
            Self::Plan => "plan",
            Self::Eip => "eip",
            Self::Dnat => "dnat",
            Self::Snat => "snat",
        }
    }

    /// The kind of a word.
    pub fn of(noun: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.noun() == noun)
    }

    /// What its identifiers begin with.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Vpc => "vpc-",
            Self::VSwitch => "vsw-",
            Self::Gateway => "ngw-",
            Self::Plan => "bwp-",
            Self::Eip => "eip-",
            Self::Dnat => "fwd-",
            Self::Snat => "snat-",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.noun())
    }
}

/// A resource's identifier. It is never given to another resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    kind: Kind,
    number: u64,
}

/// Digits of a number in base 32, without those that look like others.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Digits of a 64-bit number.
const LEN: usize = 13;

impl Id {
    /// The identifier of a kind and a number.
    pub const fn new(kind: Kind, number: u64) -> Self {
        Self { kind, number }
    }

    /// Its kind.
    pub const fn kind(self) -> Kind {
        self.kind
    }

    /// The smallest identifier of a kind.
    pub const fn first(kind: Kind) -> Self {
        Self::new(kind, 0)
    }

    /// The largest identifier of a kind.
    pub const fn last(kind: Kind) -> Self {
        Self::new(kind, u64::MAX)
    }

    /// The letters and digits behind the prefix.
    pub fn suffix(self) -> String {
        let digits = (0..LEN).rev().map(|place| self.number >> (5 * place) & 31);
        digits.map(|digit| char::from(DIGITS[digit as usize])).collect()
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.kind.prefix(), self.suffix())
    }
}

/// The text is no identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no identifier")]
pub struct NoId;

impl FromStr for Id {
    type Err = NoId;

    fn from_str(text: &str) -> Result<Self, NoId> {
        let kind = Kind::ALL.into_iter().find(|kind| text.starts_with(kind.prefix())).ok_or(NoId)?;
        let digits = &text.as_bytes()[kind.prefix().len()..];
        if digits.len() != LEN {
            return Err(NoId);
        }
        let mut number = 0u64;
        for digit in digits {
            let value = DIGITS.iter().position(|known| known == digit).ok_or(NoId)? as u64;
            // Thirteen digits have one bit more than fits.
            if number >> 59 != 0 {
                return Err(NoId);
            }
            number = number << 5 | value;
        }
        Ok(Self { kind, number })
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|_| serde::de::Error::custom(format!("\"{text}\" is no identifier")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_identifier_is_read_back_as_written(kind in 0usize..7, number: u64) {
            let id = Id::new(Kind::ALL[kind], number);
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = text.parse::<Id>();
        }
    }

    #[test]
    fn only_identifiers_are_read() {
        for wrong in
            ["", "vpc-", "vpc-000000000000", "vpc-0000000000000l", "vpc-zzzzzzzzzzzzz", "vpx-0000000000000"]
        {
            assert!(wrong.parse::<Id>().is_err(), "{wrong}");
        }
        assert_eq!(Id::last(Kind::Gateway).to_string(), "ngw-fzzzzzzzzzzzz");
    }
}
