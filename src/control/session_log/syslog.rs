//! Lines to a syslog server: RFC 5424 in datagrams (RFC 5426), the JSON object as the message.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use super::Place;
use super::line::Line;
use crate::base::Moment;
use crate::control::time;

/// Facility local0, severity informational.
const PRIORITY: u8 = 16 * 8 + 6;

/// A syslog server.
pub(super) struct Syslog {
    socket: UdpSocket,
    server: SocketAddr,
    host: String,
    process: u32,
}

impl Syslog {
    pub(super) fn open(server: SocketAddr) -> io::Result<Self> {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Ok(Self { socket: socket_towards(server)?, server, host, process: std::process::id() })
    }
}

/// A socket that waits for nothing. It is not connected: a server that is away for a while is no error.
pub(super) fn socket_towards(server: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

impl Place for Syslog {
    fn write(&mut self, line: &Line) -> io::Result<()> {
        let Self { socket, server, host, process } = self;
        let (time, event, json) = (time::format_millis(line.time), line.event(), line.json());
        let message = format!("<{PRIORITY}>1 {time} {host} natgate {process} {event} - {json}");
        socket.send_to(message.as_bytes(), *server).map(drop)
    }

    fn flush(&mut self, _: Moment) -> io::Result<()> {
        Ok(())
    }
}
