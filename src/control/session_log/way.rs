//! How messages go to a collector.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use super::stream::{Session, Stream};
use crate::base::Moment;
use crate::config::{Collector, Transport};

/// By datagrams, which are sent or not, or by connections.
pub(super) enum Way<S> {
    Udp(UdpSocket, SocketAddr),
    Tcp(Stream<S>),
}

impl<S: Session> Way<S> {
    /// The way to a collector; `session` says what a connection begins with.
    pub(super) fn open(collector: Collector, session: S) -> io::Result<Self> {
        let address = collector.address;
        Ok(match collector.transport {
            Transport::Udp => Self::Udp(socket_towards(address)?, address),
            Transport::Tcp => Self::Tcp(Stream::new(address, session)),
        })
    }

    /// Goes on with what waits.
    pub(super) fn advance(&mut self, now: Moment) -> io::Result<()> {
        match self {
            Self::Udp(..) => Ok(()),
            Self::Tcp(stream) => stream.advance(now),
        }
    }

    /// Whether nothing waits.
    pub(super) fn is_settled(&self) -> bool {
        match self {
            Self::Udp(..) => true,
            Self::Tcp(stream) => stream.is_settled(),
        }
    }

    /// Gives up what waits: how many lines that are.
    pub(super) fn abandon(&mut self) -> u64 {
        match self {
            Self::Udp(..) => 0,
            Self::Tcp(stream) => stream.abandon(),
        }
    }
}

/// A socket that waits for nothing. It is not connected: a server that is away for a while is no error.
fn socket_towards(server: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
