//! `natgate doctor`: whether this machine is fit for a gateway.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::ask::document;
use super::nouns::Format;
use super::output::{Table, counted};
use super::{Console, Exit};
use crate::config;
use crate::doctor::{self, Configuration, Finding, Severity};

/// Exit codes of `doctor` besides those of every command.
const EXIT_CODES: &str = "Exit codes: 0 all is well, as far as it could be seen; 4 something is slower or less even than it \
                          could be; 5 the gateway would not start, or not do what it is to do.";

/// Arguments of `doctor`.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub struct DoctorArgs {
    /// The configuration file; where there is none, only the machine is looked at.
    #[arg(long, value_name = "FILE", default_value = "/etc/natgate/natgate.toml")]
    pub config: PathBuf,
    /// Show what is as it should be, too.
    #[arg(short, long)]
    pub all: bool,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
    /// Look at another machine's files: a copy of its /proc and /sys.
    #[arg(long, value_name = "FOLDER", default_value = "/")]
    pub root: PathBuf,
}

/// What is printed for programs.
#[derive(Debug, Serialize)]
struct Report<'a> {
    /// The worst of all.
    severity: Severity,
    findings: &'a [Finding],
}

/// Looks, and says what was found.
pub(super) fn execute(args: &DoctorArgs, console: &mut Console<'_>) -> Exit {
    let configuration = read(&args.config);
    let findings = doctor::examine(&args.root, &args.config, &configuration);
    let severity = findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Ok);
    let is_json = args.output == Format::Json;
    let report = Report { severity, findings: &findings };
    let printed = document(console.out, is_json, &report, || text(&findings, args.all));
    match printed.and_then(|()| console.out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => console.broken(&error),
        _ => match severity {
            Severity::Ok | Severity::Unknown => Exit::Success,
            Severity::Warning => Exit::Warning,
            Severity::Error => Exit::Unfit,
        },
    }
}

fn read(file: &Path) -> Configuration {
    if !file.exists() {
        return Configuration::Absent;
    }
    match config::load(file) {
        Ok(model) => Configuration::Good(Box::new(model)),
        Err(errors) => Configuration::Faulty(errors.len()),
    }
}

/// A table of what was found, and below it what to do about it.
fn text(findings: &[Finding], all: bool) -> String {
    let mut sorted: Vec<_> = findings.iter().collect();
    sorted.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let mut table = Table::new(["", "CHECK", "OF", "FOUND"]);
    let mut advice = String::new();
    for finding in sorted.into_iter().filter(|finding| all || finding.severity != Severity::Ok) {
        let Finding { check, subject, severity, found, why, fix } = finding;
        let of = if subject.is_empty() { "-" } else { subject };
        table.row([severity.to_string(), (*check).to_owned(), of.to_owned(), found.clone()]);
        if !why.is_empty() {
            let of = if subject.is_empty() { String::new() } else { format!(" of {subject}") };
            let fix = fix.as_ref().map_or_else(String::new, |fix| format!("  {fix}\n"));
            // Writing to a String cannot fail.
            let _ = write!(advice, "\n{check}{of}: {found}\n  {why}\n{fix}");
        }
    }
    let of = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let summary = format!(
        "{}, {}, {} not seen, {} as they should be\n",
        counted(of(Severity::Error), "error"),
        counted(of(Severity::Warning), "warning"),
        of(Severity::Unknown),
        counted(of(Severity::Ok), "thing"),
    );
    let table = if table.is_empty() { String::new() } else { format!("{table}\n") };
    format!("{table}{summary}{advice}")
}
