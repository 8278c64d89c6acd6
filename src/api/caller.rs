//! Who asks.

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;

use crate::api::problem::Problem;
use crate::api::routes::Api;
use crate::control::access::Caller;

/// Where a connection comes from; every request carries it as an extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The Unix socket, which lets in root and the gateway's own user.
    Local {
        /// The user.
        user: u32,
    },
    /// TCP: whoever it is has to show a key.
    Remote,
}

/// Whoever sent a request.
#[derive(Clone, Debug)]
pub struct Asker(pub Caller);

impl FromRequestParts<Api> for Asker {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let unauthorized = |detail: &str| {
            Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
                .hint("send Authorization: Bearer SECRET; an admin makes keys with natgate key create")
        };
        match (parts.headers.get(AUTHORIZATION), parts.extensions.get::<Peer>()) {
            (Some(header), _) => {
                let text = header.to_str().unwrap_or_default();
                let secret = text.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
                let (_, secret) =
                    secret.ok_or_else(|| unauthorized("the Authorization header has no bearer token"))?;
                let owner = api.service.owner_of(secret.trim());
                owner.map(Self).ok_or_else(|| unauthorized("no key has this secret"))
            }
            (None, Some(Peer::Local { user })) => Ok(Self(Caller::local(*user))),
            (None, _) => Err(unauthorized("there is no Authorization header")),
        }
    }
}
