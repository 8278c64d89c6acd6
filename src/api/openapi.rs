//! The OpenAPI document. Schemas come from the types that are sent; paths are few and alike, and are put together here.

use std::sync::LazyLock;

use axum::body::Bytes;
use axum::http::HeaderName;
use axum::http::header::CONTENT_TYPE;
use utoipa::openapi::path::{Operation, OperationBuilder, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ArrayBuilder, ComponentsBuilder, Content, HttpMethod, InfoBuilder, ObjectBuilder, OpenApi,
    OpenApiBuilder, PathItem, PathsBuilder, Ref, RefOr, Required, Response, ResponseBuilder, Schema, Type,
};

use crate::api::collections::{self, Collection};
use crate::api::problem::Problem;
use crate::api::routes::{Deleted, Explain, LONGEST_PAGE, PAGE};
use crate::api::watch::{LONGEST_WATCH, WATCH};
use crate::control::access::Role;
use crate::control::inventory::Kind;
use crate::control::inventory::spec::{
    DnatSpec, EipSpec, GatewaySpec, PlanSpec, RouteSpec, Scalar, SnatSpec, TimeoutSpec, VSwitchSpec, VpcSpec,
};
use crate::control::protocol::{
    Applied, CreateKey, Document, Key, KeyCreated, KeyValues, Killed, MeteredHour, Owner, Refused,
    Unconfirmed, Usage, UsageBy,
};

const JSON: &str = "application/json";

/// The document as it is sent. Anybody may ask for it again and again, so it is made once.
pub(super) fn served() -> ([(HeaderName, &'static str); 1], Bytes) {
    static TEXT: LazyLock<Bytes> =
        LazyLock::new(|| document().to_json().map_or_else(|_| Bytes::new(), Bytes::from));
    ([(CONTENT_TYPE, JSON)], TEXT.clone())
}

/// The document.
pub fn document() -> OpenApi {
    let mut paths = PathsBuilder::new();
    for collection in &collections::ALL {
        paths = resources(paths, *collection);
    }
    let object = || RefOr::T(Schema::from(ObjectBuilder::new()));
    paths = paths
        .path("/healthz", get("health", "Whether the API answers", vec![], object()).open())
        .path("/v1/openapi.json", get("document", "This document", vec![], object()).open())
        .path("/metrics", PathItem::new(HttpMethod::Get, metrics()))
        .path("/v1/status", get("status", "What runs: ports, workers, tables", vec![], object()))
        .path("/v1/stats", get("stats", "All counters", vec![], object()))
        .path("/v1/metering", {
            let summary = "What gateways and EIPs used, hour by hour, the oldest first";
            get("metering", summary, metering_filters(), page(reference("MeteredHour")))
        })
        .path("/v1/usage", {
            let summary = "What gateways, EIPs, entries or private hosts have carried, those with the most sessions first";
            get("usage", summary, usage_parameters(), page(reference("Usage")))
        })
        .path("/v1/sessions", {
            let mut listing = session_filters();
            listing.push(query("limit", "At most so many", Type::Integer));
            listing.push(query("count", "Only count them", Type::Boolean));
            let mut item = get("sessions", "Live sessions; all conditions hold", listing, object());
            let mut kill = operation("killSessions", "End sessions; all conditions hold");
            for parameter in session_filters() {
                kill = kill.parameter(parameter);
            }
            let kill = kill
                .parameter(query("reset", "Send TCP resets to both ends", Type::Boolean))
                .parameter(query("all", "All sessions; needed where there is no condition", Type::Boolean))
                .response("200", answer("How many have ended", reference("Killed")));
            item.delete = Some(kill.build());
            item
        })
        .path(WATCH, PathItem::new(HttpMethod::Get, watch()))
        .path("/v1/who", {
            let summary = "Who had an external address and port at a time, by the index of the session log";
            get("who", summary, who_parameters(), page(reference("Owner")))
        })
        .path(
            "/v1/audit",
            get("audit", "Who changed what, the newest first", audit_filters(), page(object())),
        )
        .path("/v1/explain", PathItem::new(HttpMethod::Post, explain()))
        .path("/v1/export", get("export", "All resources at one moment", vec![], reference("Document")))
        .path("/v1/apply", PathItem::new(HttpMethod::Post, apply()))
        .path(
            "/v1/apply/confirm",
            PathItem::new(HttpMethod::Post, trial("confirm", "Keep what the last apply made")),
        )
        .path(
            "/v1/apply/rollback",
            PathItem::new(
                HttpMethod::Post,
                trial("rollBack", "Take the last apply back, which is not confirmed"),
            ),
        )
        .path("/v1/keys", {
            let mut item =
                get("listKeys", "All API keys, without their secrets", vec![], page(reference("Key")));
            item.post = Some(
                operation("createKey", "Make an API key; only this answer tells its secret")
                    .request_body(Some(body("CreateKey")))
                    .response("201", answer("The key with its secret", reference("KeyCreated")))
                    .build(),
            );
            item
        })
        .path("/v1/keys/{id}", {
            let delete = operation("deleteKey", "Delete an API key; it opens nothing any more")
                .parameter(id())
                .response("200", answer("What is gone", reference("Deleted")));
            let mut item = PathItem::new(HttpMethod::Delete, delete.build());
            item.patch = Some(
                operation("updateKey", "Change the name or the role of an API key; its secret stays")
                    .parameter(id())
                    .request_body(Some(body("KeyValues")))
                    .response("200", answer("As it is now", reference("Key")))
                    .build(),
            );
            item.get = Some(
                operation("showKey", "Show an API key, without its secret")
                    .parameter(id())
                    .response("200", answer("As it is now", reference("Key")))
                    .build(),
            );
            item
        });
    let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    let components = ComponentsBuilder::new()
        .schema_from::<VpcSpec>()
        .schema_from::<VSwitchSpec>()
        .schema_from::<GatewaySpec>()
        .schema_from::<PlanSpec>()
        .schema_from::<EipSpec>()
        .schema_from::<DnatSpec>()
        .schema_from::<SnatSpec>()
        .schema_from::<RouteSpec>()
        .schema_from::<TimeoutSpec>()
        .schema_from::<Scalar>()
        .schema_from::<Key>()
        .schema_from::<Role>()
        .schema_from::<CreateKey>()
        .schema_from::<KeyValues>()
        .schema_from::<KeyCreated>()
        .schema_from::<Owner>()
        .schema_from::<Killed>()
        .schema_from::<MeteredHour>()
        .schema_from::<Usage>()
        .schema_from::<UsageBy>()
        .schema_from::<Refused>()
        .schema_from::<Deleted>()
        .schema_from::<Explain>()
        .schema_from::<Document>()
        .schema_from::<Applied>()
        .schema_from::<Unconfirmed>()
        .schema_from::<Problem>()
        .security_scheme("key", bearer);
    let about = "Resources of a NAT gateway, and what it does. A change is durable and in force on all workers when it is answered. Errors \
                 are problem details (RFC 9457) that name the parameter, its value and the rule.";
    OpenApiBuilder::new()
        .info(InfoBuilder::new().title("natgate").version("v1").description(Some(about)).build())
        .paths(paths.build())
        .components(Some(components.build()))
        .security(Some([SecurityRequirement::new::<_, [&str; 0], &str>("key", [])]))
        .build()
}

/// What a resource of a kind is called among the schemas.
const fn schema_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Vpc => "VpcSpec",
        Kind::VSwitch => "VSwitchSpec",
        Kind::Gateway => "GatewaySpec",
        Kind::Plan => "PlanSpec",
        Kind::Eip => "EipSpec",
        Kind::Dnat => "DnatSpec",
        Kind::Snat => "SnatSpec",
    }
}

fn resources(paths: PathsBuilder, collection: Collection) -> PathsBuilder {
    let Collection { path, kind, title } = collection;
    let one = || reference(schema_of(kind));
    let named = |verb: &str| format!("{verb}{}", schema_of(kind).trim_end_matches("Spec"));
    let list_parameters = vec![
        query("limit", &format!("At most so many, 1-{LONGEST_PAGE}; {PAGE} if not given"), Type::Integer),
        query("after", "Those behind this identifier", Type::String),
    ];
    let mut all = get(&named("list"), &format!("List: {title}"), list_parameters, page(one()));
    let idempotency = ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(
            "1-128 visible characters; a repetition with the same key is answered, and not made again",
        ))
        .schema(Some(ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[!-~]{1,128}$"))));
    all.post = Some(
        operation(&named("create"), &format!("Create: {title}"))
            .parameter(idempotency)
            .request_body(Some(body(schema_of(kind))))
            .response("201", answer("As it is now", one()))
            .build(),
    );
    let mut each = PathItem::new(
        HttpMethod::Get,
        operation(&named("show"), &format!("Show: {title}"))
            .parameter(id())
            .response("200", answer("As it is now", one()))
            .build(),
    );
    let mut update = operation(
        &named("update"),
        &format!("Change what is given; null takes a value away (RFC 7396): {title}"),
    );
    let mut delete = operation(&named("delete"), &format!("Delete: {title}"));
    if matches!(kind, Kind::Dnat | Kind::Snat) {
        for parameter in session_policy() {
            update = update.parameter(parameter.clone());
            delete = delete.parameter(parameter);
        }
    }
    each.patch = Some(
        update
            .parameter(id())
            .request_body(Some(body_of(RefOr::T(Schema::from(ObjectBuilder::new())))))
            .response("200", answer("As it is now", one()))
            .build(),
    );
    each.delete = Some(
        delete
            .parameter(id())
            .parameter(query("force", "Delete what uses it, too", Type::Boolean))
            .response("200", answer("What is gone", reference("Deleted")))
            .build(),
    );
    paths.path(path, all).path(format!("{path}/{{id}}"), each)
}

/// What becomes of the live sessions of an entry.
fn session_policy() -> [Parameter; 3] {
    let policy = "What becomes of live sessions that no entry stands behind any more: keep, drain or kill, which is the default";
    [
        query("live_sessions", policy, Type::String),
        query("drain_seconds", "How long they are drained, 1 to 2592000; 300 if not given", Type::Integer),
        query("reset", "Send TCP resets to both ends of those that end by this", Type::Boolean),
    ]
}

/// A path that needs no key.
trait Open {
    fn open(self) -> Self;
}

impl Open for PathItem {
    fn open(mut self) -> Self {
        if let Some(get) = &mut self.get {
            get.security = Some(vec![]);
        }
        self
    }
}

fn operation(name: &str, summary: &str) -> OperationBuilder {
    let problem = Content::new(Some(reference("Problem")));
    let problem = ResponseBuilder::new()
        .description("Why it was not done")
        .content("application/problem+json", problem);
    OperationBuilder::new()
        .operation_id(Some(name))
        .summary(Some(summary))
        .response("default", problem.build())
}

fn get(name: &str, summary: &str, parameters: Vec<Parameter>, content: RefOr<Schema>) -> PathItem {
    let operation = operation(name, summary)
        .parameters(Some(parameters))
        .response("200", answer("As it is now", content));
    PathItem::new(HttpMethod::Get, operation.build())
}

fn explain() -> Operation {
    operation("explain", "What would happen to a packet, without sending one")
        .request_body(Some(body("Explain")))
        .response(
            "200",
            answer("Its way, and the entry that takes it", RefOr::T(ObjectBuilder::new().into())),
        )
        .build()
}

fn watch() -> Operation {
    let about = "Sessions that begin and end from now on, as they do: a line of JSON each. One client can watch at a time";
    let lines = ObjectBuilder::new().schema_type(Type::String);
    let lines = Content::new(Some(RefOr::T(lines.into())));
    let lines =
        ResponseBuilder::new().description("Lines until the end").content("application/x-ndjson", lines);
    let seconds =
        format!("End after so many seconds, 1-{LONGEST_WATCH}, which is also what it is if not given");
    let mut watch = operation("watchSessions", about);
    for parameter in session_filters() {
        watch = watch.parameter(parameter);
    }
    watch
        .parameter(query("events", "End after so many lines", Type::Integer))
        .parameter(query("timeout_seconds", &seconds, Type::Integer))
        .response("200", lines.build())
        .build()
}

fn apply() -> Operation {
    let about =
        "Make all resources what a document says, in one transaction; what it does not name is removed";
    let mut apply = operation("apply", about);
    for parameter in session_policy() {
        apply = apply.parameter(parameter);
    }
    apply
        .parameter(query("dry_run", "Only say what would change", Type::Boolean))
        .parameter(query(
            "confirm_seconds",
            "Take it back after this time unless it is confirmed",
            Type::Integer,
        ))
        .parameter(query(
            "generation",
            "Only if this generation is still in force, that of a dry run",
            Type::Integer,
        ))
        .request_body(Some(body("Document")))
        .response("200", answer("What was changed", reference("Applied")))
        .build()
}

/// What becomes of an apply that waits to be confirmed.
fn trial(name: &str, summary: &str) -> Operation {
    operation(name, summary).response("200", answer("What was changed", reference("Applied"))).build()
}

fn metrics() -> Operation {
    let text = Content::new(Some(RefOr::T(ObjectBuilder::new().schema_type(Type::String).into())));
    let text =
        ResponseBuilder::new().description("The text format of Prometheus").content("text/plain", text);
    operation("metrics", "What Prometheus scrapes").response("200", text.build()).build()
}

fn reference(name: &str) -> RefOr<Schema> {
    RefOr::Ref(Ref::from_schema_name(name))
}

fn answer(description: &str, content: RefOr<Schema>) -> Response {
    ResponseBuilder::new().description(description).content(JSON, Content::new(Some(content))).build()
}

fn body(name: &str) -> utoipa::openapi::request_body::RequestBody {
    body_of(reference(name))
}

fn body_of(schema: RefOr<Schema>) -> utoipa::openapi::request_body::RequestBody {
    RequestBodyBuilder::new().required(Some(Required::True)).content(JSON, Content::new(Some(schema))).build()
}

fn page(item: RefOr<Schema>) -> RefOr<Schema> {
    let items = ArrayBuilder::new().items(item);
    let next = ObjectBuilder::new().schema_type(Type::String).description(Some("The path of the next page"));
    RefOr::T(ObjectBuilder::new().property("items", items).property("next", next).required("items").into())
}

fn id() -> ParameterBuilder {
    ParameterBuilder::new()
        .name("id")
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some("Its identifier, its name if no other has it, or an EIP's address"))
        .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
}

fn query(name: &str, meaning: &str, kind: Type) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Query)
        .required(Required::False)
        .description(Some(meaning))
        .schema(Some(ObjectBuilder::new().schema_type(kind)))
        .build()
}

fn session_filters() -> Vec<Parameter> {
    let texts = [
        ("protocol", "tcp, udp, icmp or a number"),
        ("inside", "The private address: ADDRESS[/LENGTH][:PORT] or :PORT"),
        ("eip", "The EIP and the port on it, likewise"),
        ("peer", "The peer, likewise"),
        ("entry", "The entry that made it: its name, or its identifier if it has none"),
        ("gateway", "Its gateway: identifier or name"),
        ("vpc", "Its VPC: identifier or name"),
        ("kind", "snat or dnat"),
    ];
    texts.into_iter().map(|(name, meaning)| query(name, meaning, Type::String)).collect()
}

fn metering_filters() -> Vec<Parameter> {
    vec![
        query(
            "from",
            "Hours that begin at this time or later; otherwise those of the last 24 hours",
            Type::String,
        ),
        query("to", "Hours that begin before this time", Type::String),
        query("gateway", "Of this gateway: identifier or name", Type::String),
        query("eip", "Of this EIP", Type::String),
        query("limit", "At most so many", Type::Integer),
    ]
}

fn usage_parameters() -> Vec<Parameter> {
    let mut by = query("by", "gateway, eip, entry or host", Type::String);
    by.required = Required::True;
    vec![by, query("limit", "At most so many", Type::Integer)]
}

fn who_parameters() -> Vec<Parameter> {
    let mut needed = [
        query("address", "The EIP", Type::String),
        query("protocol", "tcp, udp, icmp or a number", Type::String),
    ];
    for parameter in &mut needed {
        parameter.required = Required::True;
    }
    let mut all = needed.to_vec();
    all.push(query("port", "Its port, or ICMP identifier; zero where the protocol has none", Type::Integer));
    all.push(query("at", "When, in UTC, such as 2026-01-31T23:59:00Z; otherwise now", Type::String));
    all
}

fn audit_filters() -> Vec<Parameter> {
    vec![
        query("before", "Those before this number", Type::Integer),
        query("limit", "At most so many", Type::Integer),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The document that is checked in, for whoever makes clients.
    const CHECKED_IN: &str = "src/api/openapi.json";

    #[test]
    fn the_document_is_the_one_that_is_checked_in() {
        let mut text = document().to_pretty_json().unwrap();
        text.push('\n');
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(CHECKED_IN);
        if std::env::var_os("NATGATE_UPDATE").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let known = std::fs::read_to_string(path).unwrap_or_default();
        assert!(known == text, "{CHECKED_IN} is not up to date: NATGATE_UPDATE=1 cargo test --lib openapi");
    }
}
