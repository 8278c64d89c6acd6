//! Measures a gateway against what each packet is owed (the list is `rows.txt`): black box, by frames on two cables, whatever
//! the gateway is. natgate itself and the kernel's NAT can be measured.
//!
//! Rows that need hours, faults or the gateway's inside are not here: `cargo test --test conformance` has them all.
//!
//! | module | what it is |
//! | --- | --- |
//! | `lab` | the namespaces and the gateway in them |
//! | `net` | the hosts on both sides |
//! | `packet` | the packets that they write and read |
//! | `rows` | a function for each row |

mod lab;
mod net;
mod packet;
mod rows;

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGINT, SIGTERM};

use lab::{Lab, Place};
use net::Net;

/// All rows: id, level, clause, requirement.
const ROWS: &str = include_str!("rows.txt");

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gateway {
    /// This program.
    Natgate,
    /// The kernel's NAT, set up by nftables.
    Nftables,
}

impl Gateway {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Natgate => "natgate",
            Self::Nftables => "nftables",
        }
    }
}

/// How the gateway is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// With its own timeouts.
    Usual,
    /// With timeouts of a few seconds.
    Short,
}

/// The process in the namespace of hosts and peers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Inside {
    gateway: Gateway,
    is_short: bool,
    namespace: String,
    directory: std::path::PathBuf,
    only: Vec<String>,
}

/// Why a measurement did not come about.
#[derive(Debug, thiserror::Error)]
#[error("{action}: {error}")]
pub struct Failure {
    action: String,
    error: io::Error,
}

impl Failure {
    fn new(action: impl Into<String>, error: io::Error) -> Self {
        Self { action: action.into(), error }
    }
}

/// A row as the list has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Its identifier.
    pub id: &'static str,
    /// MUST, SHOULD or MAY (RFC 2119).
    pub level: &'static str,
    /// Where it comes from.
    pub clause: &'static str,
    /// What a packet is owed.
    pub requirement: &'static str,
}

impl Row {
    /// All rows, in the order of the list.
    pub fn all() -> Vec<Self> {
        let read = |line: &'static str| match line.split(" | ").collect::<Vec<_>>()[..] {
            [id, level, clause, requirement] => Some(Self { id, level, clause, requirement }),
            _ => None,
        };
        ROWS.lines().filter_map(read).collect()
    }

    /// Those that can be measured from without.
    pub fn measured() -> Vec<Self> {
        let known: Vec<_> = rows::all().map(|row| row.id).collect();
        Self::all().into_iter().filter(|row| known.contains(&row.id)).collect()
    }
}

/// What came out for a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The row.
    pub id: String,
    /// Whether the gateway does what the packet is owed.
    pub passed: bool,
    /// What was seen.
    pub evidence: String,
}

/// Measures the rows whose identifiers begin with one of `only` (all if there are none), and gives each outcome to `each`.
///
/// # Errors
/// There is no privilege, the namespaces cannot be made, or the gateway does not start.
pub fn run(gateway: Gateway, only: &[String], mut each: impl FnMut(Outcome)) -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::new(
            "making network namespaces",
            io::Error::new(io::ErrorKind::PermissionDenied, "only root may: run it with sudo"),
        ));
    }
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The namespaces are removed, also where the user has had enough.
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|error| Failure::new("catching signals", error))?;
    }
    for is_short in [false, true] {
        if rows::all().any(|row| row.is_asked(is_short, only)) {
            let lab = Lab::new()?;
            let inside = Inside {
                gateway,
                is_short,
                namespace: lab.gateway(),
                directory: lab.directory().to_owned(),
                only: only.to_vec(),
            };
            measure(&lab, &inside, &stop, &mut each)?;
        }
    }
    Ok(())
}

/// Has another process measure in the namespace of hosts and peers, and reads what it says, an outcome a line.
fn measure(
    lab: &Lab,
    inside: &Inside,
    stop: &AtomicBool,
    each: &mut impl FnMut(Outcome),
) -> Result<(), Failure> {
    let failed = |error| Failure::new("measuring", error);
    let binary = std::env::current_exe().map_err(|error| Failure::new("finding this program", error))?;
    let order = serde_json::to_string(inside).map_err(|error| failed(error.into()))?;
    let mut process = Command::new("ip")
        .args(["netns", "exec", &lab.probe()])
        .arg(binary)
        .args(["conformance", "--inside", &order])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut read = || -> io::Result<()> {
        for line in process.stdout.take().map(BufReader::new).into_iter().flat_map(BufRead::lines) {
            if stop.load(Ordering::Relaxed) {
                return Err(io::Error::new(io::ErrorKind::Interrupted, "stopped by a signal"));
            }
            each(serde_json::from_str(&line?)?);
        }
        Ok(())
    };
    let read = read();
    if read.is_err() {
        let _ = process.kill();
    }
    let status = process.wait().map_err(failed)?;
    read.map_err(failed)?;
    if status.success() { Ok(()) } else { Err(failed(io::Error::other(format!("it ended: {status}")))) }
}

/// Measures, in the namespace of hosts and peers, and writes an outcome a line.
///
/// # Errors
/// The gateway does not start or does not work at all.
pub fn run_inside(order: &str, out: &mut dyn Write) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::new("measuring", error);
    let inside: Inside = serde_json::from_str(order).map_err(|error| failed(error.into()))?;
    let variant = if inside.is_short { Variant::Short } else { Variant::Usual };
    let place = Place { namespace: inside.namespace.clone(), directory: inside.directory.clone() };
    let mut net = Net::start(inside.gateway, variant, &place)?;
    for row in rows::all().filter(|row| row.is_asked(inside.is_short, &inside.only)) {
        let mut measure = || {
            net.clear();
            (row.measure)(&mut net)
        };
        // Rows are about times, and a busy machine may have none at the wrong moment: only what is missed twice counts.
        let verdict = measure().or_else(|first| match measure() {
            Ok(evidence) => Ok(format!("{evidence} (not at first: {first})")),
            Err(_) => Err(first),
        });
        let passed = verdict.is_ok();
        let outcome =
            Outcome { id: row.id.to_owned(), passed, evidence: verdict.unwrap_or_else(|error| error) };
        let line = serde_json::to_string(&outcome).map_err(|error| failed(error.into()))?;
        writeln!(out, "{line}").and_then(|()| out.flush()).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measured_rows_are_rows_of_the_list_each_once() {
        let all = Row::all();
        let mut seen = std::collections::BTreeSet::new();
        for row in rows::all() {
            assert!(all.iter().any(|known| known.id == row.id), "{} is not in the list", row.id);
            assert!(seen.insert(row.id), "{} is there twice", row.id);
        }
        assert_eq!(Row::measured().len(), seen.len());
        assert!(seen.len() >= 100, "{}", seen.len());
    }
}
