//! The kinds of traffic that can be measured.

/// A kind of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// UDP from the outside to any-port DNAT entries.
    DnatAny,
    /// UDP from the outside to DNAT entries by port.
    DnatPort,
    /// UDP from private hosts, half of it, and the peers' answers.
    Snat,
    /// UDP from private hosts, each packet the first of its session.
    NewSession,
    /// As [`Snat`](Self::Snat), with frames of 60, 590 and 1514 bytes as 7 : 4 : 1.
    Imix,
    /// UDP from private hosts to an EIP of the same gateway.
    Hairpin,
    /// ICMP echo requests of private hosts, and the answers.
    Icmp,
}

impl Scenario {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::DnatAny, Self::DnatPort, Self::Snat, Self::NewSession, Self::Imix, Self::Hairpin, Self::Icmp];

    /// Its name on the command line and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DnatAny => "dnat-any",
            Self::DnatPort => "dnat-port",
            Self::Snat => "snat",
            Self::NewSession => "new-session",
            Self::Imix => "imix",
            Self::Hairpin => "hairpin",
            Self::Icmp => "icmp",
        }
    }
}

impl std::str::FromStr for Scenario {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|scenario| scenario.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("no scenario is called `{name}`; there are {names}")
        })
    }
}
