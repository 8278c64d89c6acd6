//! What comes with a request, read strictly: an unknown parameter is an error, not a filter that is silently ignored.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::response::IntoResponse;
use serde::de::DeserializeOwned;

use crate::api::problem::Problem;
use crate::config::Code;

/// A request that cannot be read: where the fault is, and what it is.
fn misread(what: &str, path: &serde_path_to_error::Path, error: &dyn std::fmt::Display) -> Problem {
    let error = error.to_string();
    let quoted = error.split('`').nth(1).map(str::to_owned);
    // A path that leads nowhere is one into a body that breaks off.
    let path = Some(path.to_string()).filter(|path| !matches!(path.as_str(), "." | "?"));
    let (code, parameter) = if error.starts_with("unknown field") {
        (Code::UnknownKey.name(), path.or(quoted))
    } else if error.starts_with("missing field") {
        (Code::MissingKey.name(), quoted)
    } else if path.is_some() {
        (Code::WrongType.name(), path)
    } else {
        ("bad-request", None)
    };
    let detail = match &parameter {
        Some(parameter) => format!("{what}, {parameter}: {error}"),
        None => format!("{what} is not understood: {error}"),
    };
    let problem = Problem::new(StatusCode::BAD_REQUEST, code, detail);
    Problem { parameter, ..problem }.hint("GET /v1/openapi.json tells what every path takes")
}

/// The parameters behind the question mark.
#[derive(Clone, Copy, Debug)]
pub struct Parameters<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default().as_bytes();
        let given = form_urlencoded::parse(query);
        let read = serde_path_to_error::deserialize(serde_urlencoded::Deserializer::new(given));
        read.map(Self).map_err(|error| {
            let problem = misread("the query", error.path(), error.inner());
            let value = form_urlencoded::parse(query)
                .find(|(name, _)| problem.parameter.as_deref() == Some(&**name))
                .map(|(_, value)| value.into_owned());
            Problem { value, ..problem }
        })
    }
}

/// No parameters at all.
#[derive(Clone, Copy, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// The resource that the path names.
#[derive(Clone, Debug)]
pub struct Named(pub String);

impl<S: Sync + Send> FromRequestParts<S> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        path.map(|Path(name)| Self(name)).map_err(|rejection| {
            let problem = Problem::new(StatusCode::BAD_REQUEST, "bad-request", rejection.body_text());
            Problem { parameter: Some("id".into()), ..problem }
        })
    }
}

/// A JSON body.
#[derive(Clone, Copy, Debug)]
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Sync + Send> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let kind =
            request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        let known = ["application/json", "application/merge-patch+json"];
        if !known.iter().any(|known| kind.eq_ignore_ascii_case(known)) {
            let detail = format!("the content type \"{kind}\" is not application/json");
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content-type", detail));
        }
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| {
            let status = rejection.into_response().status();
            let (code, detail) = match status {
                StatusCode::PAYLOAD_TOO_LARGE => ("too-long", "the body is larger than this path takes"),
                _ => ("bad-request", "the body could not be read"),
            };
            Problem::new(status, code, detail)
        })?;
        let mut deserializer = serde_json::Deserializer::from_slice(&bytes);
        let read = serde_path_to_error::deserialize(&mut deserializer)
            .map_err(|error| misread("the body", error.path(), error.inner()))?;
        deserializer.end().map_err(|error| {
            Problem::new(StatusCode::BAD_REQUEST, "bad-request", format!("the body goes on: {error}"))
        })?;
        Ok(Self(read))
    }
}
