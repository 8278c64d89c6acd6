//! One client's conversation.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Deserialize;

use crate::base::time::Clock;
use crate::control::access::Caller;
use crate::control::protocol::{Answer, Envelope, Fault, FaultCode, VERSION};
use crate::control::service::{Gone, Interrupted, Service, Sink};
use crate::control::socket::Limits;

/// Bytes of answers that are collected before they are sent.
const CHUNK: usize = 32 * 1024;
/// How long, and how often, what a refused client still sends is read and discarded.
const DISCARD_TIME: Duration = Duration::from_secs(1);
const DISCARD_READS: usize = 256;

/// Answers a client's requests until it goes, breaks the framing or is too slow.
pub(super) fn serve(stream: &UnixStream, caller: &Caller, service: &dyn Service, limits: &Limits) {
    if stream.set_write_timeout(Some(limits.write)).is_err() {
        return;
    }
    let mut lines = Lines { stream, buffer: Vec::new(), clock: Clock::start() };
    let mut sink = SocketSink { stream, buffer: Vec::with_capacity(CHUNK) };
    loop {
        let line = match lines.next(limits) {
            Ok(Some(line)) => line,
            Ok(None) => return,
            // What comes after would be read from the middle of a line: say why, and end.
            Err(fault) => {
                let _ = sink.send(&Answer::Error(fault));
                let _ = sink.flush();
                lines.discard();
                return;
            }
        };
        let asked = read_request(&line).and_then(|Envelope { key, request, .. }| {
            let owner = key.map(|key| owner_of(&key, service)).transpose()?;
            Ok((owner, request))
        });
        let last = match asked {
            Ok((owner, request)) => {
                let caller = owner.as_ref().unwrap_or(caller);
                service.answer(caller, request, &mut sink).map(Answer::End)
            }
            Err(fault) => Err(Interrupted::Fault(fault)),
        };
        let last = match last {
            Ok(end) => end,
            Err(Interrupted::Fault(fault)) => Answer::Error(fault),
            Err(Interrupted::Gone) => return,
        };
        if sink.send(&last).and_then(|()| sink.flush()).is_err() {
            return;
        }
    }
}

/// Says no to a connection without waiting for it.
pub(super) fn refuse(stream: &UnixStream, fault: &Fault) {
    log::warn!("management socket: connection refused: {fault}");
    let mut sink = SocketSink { stream, buffer: Vec::new() };
    if stream.set_nonblocking(true).is_ok() {
        let _ = sink.send(&Answer::Error(fault.clone()));
        let _ = sink.flush();
    }
}

/// Whom a client asks as, besides itself.
fn owner_of(key: &str, service: &dyn Service) -> Result<Caller, Fault> {
    service.owner_of(key).ok_or_else(|| {
        Fault::new(FaultCode::NotPermitted, "no API key has this secret")
            .hint("natgate key create makes one; without NATGATE_KEY you ask as yourself")
    })
}

fn read_request(line: &[u8]) -> Result<Envelope, Fault> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let bad = |error: serde_json::Error| {
        Fault::new(FaultCode::BadRequest, format!("the request line is not understood: {error}"))
            .hint("a request is one line such as {\"version\":1,\"request\":\"status\"}")
    };
    // The version first: a request of another version may well look strange.
    let Version { version } = serde_json::from_slice(line).map_err(bad)?;
    if version != VERSION {
        let message = format!("protocol version {version} is not spoken here, {VERSION} is");
        return Err(
            Fault::new(FaultCode::Version, message).hint("use the client of the gateway's own version")
        );
    }
    serde_json::from_slice(line).map_err(bad)
}

struct Lines<'a> {
    stream: &'a UnixStream,
    buffer: Vec<u8>,
    clock: Clock,
}

impl Lines<'_> {
    /// The next line without its line feed, or none at the end. It must come as a whole in time: a client that sends a
    /// byte now and then does not hold its connection for ever.
    fn next(&mut self, limits: &Limits) -> Result<Option<Vec<u8>>, Fault> {
        let deadline = self.clock.now() + limits.read;
        let mut searched = 0;
        loop {
            if let Some(at) = self.buffer[searched..].iter().position(|&byte| byte == b'\n') {
                let rest = self.buffer.split_off(searched + at + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.pop();
                return Ok(Some(line));
            }
            searched = self.buffer.len();
            if searched >= limits.request {
                let message = format!("the request line is longer than {} bytes", limits.request);
                return Err(Fault::new(FaultCode::TooLong, message));
            }
            let left = deadline.since(self.clock.now());
            let mut chunk = [0; 4096];
            let room = chunk.len().min(limits.request - searched);
            match self.read(&mut chunk[..room], left) {
                Ok(0) if self.buffer.is_empty() => return Ok(None),
                Ok(0) => {
                    let message = "the request ends without a line feed";
                    return Err(Fault::new(FaultCode::BadRequest, message));
                }
                Ok(read) => self.buffer.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    let message = format!("no whole request line came within {:?}", limits.read);
                    return Err(Fault::new(FaultCode::TimedOut, message));
                }
                Err(_) => return Ok(None),
            }
        }
    }

    /// Reads on for a moment without looking: closing with something unread would reset the connection, and the client
    /// would not learn why.
    fn discard(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
        let deadline = self.clock.now() + DISCARD_TIME;
        let mut chunk = [0; 4096];
        for _ in 0..DISCARD_READS {
            if !matches!(self.read(&mut chunk, deadline.since(self.clock.now())), Ok(read) if read > 0) {
                return;
            }
        }
    }

    fn read(&mut self, chunk: &mut [u8], left: Duration) -> io::Result<usize> {
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(chunk)
    }
}

struct SocketSink<'a> {
    stream: &'a UnixStream,
    buffer: Vec<u8>,
}

impl SocketSink<'_> {
    fn write_out(&mut self) -> Result<(), Gone> {
        let written = self.stream.write_all(&self.buffer);
        self.buffer.clear();
        written.map_err(|_| Gone)
    }
}

impl Sink for SocketSink<'_> {
    fn send(&mut self, answer: &Answer) -> Result<(), Gone> {
        serde_json::to_writer(&mut self.buffer, answer).map_err(|_| Gone)?;
        self.buffer.push(b'\n');
        if self.buffer.len() >= CHUNK { self.write_out() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Gone> {
        self.write_out()?;
        // A client that only ended its own sending still reads; one that hung up does not.
        let mut fds = [PollFd::new(self.stream, PollFlags::empty())];
        let polled = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        let gone = polled.is_ok() && fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR);
        if gone { Err(Gone) } else { Ok(()) }
    }
}
