//! A line of the books.

use std::fmt;
use std::net::Ipv4Addr;

use crate::config::Name;
use crate::control::time;

/// The heads of the columns of a file.
pub(super) const HEAD: &str = "hour,kind,name,peak_new_sessions,peak_sessions,bytes_out,bytes_in";

/// New sessions a second, sessions and bytes of a capacity unit.
const UNIT_NEW_SESSIONS: f64 = 1000.0;
const UNIT_SESSIONS: f64 = 10_000.0;
const UNIT_BYTES: f64 = 1e9;

/// Whose usage is metered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// A NAT gateway, by its name, or its identifier in a store.
    Gateway(Name),
    /// An EIP.
    Eip(Ipv4Addr),
}

impl Subject {
    /// The word for its kind.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Gateway(_) => "gateway",
            Self::Eip(_) => "eip",
        }
    }

    /// Its name or address.
    pub fn name(&self) -> String {
        match self {
            Self::Gateway(name) => name.to_string(),
            Self::Eip(address) => address.to_string(),
        }
    }
}

/// What was used within an hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hour {
    /// The most sessions that began within a second.
    pub peak_new_sessions: u64,
    /// The most sessions at once.
    pub peak_sessions: u64,
    /// Bytes of IP packets to the Internet side.
    pub bytes_out: u64,
    /// Bytes of IP packets to the VPC side.
    pub bytes_in: u64,
}

impl Hour {
    /// Takes in what was used in a further part of the hour.
    pub(super) fn add(&mut self, more: &Self) {
        self.peak_new_sessions = self.peak_new_sessions.max(more.peak_new_sessions);
        self.peak_sessions = self.peak_sessions.max(more.peak_sessions);
        self.bytes_out += more.bytes_out;
        self.bytes_in += more.bytes_in;
    }

    /// Whether nothing was used.
    pub(super) fn is_idle(&self) -> bool {
        *self == Self::default()
    }

    /// The capacity units of the hour: the largest of its peak of new sessions a second in thousands, its peak of sessions
    /// in tens of thousands, and its bytes out and in together in GB (10⁹ bytes).
    pub fn capacity_units(&self) -> f64 {
        let bytes = (self.bytes_out + self.bytes_in) as f64 / UNIT_BYTES;
        let new_sessions = self.peak_new_sessions as f64 / UNIT_NEW_SESSIONS;
        bytes.max(new_sessions).max(self.peak_sessions as f64 / UNIT_SESSIONS)
    }
}

/// What one of them used within one hour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metered {
    /// The beginning of the hour, in seconds since 1970.
    pub hour: u64,
    /// Who.
    pub subject: Subject,
    /// What.
    pub used: Hour,
}

impl fmt::Display for Metered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hour, subject, used } = self;
        let Hour { peak_new_sessions, peak_sessions, bytes_out, bytes_in } = used;
        let (hour, kind, name) = (time::format(*hour), subject.kind(), subject.name());
        write!(f, "{hour},{kind},{name},{peak_new_sessions},{peak_sessions},{bytes_out},{bytes_in}")
    }
}

impl Metered {
    /// A line of a file, if it is one.
    pub(super) fn read(line: &str) -> Option<Self> {
        let mut cells = line.split(',');
        let hour = time::parse(cells.next()?)?;
        let (kind, name) = (cells.next()?, cells.next()?);
        let subject = match kind {
            "gateway" => Subject::Gateway(Name::new(name)?),
            "eip" => Subject::Eip(name.parse().ok()?),
            _ => return None,
        };
        let mut number = || cells.next()?.parse::<u64>().ok();
        let used = Hour {
            peak_new_sessions: number()?,
            peak_sessions: number()?,
            bytes_out: number()?,
            bytes_in: number()?,
        };
        cells.next().is_none().then_some(Self { hour, subject, used })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_line_is_read_back_as_written(numbers: [u32; 4], hour in 0u64..1_000_000, address: u32) {
            let [peak_new_sessions, peak_sessions, bytes_out, bytes_in] = numbers.map(u64::from);
            let used = Hour { peak_new_sessions, peak_sessions, bytes_out, bytes_in };
            let row = Metered { hour: hour * 3600, subject: Subject::Eip(address.into()), used };
            prop_assert_eq!(Metered::read(&row.to_string()), Some(row));
        }

        #[test]
        fn no_line_panics(line in "\\PC*") {
            let _ = Metered::read(&line);
        }
    }

    #[test]
    fn capacity_units_are_the_largest_of_three() {
        let used = Hour { peak_new_sessions: 2500, peak_sessions: 10_000, bytes_out: 0, bytes_in: 0 };
        assert!((used.capacity_units() - 2.5).abs() < 1e-9);
        let used = Hour { peak_sessions: 40_000, ..used };
        assert!((used.capacity_units() - 4.0).abs() < 1e-9);
        let used = Hour { bytes_out: 3_000_000_000, bytes_in: 2_000_000_000, ..used };
        assert!((used.capacity_units() - 5.0).abs() < 1e-9);
    }
}
