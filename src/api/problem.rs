//! Errors, as problem details (RFC 9457).

use axum::http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::config::Code;
use crate::control::protocol::{Fault, FaultCode, Finding};

/// Why a request was not carried out. Nothing was changed, unless the code says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Problem {
    /// `about:blank`: the title is that of the status.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The status in words.
    pub title: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong, in a sentence.
    pub detail: String,
    /// The stable name of the rule or of the kind of error.
    pub code: String,
    /// The parameter at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameter: Option<String>,
    /// Its value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The rule that it breaks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The resources that stand in the way.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<String>,
    /// Every error of the configuration file, or of a document that is applied.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    pub findings: Vec<Finding>,
}

impl Problem {
    /// A problem with a status, a stable name and a sentence.
    pub fn new(status: StatusCode, code: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: detail.into(),
            code: code.into(),
            parameter: None,
            value: None,
            rule: None,
            hint: None,
            conflicts: Vec::new(),
            findings: Vec::new(),
        }
    }

    /// With what to do about it.
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// The status of a fault.
fn status_of(fault: &Fault) -> StatusCode {
    match fault.code {
        FaultCode::BadRequest | FaultCode::Version => StatusCode::BAD_REQUEST,
        FaultCode::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
        FaultCode::NotPermitted => StatusCode::FORBIDDEN,
        FaultCode::NeedsRestart => StatusCode::CONFLICT,
        FaultCode::Configuration => StatusCode::UNPROCESSABLE_ENTITY,
        // What is wrong with a document is between its own resources.
        FaultCode::Refused if !fault.findings.is_empty() => StatusCode::UNPROCESSABLE_ENTITY,
        FaultCode::Refused => match &fault.refusal {
            Some(refusal) if refusal.code == Code::NotFound && &*refusal.parameter == "id" => {
                StatusCode::NOT_FOUND
            }
            Some(refusal)
                if matches!(refusal.code, Code::Unconfirmed | Code::NotUnconfirmed | Code::Outdated) =>
            {
                StatusCode::CONFLICT
            }
            Some(refusal) if refusal.conflicts.is_empty() => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::CONFLICT,
        },
        FaultCode::Busy | FaultCode::NotInForce | FaultCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        FaultCode::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        FaultCode::Failed => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        let kind = serde_json::to_value(fault.code).ok();
        let kind = kind.as_ref().and_then(serde_json::Value::as_str).unwrap_or("failed");
        let problem = Self::new(status_of(&fault), kind, fault.message);
        let problem = Self { hint: fault.hint, findings: fault.findings, ..problem };
        let Some(refusal) = fault.refusal else { return problem };
        Self {
            code: refusal.code.name().to_owned(),
            parameter: Some(refusal.parameter.into_string()).filter(|parameter| !parameter.is_empty()),
            value: refusal.value.map(str::into_string),
            rule: Some(refusal.rule.into_string()),
            conflicts: refusal.conflicts,
            ..problem
        }
    }
}

impl From<Box<Problem>> for Problem {
    fn from(problem: Box<Problem>) -> Self {
        *problem
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
