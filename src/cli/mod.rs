//! The command line: arguments, asking a running gateway, measuring, and the answers for people or as JSON.

mod apply;
pub mod args;
mod ask;
mod capture;
mod conformance;
mod doctor;
mod keys;
mod measures;
mod metering;
mod nouns;
mod output;
mod pktgen;
mod place;
pub mod processor;
mod progress;
mod render;
mod session;
mod speed;
mod top;

use std::io::{self, Write};
use std::process::ExitCode;

pub use args::{Cli, Command};
pub use ask::execute;

/// How a command ended. The numbers are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It is done.
    Success = 0,
    /// It failed.
    Failure = 1,
    /// Wrong input: arguments, configuration, filter.
    Input = 2,
    /// No gateway is reached.
    Unreachable = 3,
    /// `doctor` found what makes a gateway slower or less even than it could be.
    Warning = 4,
    /// `doctor` found what keeps a gateway from its work.
    Unfit = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Where a command prints.
pub struct Console<'a> {
    /// Standard output.
    pub out: &'a mut dyn Write,
    /// Standard error.
    pub err: &'a mut dyn Write,
}

impl Console<'_> {
    /// Says on standard error that something is wrong, and what to do.
    pub fn error(&mut self, message: impl std::fmt::Display, hint: Option<&str>) {
        // Where standard error is closed there is nowhere left to say so.
        let _ = writeln!(self.err, "natgate: {message}");
        if let Some(hint) = hint {
            let _ = writeln!(self.err, "  hint: {hint}");
        }
    }

    /// Says on standard error all that is wrong with a file.
    fn error_lines(&mut self, errors: &crate::config::Errors) {
        let count = errors.len();
        let plural = if count == 1 { "" } else { "s" };
        let _ = writeln!(self.err, "{errors}\nnatgate: {count} error{plural}");
    }

    /// Says on standard error what is worth knowing.
    fn note(&mut self, message: impl std::fmt::Display) {
        let _ = writeln!(self.err, "natgate: {message}");
    }

    /// How a command ends that could not print: quietly if the reader has had enough, as `head` has.
    fn broken(&mut self, error: &io::Error) -> Exit {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Exit::Success;
        }
        self.error(format_args!("printing failed: {error}"), None);
        Exit::Failure
    }
}

#[cfg(test)]
mod tests;
