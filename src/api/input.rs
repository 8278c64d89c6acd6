//! What comes with a request, read strictly: an unknown parameter is an error, not a filter that is silently ignored.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::response::IntoResponse;
use serde::de::DeserializeOwned;

use crate::api::problem::Problem;

/// The parameters behind the question mark.
#[derive(Clone, Copy, Debug)]
pub struct Parameters<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Query(parameters) = Query::try_from_uri(&parts.uri).map_err(|error| {
            Problem::new(StatusCode::BAD_REQUEST, "bad-request", error.body_text())
                .hint("GET /v1/openapi.json tells the parameters of every path")
        })?;
        Ok(Self(parameters))
    }
}

/// No parameters at all.
#[derive(Clone, Copy, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// A JSON body.
#[derive(Clone, Copy, Debug)]
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Sync + Send> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let kind =
            request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !matches!(kind, "application/json" | "application/merge-patch+json") {
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
        let read = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
            let parameter = Some(error.path().to_string()).filter(|path| path != ".");
            let detail = format!("the body is not understood: {}", error.into_inner());
            Problem { parameter, ..Problem::new(StatusCode::BAD_REQUEST, "bad-request", detail) }
        })?;
        deserializer.end().map_err(|error| {
            Problem::new(StatusCode::BAD_REQUEST, "bad-request", format!("the body goes on: {error}"))
        })?;
        Ok(Self(read))
    }
}
