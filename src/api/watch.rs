//! Sessions that begin and end, as a stream: a line of JSON each (NDJSON), for a bounded time.
//!
//! The thread that watches waits for a client that is slow, but not long; what happens meanwhile is a line that says how much is missing.
//! One that takes nothing in the end is cut off in the middle of the answer, so that it does not mistake it for a whole one.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
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
    let is_whole = Arc::new(AtomicBool::new(false));
    let (whole, patience) = (Arc::clone(&is_whole), api.patience);
    let watched = spawn_blocking(move || {
        let mut lines = Lines { pieces, runtime, patience, began: false, waiting: Vec::new() };
        let end = service.answer(&caller, Request::Watch(request), &mut lines);
        // What still waits when it ends.
        let is_told = end.is_ok() && (!lines.began || lines.flush().is_ok());
        whole.store(is_told, Ordering::Release);
        drop(turn);
        end
    });
    // It begins with an empty piece, or not at all.
    if stream.recv().await.is_some() {
        let pieces = Body::new(Pieces { stream, is_whole });
        return Ok(([(CONTENT_TYPE, "application/x-ndjson")], pieces).into_response());
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
    /// How long it waits for the client.
    patience: Duration,
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
        let sent = self.runtime.block_on(async { timeout(self.patience, self.pieces.send(piece)).await });
        sent.map_err(|_| Gone)?.map_err(|_| Gone)
    }
}

/// Lines on their way to a client.
struct Pieces {
    stream: Receiver<Bytes>,
    /// When there are no more: whether nothing is missing behind the last.
    is_whole: Arc<AtomicBool>,
}

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.stream.poll_recv(context).map(|piece| match piece {
            Some(piece) => Some(Ok(Frame::data(piece))),
            None if self.is_whole.load(Ordering::Acquire) => None,
            // The connection breaks off without the mark of an end.
            None => Some(Err(io::ErrorKind::TimedOut.into())),
        })
    }
}
