//! One connection and its bounds: how long a header and a body may take to come, how large they may be, how long a request may
//! take to be answered, the answer to be taken, and the connection to live. A client that is within them notices none.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, Response, StatusCode};
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::api::caller::Peer;
use crate::api::places::Place;
use crate::api::problem::Problem;
use crate::api::taken::Taken;
use crate::api::watch::LONGEST_WATCH;
use crate::api::whole;

/// Time for a request's header to come, and for a connection to wait for the next request.
pub(super) const HEADER: Duration = Duration::from_secs(10);
/// Time for a request's body to come.
const BODY_TIME: Duration = Duration::from_secs(10);
/// Bytes of a header, and of a body.
const LARGEST: usize = 64 * 1024;
/// Time for a request to be answered: longer than a change waits to be in force.
const ANSWER: Duration = Duration::from_secs(30);
/// Time for which a client may take nothing of an answer that it is sent.
pub(super) const STALL: Duration = Duration::from_secs(10);
/// Time for the last answer of a connection to be taken: as long as the longest, and some more.
const LAST: Duration = Duration::from_secs(LONGEST_WATCH as u64 + 30);
/// After so long a connection takes no further request, so that none is held for ever.
const LIFE: Duration = Duration::from_mins(2);

/// A connection to be served.
pub(super) struct Connection {
    pub(super) router: Router,
    pub(super) stopping: watch::Receiver<bool>,
    /// [`STALL`].
    pub(super) stall: Duration,
}

impl Connection {
    /// Answers its requests, until it ends, lives too long or its place is wanted.
    pub(super) async fn run(self, stream: impl AsyncRead + AsyncWrite + Unpin, peer: Peer, place: Place) {
        let Self { router, mut stopping, stall } = self;
        let service = service_fn(|request| answer(router.clone(), peer, &place, request));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER)
            .max_buf_size(LARGEST)
            .serve_connection(TokioIo::new(Taken::new(stream, stall)), service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            // Whatever ends a connection early is the client's doing.
            _ = connection.as_mut() => return,
            () = place.wanted() => return,
            () = sleep(LIFE) => {}
            _ = stopping.changed() => {}
        }
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            _ = timeout(LAST, connection) => {}
            () = place.wanted() => {}
        }
    }
}

/// Reads a request as a whole, then answers it: whoever sends it slowly keeps nobody busy. Only a document of all resources,
/// which may be large, is read by whoever has seen that the client may send one.
async fn answer(
    router: Router,
    peer: Peer,
    place: &Place,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    if parts.uri.path() == whole::APPLY {
        return route(router, peer, place, Request::from_parts(parts, Body::new(body))).await;
    }
    let body = match timeout(BODY_TIME, to_bytes(Body::new(body), LARGEST)).await {
        Ok(Ok(body)) => body,
        // Or the client is gone, and nobody reads this.
        Ok(Err(_)) => {
            let detail = format!("the body is larger than {} KiB", LARGEST / 1024);
            return Ok(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-long", detail).into_response());
        }
        Err(_) => {
            let detail = format!("the body did not come within {} s", BODY_TIME.as_secs());
            return Ok(Problem::new(StatusCode::REQUEST_TIMEOUT, "timed-out", detail).into_response());
        }
    };
    route(router, peer, place, Request::from_parts(parts, Body::from(body))).await
}

async fn route(
    router: Router,
    peer: Peer,
    place: &Place,
    mut request: Request<Body>,
) -> Result<Response<Body>, Infallible> {
    request.extensions_mut().insert(peer);
    let _working = place.work();
    let answered = timeout(ANSWER, TowerToHyperService::new(router).call(request)).await;
    answered.unwrap_or_else(|_| {
        let detail = format!("there was no answer within {} s", ANSWER.as_secs());
        let problem = Problem::new(StatusCode::GATEWAY_TIMEOUT, "timed-out", detail);
        Ok(problem
            .hint("a change may still be made: look, or repeat it with the same idempotency key")
            .into_response())
    })
}
