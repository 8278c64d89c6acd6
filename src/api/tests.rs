//! Connections with a service behind them that tells what it is told to.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;

use super::caller::Peer;
use super::connection::Connection;
use super::places::Places;
use super::routes::{Api, router};
use crate::base::time::Clock;
use crate::control::access::Caller;
use crate::control::protocol::{Answer, ChangeRequest, Changed, End, Fault, FaultCode, Request};
use crate::control::service::{Interrupted, Service, Sink, Waiting};

const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(20);

/// Tells whoever watches of so many events; then that is all, or it goes wrong.
struct Fake {
    events: usize,
    ending: Result<End, Interrupted>,
    told: Sender<Result<End, Interrupted>>,
}

impl Service for Fake {
    fn answer(&self, _: &Caller, _: Request, sink: &mut dyn Sink) -> Result<End, Interrupted> {
        let event = Answer::Event(json!({"event": "created", "peer": "198.51.100.7:443"}));
        let told = sink.flush().and_then(|()| (0..self.events).try_for_each(|_| sink.send(&event)));
        let end = told.map_err(Interrupted::from).and_then(|()| self.ending.clone());
        self.told.send(end.clone()).unwrap();
        end
    }

    fn change(&self, _: &Caller, _: ChangeRequest, _: Waiting<Changed>) -> Result<(), Fault> {
        Err(Fault::stopping())
    }

    fn owner_of(&self, _: &str) -> Option<Caller> {
        None
    }
}

/// A client that watches, the thread that serves it, and what the service has seen.
fn watching(
    events: usize,
    ending: Result<End, Interrupted>,
) -> (UnixStream, JoinHandle<()>, Receiver<Result<End, Interrupted>>) {
    let (mut client, server) = UnixStream::pair().unwrap();
    client.set_read_timeout(Some(LONG)).unwrap();
    client
        .write_all(b"GET /v1/sessions/watch HTTP/1.1\r\nhost: natgate\r\nconnection: close\r\n\r\n")
        .unwrap();
    server.set_nonblocking(true).unwrap();
    let (told, seen) = channel();
    let serving = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut api = Api::new(Arc::new(Fake { events, ending, told }));
        api.patience = SHORT;
        let (_stop, stopping) = watch::channel(false);
        let connection = Connection { router: router(api), stopping, stall: SHORT };
        runtime.block_on(async {
            let stream = tokio::net::UnixStream::from_std(server).unwrap();
            let place = Places::new(1).take().await;
            connection.run(stream, Peer::Local { user: 0 }, place).await;
        });
    });
    (client, serving, seen)
}

/// What a client can read up to the end, and whether the answer has its end, too.
fn read(mut client: UnixStream) -> (String, bool) {
    let mut answer = Vec::new();
    // A connection that is reset has an end as well.
    let _ = client.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).unwrap();
    let is_whole = answer.ends_with("\r\n0\r\n\r\n");
    (answer, is_whole)
}

#[test]
fn a_watch_that_ends_is_whole() {
    let (client, serving, seen) = watching(3, Ok(End { count: 3, ..End::default() }));
    let (answer, is_whole) = read(client);
    assert!(is_whole && answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(answer.matches("created").count(), 3, "{answer}");
    assert!(seen.recv_timeout(LONG).unwrap().is_ok());
    serving.join().unwrap();
}

#[test]
fn a_watch_that_goes_wrong_breaks_off() {
    let fault = Fault::new(FaultCode::Unavailable, "worker 0 does not answer");
    let (client, serving, _seen) = watching(3, Err(fault.into()));
    // What was on its way may be lost with the connection, its head included.
    let (answer, is_whole) = read(client);
    assert!(!is_whole && (answer.is_empty() || answer.starts_with("HTTP/1.1 200")), "{answer}");
    serving.join().unwrap();
}

/// More than the stream and the socket hold: whoever watches is let go, the connection is closed, and what the client reads
/// afterwards has no end that could be taken for the end of what happened.
#[test]
fn a_client_that_takes_nothing_is_cut_off() {
    let (client, serving, seen) = watching(1_000_000, Ok(End::default()));
    let clock = Clock::start();
    let start = clock.now();
    assert_eq!(seen.recv_timeout(LONG).unwrap(), Err(Interrupted::Gone));
    serving.join().unwrap();
    let took = clock.now().since(start);
    assert!(took < Duration::from_secs(10), "{took:?}");
    let (answer, is_whole) = read(client);
    let lines = answer.matches("created").count();
    assert!(!is_whole && (1..1_000_000).contains(&lines), "{lines} lines, whole: {is_whole}");
}

/// One that is slow, but takes something now and then, gets all.
#[test]
fn a_client_that_is_slow_is_waited_for() {
    let (mut client, serving, seen) = watching(20_000, Ok(End::default()));
    let mut answer = Vec::new();
    let mut piece = vec![0; 256 * 1024];
    loop {
        std::thread::sleep(SHORT / 4);
        match client.read(&mut piece).unwrap() {
            0 => break,
            read => answer.extend_from_slice(&piece[..read]),
        }
    }
    let answer = String::from_utf8(answer).unwrap();
    assert_eq!(answer.matches("created").count(), 20_000);
    assert!(answer.ends_with("\r\n0\r\n\r\n"));
    assert!(seen.recv_timeout(LONG).unwrap().is_ok());
    serving.join().unwrap();
}
