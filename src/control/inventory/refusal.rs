//! Why a request is refused, for people and for programs.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::{Code, Problem};

/// A request breaks a rule; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct Refusal {
    /// The rule's stable name.
    pub code: Code,
    /// The parameter at fault, such as `private_port`.
    pub parameter: Box<str>,
    /// Its value, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Box<str>>,
    /// The rule in a sentence.
    pub rule: Box<str>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<Box<str>>,
    /// The identifiers of the resources that stand in the way; at most [`Refusal::SHOWN`] of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<String>,
}

impl Refusal {
    /// Conflicting resources that are named; a hint says how many there are.
    pub const SHOWN: usize = 100;

    /// A refusal about a parameter.
    pub fn new(code: Code, parameter: impl Into<Box<str>>) -> Self {
        Self {
            code,
            parameter: parameter.into(),
            value: None,
            rule: code.rule().into(),
            hint: None,
            conflicts: Vec::new(),
        }
    }

    /// With the value at fault.
    pub fn value(self, value: impl fmt::Display) -> Self {
        Self { value: Some(value.to_string().into()), ..self }
    }

    /// With what to do about it.
    pub fn hint(self, hint: impl Into<Box<str>>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// With the rule in other words.
    pub fn rule(self, rule: impl Into<Box<str>>) -> Self {
        Self { rule: rule.into(), ..self }
    }

    /// With the resource that stands in the way.
    pub fn conflict(mut self, id: impl fmt::Display) -> Self {
        self.conflicts.push(id.to_string());
        self
    }

    /// What is wrong with a single value.
    pub fn of(problem: Problem, parameter: &str, value: &str) -> Self {
        let Problem { code, rule, hint } = problem;
        let hint = hint.map(String::into_boxed_str);
        let refusal = Self { hint, ..Self::new(code, parameter).value(value) };
        match rule {
            Some(rule) => refusal.rule(rule),
            None => refusal,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.parameter)?;
        if let Some(value) = &self.value {
            write!(f, " = {value}")?;
        }
        if !self.parameter.is_empty() {
            f.write_str(": ")?;
        }
        write!(f, "{} [{}]", self.rule, self.code.name())?;
        if !self.conflicts.is_empty() {
            write!(f, "; in the way: {}", self.conflicts.join(", "))?;
        }
        Ok(())
    }
}
