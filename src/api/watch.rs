//! Sessions that begin and end, as a stream: a line of JSON each (NDJSON), for a bounded time.
//!
//! The thread that watches waits for a client that is slow, but not long; what happens meanwhile is a line that says how much is missing.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use serde::Deserialize;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::api::caller::Asker;
use crate::api::input::Parameters;
use crate::api::problem::Problem;
use crate::api::routes::Api;
use crate::config::Code;
use crate::control::address::{AddressFilter, Protocol};
use crate::control::inventory::Refusal;
use crate::control::protocol::{Answer, Fault, KindFilter, Request, SessionsRequest, WatchRequest};
use crate::control::service::{Gone, Interrupted, Sink};
use crate::control::writer::refused;

/// Where it is.
pub(super) const WATCH: &str = "/v1/sessions/watch";
/// Seconds that it is watched where the request says nothing, and at most.
pub(super) const LONGEST_WATCH: u16 = 60;
/// Time that a client may take for what waits for it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of lines that are sent at once, and how many of such pieces wait.
const PIECE: usize = 16 * 1024;
const PIECES: usize = 8;

/// Which sessions to watch, and until when.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct WatchQuery {
    protocol: Option<Protocol>,
    inside: Option<AddressFilter>,
    eip: Option<AddressFilter>,
    peer: Option<AddressFilter>,
    entry: Option<String>,
    gateway: Option<String>,
    vpc: Option<String>,
    kind: Option<KindFilter>,
    events: Option<u64>,
    timeout_seconds: Option<u16>,
}

pub(super) async fn watch(
    State(api): State<Api>,
    Asker(caller): Asker,
    Parameters(query): Parameters<WatchQuery>,
) -> Result<Response, Problem> {
    let WatchQuery { protocol, inside, eip, peer, entry, gateway, vpc, kind, events, timeout_seconds } =
        query;
    let seconds = timeout_seconds.unwrap_or(LONGEST_WATCH);
    if !(1..=LONGEST_WATCH).contains(&seconds) {
        let refusal = Refusal::new(Code::OutOfRange, "timeout_seconds").value(seconds);
        return Err(refused(refusal.hint(format!("choose 1 to {LONGEST_WATCH}; then watch again"))).into());
    }
    let sessions =
        SessionsRequest { protocol, inside, eip, peer, entry, gateway, vpc, kind, limit: None, count: false };
    let request = WatchRequest { sessions, events, timeout_seconds: Some(seconds.into()) };
    let turn = api.turn().await?;
    let (pieces, mut stream) = channel(PIECES);
    let (service, runtime) = (Arc::clone(&api.service), Handle::current());
    let watched = spawn_blocking(move || {
        let mut lines = Lines { pieces, runtime, began: false, waiting: Vec::new() };
        let end = service.answer(&caller, Request::Watch(request), &mut lines);
        // What still waits when it ends; a client that has gone does not miss it.
        if lines.began {
            let _ = lines.flush();
        }
        drop(turn);
        end
    });
    // It begins with an empty piece, or not at all.
    if stream.recv().await.is_some() {
        return Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::new(Pieces(stream))).into_response());
    }
    match watched.await {
        Ok(Err(Interrupted::Fault(fault))) => Err(fault.into()),
        _ => Err(Fault::stopping().into()),
    }
}

/// Where the watching thread leaves lines.
struct Lines {
    pieces: Sender<Bytes>,
    runtime: Handle,
    began: bool,
    waiting: Vec<u8>,
}

impl Sink for Lines {
    fn send(&mut self, answer: &Answer) -> Result<(), Gone> {
        let Answer::Event(event) = answer else { return Ok(()) };
        serde_json::to_writer(&mut self.waiting, event).map_err(|_| Gone)?;
        self.waiting.push(b'\n');
        if self.waiting.len() >= PIECE { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Gone> {
        if self.began && self.waiting.is_empty() {
            return if self.pieces.is_closed() { Err(Gone) } else { Ok(()) };
        }
        if !self.began {
            self.began = true;
            self.runtime.block_on(self.pieces.send(Bytes::new())).map_err(|_| Gone)?;
        }
        let piece = std::mem::take(&mut self.waiting).into();
        let sent = self.runtime.block_on(async { timeout(PATIENCE, self.pieces.send(piece)).await });
        sent.map_err(|_| Gone)?.map_err(|_| Gone)
    }
}

/// Lines on their way to a client.
struct Pieces(Receiver<Bytes>);

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}
