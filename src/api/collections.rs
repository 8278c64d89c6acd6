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
    Answer, ChangeAction, ChangeRequest, Changed, Fault, FaultCode, Request, ResourcesRequest,
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
pub const ALL: [Collection; 6] = [
    Collection { path: "/v1/vpcs", kind: Kind::Vpc, title: "VPC" },
    Collection { path: "/v1/vswitches", kind: Kind::VSwitch, title: "vSwitch" },
    Collection { path: "/v1/gateways", kind: Kind::Gateway, title: "NAT gateway" },
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
                                 Parameters(Nothing {}),
                                 Named(id): Named,
                                 Body(body): Body<Value>| {
            let request = ChangeRequest { id: Some(id), body, ..self.change(ChangeAction::Update) };
            made(&api, caller, request).await.map(|changed| Json(changed.resource))
        };
        let delete = async move |State(api): State<Api>,
                                 Asker(caller),
                                 Parameters(DeleteParameters { force }),
                                 Named(id): Named| {
            let request = ChangeRequest { id: Some(id), force, ..self.change(ChangeAction::Delete) };
            made(&api, caller, request).await.map(|changed| Json(Deleted { deleted: changed.deleted }))
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
        let Changed { resource, replayed, .. } = made(api, caller, request).await?;
        let id = resource.as_ref().and_then(|resource| resource.get("id")).and_then(Value::as_str);
        let location = format!("{}/{}", self.path, id.unwrap_or_default());
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

/// Makes a change.
async fn made(api: &Api, caller: Caller, request: ChangeRequest) -> Result<Changed, Problem> {
    let (answers, _) = api.ask(caller, Request::Change(Box::new(request))).await?;
    let changed = answers.into_iter().find_map(|answer| match answer {
        Answer::Changed(changed) => Some(*changed),
        _ => None,
    });
    changed.ok_or_else(|| Fault::new(FaultCode::Failed, "there is no answer").into())
}
