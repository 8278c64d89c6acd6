//! Whether a machine is fit for a gateway: what is found, why it matters, and the command that mends it.
//!
//! ```text
//! /proc, /sys --facts--> Facts --judge--> findings
//! system calls --live-^
//! ```
//!
//! Facts are read once, without changing anything and as far as the caller may; judging them is pure. What `dpdk-env/setup`
//! sets is what is looked at here: the same files below the same root.

pub mod facts;
mod host;
mod live;
mod memory;
mod nic;
mod plan;

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;

use crate::config::Model;
pub use facts::Facts;
use plan::Plan;

/// How much a finding matters. The worst of a report decides how the command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// It could not be seen.
    Unknown,
    /// The gateway works, slower or less evenly than it could.
    Warning,
    /// The gateway does not start, or does not do what it is to do.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// What was looked at: a word that stays the same.
    pub check: &'static str,
    /// Of what, such as a device or a core; empty for the machine.
    pub subject: String,
    /// How much it matters.
    pub severity: Severity,
    /// What was found.
    pub found: String,
    /// Why it matters; empty where all is well.
    pub why: String,
    /// What mends it, as a command or a line of the configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Finding {
    fn new(check: &'static str, severity: Severity, found: impl Into<String>) -> Self {
        let (subject, why) = (String::new(), String::new());
        Self { check, subject, severity, found: found.into(), why, fix: None }
    }

    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Severity::Ok, found)
    }

    fn unknown(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Severity::Unknown, found)
    }

    fn warning(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Severity::Warning, found)
    }

    fn error(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Severity::Error, found)
    }

    fn of(mut self, subject: impl Into<String>) -> Self {
        self.subject = subject.into();
        self
    }

    fn why(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }

    fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

/// What is said of the configuration.
#[derive(Debug)]
pub enum Configuration {
    /// It is good.
    Good(Box<Model>),
    /// It has so many errors.
    Faulty(usize),
    /// There is none: only the machine is looked at.
    Absent,
}

/// Looks at the machine whose files are below `root`.
pub fn examine(root: &Path, file: &Path, configuration: &Configuration) -> Vec<Finding> {
    let model = match configuration {
        Configuration::Good(model) => Some(&**model),
        _ => None,
    };
    let plan = Plan::of(model, &facts::cores(root));
    let facts = Facts::read(root, &plan);
    let mut findings = vec![judge_configuration(file, configuration)];
    findings.extend(judge(&facts, &plan));
    findings
}

/// What follows from the facts for what is planned.
pub fn judge(facts: &Facts, plan: &Plan) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(host::judge(facts, plan));
    findings.extend(memory::judge(facts, plan));
    findings.extend(nic::judge(facts, plan));
    findings
}

fn judge_configuration(file: &Path, configuration: &Configuration) -> Finding {
    let file = file.display();
    match configuration {
        Configuration::Good(model) => {
            let ports = model.ports().len();
            Finding::ok("configuration", format!("{file} has no errors, and {ports} ports"))
        }
        Configuration::Faulty(count) => {
            let plural = if *count == 1 { "" } else { "s" };
            Finding::error("configuration", format!("{file} has {count} error{plural}"))
                .why("natgate does not start with it; only the machine is looked at here")
                .fix(format!("natgate check --config {file}"))
        }
        Configuration::Absent => Finding::unknown("configuration", format!("there is no {file}"))
            .why("without it nothing is known of ports and workers: only the machine is looked at")
            .fix("natgate doctor --config FILE"),
    }
}
