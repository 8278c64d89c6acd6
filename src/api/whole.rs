//! All resources at once: what is there, and what is to be.

use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;

use crate::api::caller::Asker;
use crate::api::collections::policy_of;
use crate::api::input::{Body, Nothing, Parameters};
use crate::api::problem::Problem;
use crate::api::routes::Api;
use crate::control::access::Caller;
use crate::control::protocol::{self, Answer, Applied, ApplyRequest, Document, SessionPolicy};

/// Where a document is sent to.
pub(super) const APPLY: &str = "/v1/apply";
/// Bytes of a document: room for some ten thousand entries.
pub(super) const BODY: usize = 16 * 1024 * 1024;

/// How to apply a document.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ApplyParameters {
    #[serde(default)]
    dry_run: bool,
    confirm_seconds: Option<u32>,
    generation: Option<u32>,
    live_sessions: Option<SessionPolicy>,
    drain_seconds: Option<u64>,
    reset: Option<bool>,
}

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/v1/export", get(export))
        .route(APPLY, post(apply).layer(DefaultBodyLimit::max(BODY)))
        .route("/v1/apply/confirm", post(confirm))
        .route("/v1/apply/rollback", post(rollback))
}

async fn export(
    State(api): State<Api>,
    Asker(caller): Asker,
    _: Parameters<Nothing>,
) -> Result<Json<Document>, Problem> {
    let (answers, _) = api.ask(caller, protocol::Request::Export).await?;
    let mut all = Document::new();
    for answer in answers {
        if let Answer::Exported(spec) = answer {
            all.push(*spec);
        }
    }
    Ok(Json(all))
}

async fn apply(
    State(api): State<Api>,
    Asker(caller): Asker,
    Parameters(parameters): Parameters<ApplyParameters>,
    request: Request,
) -> Result<Response, Problem> {
    let ApplyParameters { dry_run, confirm_seconds, generation, live_sessions, drain_seconds, reset } =
        parameters;
    let sessions = policy_of(live_sessions, drain_seconds, reset)?;
    let document = Document::default();
    let mut asked = ApplyRequest { document, dry_run, confirm_seconds, generation, sessions };
    // A document may be large: whoever may not apply one does not send one.
    caller.may(&protocol::Request::Apply(Box::new(asked.clone())))?;
    Body(asked.document) = Body::from_request(request, &api).await?;
    ask(&api, caller, protocol::Request::Apply(Box::new(asked))).await.map(IntoResponse::into_response)
}

async fn confirm(
    State(api): State<Api>,
    Asker(caller): Asker,
    _: Parameters<Nothing>,
) -> Result<Json<Applied>, Problem> {
    ask(&api, caller, protocol::Request::Confirm).await
}

async fn rollback(
    State(api): State<Api>,
    Asker(caller): Asker,
    _: Parameters<Nothing>,
) -> Result<Json<Applied>, Problem> {
    ask(&api, caller, protocol::Request::RollBack).await
}

async fn ask(api: &Api, caller: Caller, request: protocol::Request) -> Result<Json<Applied>, Problem> {
    let of = |answer| if let Answer::Applied(applied) = answer { Some(*applied) } else { None };
    api.ask_one(caller, request, of).await
}
