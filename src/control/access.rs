//! Who asks, and what that takes.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::control::protocol::{Fault, FaultCode, Request};

/// What somebody may do. Each may do what the ones before it may.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    clap::ValueEnum,
    utoipa::ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Looks at everything.
    Viewer,
    /// Changes resources, reloads, traces, captures.
    Operator,
    /// Makes and deletes keys.
    Admin,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Admin];

    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// The role of a word.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == word)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// As it stands in the audit log.
    pub name: String,
    /// What they may do.
    pub role: Role,
}

impl Caller {
    /// A user of this machine whom a socket lets in: root, or the user that the gateway runs as.
    pub fn local(user: u32) -> Self {
        Self { name: format!("user {user}"), role: Role::Admin }
    }

    /// Whether they may ask this.
    ///
    /// # Errors
    /// They may not; it says which role it takes.
    pub fn may(&self, request: &Request) -> Result<(), Fault> {
        self.has(role_of(request))
    }

    /// Whether they have a role, or one that may more.
    ///
    /// # Errors
    /// They have not; it says which role it takes.
    pub fn has(&self, needed: Role) -> Result<(), Fault> {
        if self.role >= needed {
            return Ok(());
        }
        let Self { name, role } = self;
        let message = format!("{name} has the role {role}, and this takes the role {needed}");
        Err(Fault::new(FaultCode::NotPermitted, message)
            .hint(format!("an admin makes such a key: natgate key create --role {needed}")))
    }
}

/// The user of this machine at the other end of a local socket.
///
/// # Errors
/// It is neither root nor the user `own` that the gateway runs as.
pub fn admitted(user: u32, own: u32) -> Result<Caller, Fault> {
    if user == 0 || user == own {
        return Ok(Caller::local(user));
    }
    let message = format!("user {user} may not manage this gateway, which belongs to user {own}");
    Err(Fault::new(FaultCode::NotPermitted, message).hint(format!("run it as root or as user {own}")))
}

/// The role that a change of a resource takes.
pub const CHANGE: Role = Role::Operator;

/// The role that a request takes.
pub const fn role_of(request: &Request) -> Role {
    match request {
        Request::Status
        | Request::Stats
        | Request::Usage(_)
        | Request::Metering(_)
        | Request::Watch(_)
        | Request::Sessions(_)
        | Request::Explain(_)
        | Request::Who(_)
        | Request::Resources(_)
        | Request::Export
        | Request::Audit(_) => Role::Viewer,
        Request::Reload(_)
        | Request::Trace(_)
        | Request::Kill(_)
        | Request::Capture(_)
        | Request::Apply(_)
        | Request::Confirm
        | Request::RollBack => Role::Operator,
        Request::Change(_) => CHANGE,
        Request::Keys | Request::CreateKey(_) | Request::UpdateKey { .. } | Request::DeleteKey(_) => {
            Role::Admin
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::{ChangeAction, ChangeRequest};

    #[test]
    fn each_role_may_do_what_the_ones_before_may() {
        let change = Request::Change(Box::new(ChangeRequest {
            action: ChangeAction::Create,
            kind: "eip".into(),
            id: None,
            body: serde_json::Value::Null,
            force: false,
            idempotency_key: None,
            sessions: None,
        }));
        let may = |role| {
            let caller = Caller { name: "key key-1".into(), role };
            [Request::Status, change.clone(), Request::Keys].map(|request| caller.may(&request).is_ok())
        };
        assert_eq!(may(Role::Viewer), [true, false, false]);
        assert_eq!(may(Role::Operator), [true, true, false]);
        assert_eq!(may(Role::Admin), [true, true, true]);
        let refused = Caller { name: "key key-1".into(), role: Role::Viewer }.may(&change).unwrap_err();
        assert_eq!(refused.code, FaultCode::NotPermitted);
        assert!(refused.message.contains("viewer") && refused.message.contains("role operator"), "{refused}");
    }
}
