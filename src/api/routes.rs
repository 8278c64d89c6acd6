//! Which path asks for what.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::spawn_blocking;

use crate::api::caller::Asker;
use crate::api::collections;
use crate::api::input::{Body, Named, Nothing, Parameters};
use crate::api::openapi;
use crate::api::problem::Problem;
use crate::api::watch::{PATIENCE, WATCH, watch};
use crate::api::whole;
use crate::config::Code;
use crate::control;
use crate::control::access::Caller;
use crate::control::address::{AddressFilter, Protocol};
use crate::control::describe::PacketDescription;
use crate::control::inventory::Refusal;
use crate::control::protocol::{
    Answer, AuditRequest, ChangeRequest, Changed, CreateKey, End, Fault, FaultCode, KeyValues, KillRequest,
    KindFilter, MeteringRequest, Request, SessionsRequest, Usage, UsageBy, UsageRequest, WhoRequest,
};
use crate::control::service::{Gone, Interrupted, Service, Sink};
use crate::control::writer::refused;

/// Requests that the manager works on for the API at the same time; more of them wait their turn.
pub(super) const AT_ONCE: usize = 8;
/// Changes that are under way at the same time; more of them wait their turn. They go together, and no thread waits for one.
const CHANGES: usize = 1024;
/// Items of a list where the request says nothing, and at most.
pub(super) const PAGE: u64 = 100;
pub(super) const LONGEST_PAGE: u64 = 1000;

/// What every handler works with.
#[derive(Clone)]
pub struct Api {
    /// Who answers.
    pub service: Arc<dyn Service>,
    turns: Arc<Semaphore>,
    changes: Arc<Semaphore>,
    /// How long whoever watches may keep the one that tells waiting.
    pub(super) patience: Duration,
}

/// Answers, collected.
#[derive(Default)]
struct Collected(Vec<Answer>);

impl Sink for Collected {
    fn send(&mut self, answer: &Answer) -> Result<(), Gone> {
        self.0.push(answer.clone());
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Gone> {
        Ok(())
    }
}

impl Api {
    /// Handlers ask this service.
    pub fn new(service: Arc<dyn Service>) -> Self {
        let semaphore = |places| Arc::new(Semaphore::new(places));
        Self { service, turns: semaphore(AT_ONCE), changes: semaphore(CHANGES), patience: PATIENCE }
    }

    /// The right to a thread of one's own, when there is one.
    pub(super) async fn turn(&self) -> Result<OwnedSemaphorePermit, Fault> {
        Arc::clone(&self.turns).acquire_owned().await.map_err(|_| Fault::stopping())
    }

    /// Asks, on a thread of its own.
    pub(super) async fn ask(&self, caller: Caller, request: Request) -> Result<(Vec<Answer>, End), Problem> {
        let turn = self.turn().await?;
        let service = Arc::clone(&self.service);
        let asked = spawn_blocking(move || {
            let mut answers = Collected::default();
            let end = service.answer(&caller, request, &mut answers);
            drop(turn);
            end.map(|end| (answers.0, end))
        });
        match asked.await {
            Ok(Ok(answered)) => Ok(answered),
            Ok(Err(Interrupted::Fault(fault))) => Err(fault.into()),
            Err(error) if error.is_panic() => {
                Err(Fault::new(FaultCode::Failed, "a defect of natgate: please report it").into())
            }
            Ok(Err(Interrupted::Gone)) | Err(_) => Err(Fault::stopping().into()),
        }
    }

    /// Makes a change.
    pub(super) async fn change(&self, caller: &Caller, request: ChangeRequest) -> Result<Changed, Problem> {
        let place = Arc::clone(&self.changes).acquire_owned().await.map_err(|_| Fault::stopping())?;
        let (answer, answered) = oneshot::channel();
        // The place is taken until the change is made, even if the client has gone by then.
        let answer = Box::new(move |changed| {
            let _ = answer.send(changed);
            drop(place);
        });
        self.service.change(caller, request, answer)?;
        Ok(answered.await.map_err(|_| Fault::stopping())??)
    }

    /// Asks what has one answer.
    pub(super) async fn ask_one<T: Serialize>(
        &self,
        caller: Caller,
        request: Request,
        of: impl Fn(Answer) -> Option<T>,
    ) -> Result<Json<T>, Problem> {
        let (answers, _) = self.ask(caller, request).await?;
        let answer = answers.into_iter().find_map(of);
        answer.map(Json).ok_or_else(|| Fault::new(FaultCode::Failed, "there is no answer").into())
    }
}

/// A page of a list.
#[derive(Clone, Debug, Serialize)]
pub struct Page<T> {
    /// Its items.
    pub items: Vec<T>,
    /// The path of the next page, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// All routes.
pub fn router(api: Api) -> Router {
    let mut router = Router::new();
    for collection in &collections::ALL {
        router = router.merge(collection.routes());
    }
    router
        .route("/healthz", get(async |_: Parameters<Nothing>| Json(serde_json::json!({ "status": "ok" }))))
        .route("/v1/openapi.json", get(async |_: Parameters<Nothing>| openapi::served()))
        .route("/metrics", get(metrics))
        .route("/v1/status", get(status))
        .route("/v1/stats", get(stats))
        .route("/v1/usage", get(usage))
        .route("/v1/metering", get(metering))
        .route("/v1/sessions", get(sessions).delete(kill))
        .route(WATCH, get(watch))
        .route("/v1/who", get(who))
        .route("/v1/explain", post(explain))
        .route("/v1/audit", get(audit))
        .route("/v1/keys", get(keys).post(create_key))
        .route("/v1/keys/{id}", get(key).patch(update_key).delete(delete_key))
        .merge(whole::routes())
        .fallback(async || {
            Problem::new(StatusCode::NOT_FOUND, "no-such-path", "there is no such path")
                .hint("GET /v1/openapi.json tells all of them")
        })
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method", "the path does not take this method")
        })
        .with_state(api)
}

async fn status(
    State(api): State<Api>,
    Asker(caller): Asker,
    _: Parameters<Nothing>,
) -> Result<impl IntoResponse, Problem> {
    let of = |answer| if let Answer::Status(status) = answer { Some(status) } else { None };
    api.ask_one(caller, Request::Status, of).await
}

async fn stats(
    State(api): State<Api>,
    Asker(caller): Asker,
    _: Parameters<Nothing>,
) -> Result<impl IntoResponse, Problem> {
    let of = |answer| if let Answer::Stats(stats) = answer { Some(stats) } else { None };
    api.ask_one(caller, Request::Stats, of).await
}

async fn metrics(
    State(api): State<Api>,
    Asker(caller): Asker,
    _: Parameters<Nothing>,
) -> Result<impl IntoResponse, Problem> {
    let of = |answer| if let Answer::Status(status) = answer { Some(status) } else { None };
    let Json(status) = api.ask_one(caller.clone(), Request::Status, of).await?;
    let of = |answer| if let Answer::Stats(stats) = answer { Some(stats) } else { None };
    let Json(stats) = api.ask_one(caller.clone(), Request::Stats, of).await?;
    let usage = usage_rows(&api, caller, control::metrics::USAGE).await?;
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    Ok(([(CONTENT_TYPE, kind)], control::metrics::render(&status, &stats, &usage)))
}

async fn usage_rows(api: &Api, caller: Caller, request: UsageRequest) -> Result<Vec<Usage>, Problem> {
    let (answers, _) = api.ask(caller, Request::Usage(request)).await?;
    let rows = answers.into_iter().filter_map(|answer| match answer {
        Answer::Usage(usage) => Some(*usage),
        _ => None,
    });
    Ok(rows.collect())
}

async fn usage(
    State(api): State<Api>,
    Asker(caller): Asker,
    Parameters(UsageQuery { by, limit }): Parameters<UsageQuery>,
) -> Result<impl IntoResponse, Problem> {
    let request = UsageRequest { by: Some(by), limit: Some(limit_of(limit)?) };
    Ok(Json(Page { items: usage_rows(&api, caller, request).await?, next: None }))
}

async fn metering(
    State(api): State<Api>,
    Asker(caller): Asker,
    Parameters(mut request): Parameters<MeteringRequest>,
) -> Result<impl IntoResponse, Problem> {
    request.limit = Some(limit_of(request.limit)?);
    let (answers, End { truncated, .. }) = api.ask(caller, Request::Metering(request)).await?;
    let rows = answers.into_iter().filter_map(|answer| match answer {
        Answer::Metered(row) => Some(*row),
        _ => None,
    });
    let items: Vec<_> = rows.collect();
    Ok(Json(serde_json::json!({ "items": items, "truncated": truncated })))
}

async fn explain(
    State(api): State<Api>,
    Asker(caller): Asker,
    _: Parameters<Nothing>,
    Body(Explain { packet }): Body<Explain>,
) -> Result<impl IntoResponse, Problem> {
    let packet = packet.parse::<PacketDescription>().map_err(|error| Problem {
        parameter: Some("packet".into()),
        value: Some(packet.clone()),
        ..Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "packet-description", error)
    })?;
    let of = |answer| if let Answer::Explanation(explanation) = answer { Some(explanation) } else { None };
    api.ask_one(caller, Request::Explain(packet), of).await
}

/// The limit of a list, within bounds.
pub(super) fn limit_of(limit: Option<u64>) -> Result<u64, Box<Problem>> {
    let limit = limit.unwrap_or(PAGE);
    if (1..=LONGEST_PAGE).contains(&limit) {
        return Ok(limit);
    }
    let detail = format!("limit = {limit}: a page has 1-{LONGEST_PAGE} items");
    let problem = Problem::new(StatusCode::BAD_REQUEST, "out-of-range", detail);
    Err(Box::new(Problem { parameter: Some("limit".into()), value: Some(limit.to_string()), ..problem }))
}

async fn sessions(
    State(api): State<Api>,
    Asker(caller): Asker,
    Parameters(mut request): Parameters<SessionsRequest>,
) -> Result<Response, Problem> {
    let count_only = request.count;
    if !count_only {
        request.limit = Some(limit_of(request.limit)?);
    }
    let (answers, end) = api.ask(caller, Request::Sessions(request)).await?;
    let End { count, truncated, unmerged, .. } = end;
    if count_only {
        let count = serde_json::json!({ "count": count, "truncated": truncated, "unmerged": unmerged });
        return Ok(Json(count).into_response());
    }
    let items = answers.into_iter().filter_map(|answer| match answer {
        Answer::Session(session) => Some(session),
        _ => None,
    });
    let items: Vec<_> = items.collect();
    let list = serde_json::json!({ "items": items, "truncated": truncated, "unmerged": unmerged });
    Ok(Json(list).into_response())
}

async fn kill(
    State(api): State<Api>,
    Asker(caller): Asker,
    Parameters(query): Parameters<KillQuery>,
) -> Result<impl IntoResponse, Problem> {
    let KillQuery { protocol, inside, eip, peer, entry, gateway, vpc, kind, reset, all } = query;
    let sessions =
        SessionsRequest { protocol, inside, eip, peer, entry, gateway, vpc, kind, limit: None, count: false };
    let request = Request::Kill(KillRequest { sessions, reset, all });
    let of = |answer| if let Answer::Killed(killed) = answer { Some(killed) } else { None };
    api.ask_one(caller, request, of).await
}

async fn who(
    State(api): State<Api>,
    Asker(caller): Asker,
    Parameters(request): Parameters<WhoRequest>,
) -> Result<impl IntoResponse, Problem> {
    let (answers, _) = api.ask(caller, Request::Who(request)).await?;
    let owners = answers.into_iter().filter_map(|answer| match answer {
        Answer::Owner(owner) => Some(owner),
        _ => None,
    });
    Ok(Json(Page { items: owners.collect(), next: None }))
}

async fn audit(
    State(api): State<Api>,
    Asker(caller): Asker,
    Parameters(mut request): Parameters<AuditRequest>,
) -> Result<impl IntoResponse, Problem> {
    let limit = limit_of(request.limit)?;
    request.limit = Some(limit);
    let (answers, _) = api.ask(caller, Request::Audit(request)).await?;
    let records = answers.into_iter().filter_map(|answer| match answer {
        Answer::Audit(record) => Some(record),
        _ => None,
    });
    let items: Vec<_> = records.collect();
    let last = items.last().and_then(|record| record.get("number")).and_then(serde_json::Value::as_u64);
    let next = last.filter(|number| items.len() as u64 == limit && *number > 0);
    let next = next.map(|number| format!("/v1/audit?before={number}&limit={limit}"));
    Ok(Json(Page { items, next }))
}

async fn keys(
    State(api): State<Api>,
    Asker(caller): Asker,
    _: Parameters<Nothing>,
) -> Result<impl IntoResponse, Problem> {
    let (answers, _) = api.ask(caller, Request::Keys).await?;
    let keys = answers.into_iter().filter_map(|answer| match answer {
        Answer::Key(key) => Some(key),
        _ => None,
    });
    Ok(Json(Page { items: keys.collect(), next: None }))
}

async fn key(
    State(api): State<Api>,
    Asker(caller): Asker,
    _: Parameters<Nothing>,
    Named(id): Named,
) -> Result<impl IntoResponse, Problem> {
    let (answers, _) = api.ask(caller, Request::Keys).await?;
    let mut keys = answers.into_iter().filter_map(|answer| match answer {
        Answer::Key(key) => Some(key),
        _ => None,
    });
    let unknown = || refused(Refusal::new(Code::NotFound, "id").value(&id));
    Ok::<_, Problem>(Json(keys.find(|key| key.id == id).ok_or_else(unknown)?))
}

async fn create_key(
    State(api): State<Api>,
    Asker(caller): Asker,
    _: Parameters<Nothing>,
    headers: HeaderMap,
    Body(request): Body<CreateKey>,
) -> Result<impl IntoResponse, Problem> {
    if headers.contains_key(&IDEMPOTENCY_KEY) {
        let detail = "a key is not created with an Idempotency-Key: its secret is told once, so no answer can repeat it";
        let problem = Problem::new(StatusCode::BAD_REQUEST, Code::IdempotencyKey.name(), detail);
        let parameter = Some("Idempotency-Key".to_owned());
        return Err(Problem { parameter, ..problem }
            .hint("leave the header out; where an answer was lost, delete the key whose secret nobody has"));
    }
    let of = |answer| if let Answer::KeyCreated(created) = answer { Some(created) } else { None };
    let Json(created) = api.ask_one(caller, Request::CreateKey(request), of).await?;
    let location = format!("/v1/keys/{}", created.key.id);
    Ok((StatusCode::CREATED, [(LOCATION, location)], Json(created)))
}

async fn update_key(
    State(api): State<Api>,
    Asker(caller): Asker,
    _: Parameters<Nothing>,
    Named(id): Named,
    Body(values): Body<KeyValues>,
) -> Result<impl IntoResponse, Problem> {
    let of = |answer| if let Answer::Key(key) = answer { Some(key) } else { None };
    api.ask_one(caller, Request::UpdateKey { id, values }, of).await
}

async fn delete_key(
    State(api): State<Api>,
    Asker(caller): Asker,
    _: Parameters<Nothing>,
    Named(id): Named,
) -> Result<impl IntoResponse, Problem> {
    let of = |answer| if let Answer::Key(key) = answer { Some(key) } else { None };
    let Json(key) = api.ask_one(caller, Request::DeleteKey(id), of).await?;
    Ok(Json(Deleted { deleted: vec![key.id] }))
}

/// Whose usage to tell.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UsageQuery {
    by: UsageBy,
    limit: Option<u64>,
}

/// Which sessions to end.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct KillQuery {
    protocol: Option<Protocol>,
    inside: Option<AddressFilter>,
    eip: Option<AddressFilter>,
    peer: Option<AddressFilter>,
    entry: Option<String>,
    gateway: Option<String>,
    vpc: Option<String>,
    kind: Option<KindFilter>,
    reset: bool,
    all: bool,
}

/// A packet to explain.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Explain {
    /// Such as `tcp 198.51.100.1:5000 > 203.0.113.16:80`; `natgate explain --help` has all of the language.
    pub packet: String,
}

/// What is gone.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Deleted {
    /// Identifiers of what was deleted.
    pub deleted: Vec<String>,
}

/// The header that names a request, so that a repetition is not made again.
pub(super) static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The header that says that a request had been made before.
pub(super) static REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
