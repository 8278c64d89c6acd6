//! What is sent for each row, and what has to come.

mod arp;
mod dnat;
mod fragments;
mod hairpin;
mod icmp;
mod ip;
mod link;
mod prelude;
mod security;
mod tcp;
mod timeouts;
mod udp;

use super::net::{Net, Verdict};

/// A row that can be measured.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// Its identifier in the list.
    pub id: &'static str,
    /// Whether it needs timeouts of a few seconds.
    pub is_short: bool,
    /// Measures it: what was seen, or what was seen instead.
    pub measure: fn(&mut Net) -> Verdict,
}

impl Check {
    const fn new(id: &'static str, measure: fn(&mut Net) -> Verdict) -> Self {
        Self { id, is_short: false, measure }
    }

    const fn short(id: &'static str, measure: fn(&mut Net) -> Verdict) -> Self {
        Self { id, is_short: true, measure }
    }

    /// Whether it is to be measured in this variant; `only` holds beginnings of identifiers, in any case.
    pub fn is_asked(&self, is_short: bool, only: &[String]) -> bool {
        let begins = |only: &String| self.id.starts_with(&only.to_uppercase());
        self.is_short == is_short && (only.is_empty() || only.iter().any(begins))
    }
}

/// All of them, in the order in which they are measured.
pub fn all() -> impl Iterator<Item = &'static Check> {
    [
        arp::ROWS,
        link::ROWS,
        ip::ROWS,
        security::ROWS,
        udp::ROWS,
        tcp::ROWS,
        dnat::ROWS,
        hairpin::ROWS,
        icmp::ROWS,
        fragments::ROWS,
        timeouts::ROWS,
    ]
    .into_iter()
    .flatten()
}
