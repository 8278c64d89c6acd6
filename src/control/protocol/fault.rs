//! Why a request is refused, or what went wrong.

use serde::{Deserialize, Serialize};

use crate::control::inventory::Refusal;

/// The kind of an error, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultCode {
    /// The request cannot be understood or breaks a rule.
    BadRequest,
    /// Another version of the protocol is spoken.
    Version,
    /// The request line is longer than [`MAX_REQUEST`](super::MAX_REQUEST).
    TooLong,
    /// The request did not come in time.
    TimedOut,
    /// All management connections are taken.
    Busy,
    /// The peer may not manage this gateway.
    NotPermitted,
    /// The configuration file has errors; nothing was changed.
    Configuration,
    /// The request breaks a rule; nothing was changed.
    Refused,
    /// The change needs a restart; nothing was changed.
    NeedsRestart,
    /// The change is published but a worker has not confirmed it.
    NotInForce,
    /// The gateway is stopping, or a worker does not answer.
    Unavailable,
    /// Anything else.
    Failed,
}

/// An error that says what is wrong and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// The kind.
    pub code: FaultCode,
    /// The thing, its value and the rule that it breaks.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Every error of the configuration file, or of a file that is applied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
    /// The rule that a change of a resource breaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Box<Refusal>>,
}

impl Fault {
    /// An error with neither hint nor findings.
    pub fn new(code: FaultCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, findings: Vec::new(), refusal: None }
    }

    /// The gateway is stopping, and does no more.
    pub fn stopping() -> Self {
        Self::new(FaultCode::Unavailable, "the gateway is stopping")
    }

    /// With what to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// One error of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The stable name of the rule.
    pub code: String,
    /// The file.
    pub file: String,
    /// The line, from one, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// The key with its table, such as `dnat[2].public_port`.
    pub key: String,
    /// The value as written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The rule that it breaks.
    pub rule: String,
    /// What it conflicts with: key, name and line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflict: Option<String>,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl std::fmt::Display for Finding {
    /// As a compiler does: place first, then what and why, then what to do.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        f.write_str(": ")?;
        if !self.key.is_empty() {
            f.write_str(&self.key)?;
            if let Some(value) = &self.value {
                write!(f, " = {value}")?;
            }
            f.write_str(": ")?;
        }
        write!(f, "{} [{}]", self.rule, self.code)?;
        if let Some(conflict) = &self.conflict {
            write!(f, "\n  conflicts with {conflict}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}
