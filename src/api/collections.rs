//! Resources: each kind is a collection with the same five requests.

use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::Value;

use crate::api::caller::Asker;
use crate::api::input::{Body, Named, Nothing, Parameters};
use crate::api::problem::Problem;
use crate::api::routes::{Api, Deleted, IDEMPOTENCY_KEY, Page, REPLAYED, limit_of};
use crate::control::access::Caller;
use crate::control::inventory::Kind;
use crate::control::protocol::{
    self, Answer, ChangeAction, ChangeRequest, Changed, Fault, FaultCode, LiveSessions, Request,
    ResourcesRequest, SessionPolicy,
};

/// The resources of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Collection {
    /// Its place under `/v1`.
    pub path: &'static str,
    /// What is in it.
    pub kind: Kind,
    /// What one of it is called.
    pub title: &'static str,
}

/// All of them.
pub const ALL: [Collection; 7] = [
    Collection { path: "/v1/vpcs", kind: Kind::Vpc, title: "VPC" },
    Collection { path: "/v1/vswitches", kind: Kind::VSwitch, title: "vSwitch" },
    Collection { path: "/v1/gateways", kind: Kind::Gateway, title: "NAT gateway" },
    Collection { path: "/v1/bandwidth-plans", kind: Kind::Plan, title: "bandwidth plan" },
    Collection { path: "/v1/eips", kind: Kind::Eip, title: "elastic IP" },
    Collection { path: "/v1/dnat-entries", kind: Kind::Dnat, title: "DNAT entry" },
    Collection { path: "/v1/snat-entries", kind: Kind::Snat, title: "SNAT entry" },
];

/// Which part of a list.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListParameters {
    limit: Option<u64>,
    after: Option<String>,
}

/// How to delete.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeleteParameters {
    #[serde(default)]
    force: bool,
    live_sessions: Option<SessionPolicy>,
    drain_seconds: Option<u64>,
    reset: Option<bool>,
}

/// How to change.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateParameters {
    live_sessions: Option<SessionPolicy>,
    drain_seconds: Option<u64>,
    reset: Option<bool>,
}

/// What becomes of live sessions.
pub(super) fn policy_of(
    policy: Option<SessionPolicy>,
    drain_seconds: Option<u64>,
    reset: Option<bool>,
) -> Result<Option<LiveSessions>, Box<Problem>> {
    match policy {
        None if drain_seconds.is_some() || reset.is_some() => {
            let detail = "drain_seconds and reset go with live_sessions=keep, drain or kill";
            let problem = Problem::new(StatusCode::BAD_REQUEST, "missing-key", detail);
            Err(Box::new(Problem { parameter: Some("live_sessions".into()), ..problem }))
        }
        _ => Ok(policy.map(|policy| LiveSessions { policy, drain_seconds, reset: reset == Some(true) })),
    }
}

impl Collection {
    /// Its routes.
    pub(super) fn routes(self) -> Router<Api> {
        let list = async move |State(api): State<Api>, Asker(caller), Parameters(parameters)| {
            self.list(&api, caller, parameters).await
        };
        let create = async move |State(api): State<Api>,
                                 Asker(caller),
                                 Parameters(Nothing {}),
                                 headers: HeaderMap,
                                 Body(body): Body<Value>| {
            self.create(&api, caller, &headers, body).await
        };
        let show = async move |State(api): State<Api>,
                               Asker(caller),
                               Parameters(Nothing {}),
                               Named(id): Named| { self.show(&api, caller, id).await };
        let update = async move |State(api): State<Api>,
                                 Asker(caller),
                                 Parameters(parameters),
                                 Named(id): Named,
                                 Body(body): Body<Value>| {
            let UpdateParameters { live_sessions, drain_seconds, reset } = parameters;
            let sessions = policy_of(live_sessions, drain_seconds, reset)?;
            let request = ChangeRequest { id: Some(id), body, sessions, ..self.change(ChangeAction::Update) };
            api.change(&caller, request).await.map(|changed| Json(changed.resource))
        };
        let delete =
            async move |State(api): State<Api>, Asker(caller), Parameters(parameters), Named(id): Named| {
                let DeleteParameters { force, live_sessions, drain_seconds, reset } = parameters;
                let sessions = policy_of(live_sessions, drain_seconds, reset)?;
                let request =
                    ChangeRequest { id: Some(id), force, sessions, ..self.change(ChangeAction::Delete) };
                api.change(&caller, request).await.map(|changed| Json(Deleted { deleted: changed.deleted }))
            };
        Router::new()
            .route(self.path, get(list).post(create))
            .route(&format!("{}/{{id}}", self.path), get(show).patch(update).delete(delete))
    }

    fn change(self, action: ChangeAction) -> ChangeRequest {
        ChangeRequest {
            action,
            kind: self.kind.noun().into(),
            id: None,
            body: Value::Null,
            force: false,
            idempotency_key: None,
            sessions: None,
        }
    }

    async fn list(self, api: &Api, caller: Caller, parameters: ListParameters) -> Result<Response, Problem> {
        let limit = limit_of(parameters.limit)?;
        let request = ResourcesRequest {
            kind: self.kind.noun().into(),
            id: None,
            after: parameters.after,
            limit: Some(limit),
        };
        let (answers, end) = api.ask(caller, Request::Resources(request)).await?;
        let items: Vec<_> = answers.into_iter().filter_map(resource).collect();
        let last = items.last().and_then(|last| last.get("id")).and_then(Value::as_str);
        let next = last.filter(|_| end.truncated);
        let next = next.map(|last| format!("{}?after={last}&limit={limit}", self.path));
        Ok(Json(Page { items, next }).into_response())
    }

    async fn show(self, api: &Api, caller: Caller, id: String) -> Result<Response, Problem> {
        let request =
            ResourcesRequest { kind: self.kind.noun().into(), id: Some(id), ..ResourcesRequest::default() };
        let (answers, _) = api.ask(caller, Request::Resources(request)).await?;
        let shown = answers.into_iter().find_map(resource);
        let gone = || Fault::new(FaultCode::Failed, "the resource was deleted meanwhile");
        Ok(Json(shown.ok_or_else(gone)?).into_response())
    }

    async fn create(
        self,
        api: &Api,
        caller: Caller,
        headers: &HeaderMap,
        body: Value,
    ) -> Result<Response, Problem> {
        let key =
            headers.get(&IDEMPOTENCY_KEY).map(|key| String::from_utf8_lossy(key.as_bytes()).into_owned());
        let request = ChangeRequest { body, idempotency_key: key, ..self.change(ChangeAction::Create) };
        let Changed { resource, replayed, .. } = api.change(&caller, request).await?;
        let created = resource.as_ref().map(protocol::Json::value).unwrap_or_default();
        let location = format!("{}/{}", self.path, created["id"].as_str().unwrap_or_default());
        let mut response = (StatusCode::CREATED, [(LOCATION, location)], Json(resource)).into_response();
        if replayed {
            response.headers_mut().insert(&REPLAYED, HeaderValue::from_static("true"));
        }
        Ok(response)
    }
}

/// The resource of an answer.
fn resource(answer: Answer) -> Option<Value> {
    if let Answer::Resource(resource) = answer { Some(resource) } else { None }
}
