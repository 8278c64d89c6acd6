//! Lines to a syslog server: RFC 5424, the JSON object as the message; in datagrams (RFC 5426), or by TCP with octet counting
//! (RFC 6587 3.4.1).

use std::io;

use super::Place;
use super::line::Line;
use super::stream::{Message, Session, Stream};
use super::way::Way;
use crate::base::Moment;
use crate::config::Collector;
use crate::control::time;

/// Facility local0, severity informational.
const PRIORITY: u8 = 16 * 8 + 6;

/// A syslog server.
pub(super) struct Syslog {
    way: Way<Plain>,
    host: String,
    process: u32,
    lost: u64,
}

/// A connection begins with nothing, and a message is the same over each.
struct Plain;

impl Session for Plain {
    fn begin(&mut self) -> Vec<u8> {
        Vec::new()
    }

    fn stamp(&mut self, _: &mut Message) {}
}

impl Syslog {
    pub(super) fn open(server: Collector) -> io::Result<Self> {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Ok(Self { way: Way::open(server, Plain)?, host, process: std::process::id(), lost: 0 })
    }
}

impl Place for Syslog {
    fn write(&mut self, line: &Line) -> io::Result<()> {
        let Self { way, host, process, .. } = self;
        let (time, event, json) = (time::format_millis(line.time), line.event(), line.json());
        let message = format!("<{PRIORITY}>1 {time} {host} natgate {process} {event} - {json}");
        match way {
            Way::Udp(socket, server) => socket.send_to(message.as_bytes(), *server).map(drop),
            Way::Tcp(stream) => {
                let bytes = format!("{} {message}", message.len()).into_bytes();
                stream.push(Message { bytes, lines: 1 }).map_err(|_| Stream::<Plain>::is_full())
            }
        }
    }

    fn flush(&mut self, now: Moment) -> io::Result<()> {
        self.way.advance(now)
    }

    fn is_settled(&self) -> bool {
        self.way.is_settled()
    }

    fn abandon(&mut self) {
        self.lost += self.way.abandon();
    }

    fn lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }
}
