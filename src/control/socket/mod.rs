//! The management socket: a Unix socket that only root and the gateway's own user may use. This is transport only: lines
//! in, lines out, limits. What the lines mean is [`crate::control::protocol`], who answers is a
//! [`Service`].
//!
//! A thread a connection, at most [`Limits::connections`] of them: a slow client costs itself a thread and the others
//! nothing.

pub mod bind;
mod connection;

use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

pub use bind::{BindError, Listener};

use crate::base::time::Clock;
use crate::control::access;
use crate::control::protocol::{Fault, FaultCode, MAX_REQUEST};
use crate::control::service::Service;

/// What a client may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Bytes of a request line.
    pub request: usize,
    /// Time for a whole request line to come, from the connection's start or the answer before.
    pub read: Duration,
    /// Time for the client to take some of an answer.
    pub write: Duration,
    /// Time that connections have to end when the server stops.
    pub stop: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 32,
            request: MAX_REQUEST,
            read: Duration::from_secs(10),
            write: Duration::from_secs(10),
            stop: Duration::from_secs(2),
        }
    }
}

/// The open connections, so that they can be counted and ended.
#[derive(Debug, Default)]
struct Connections {
    open: Mutex<HashMap<u64, UnixStream>>,
}

impl Connections {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, UnixStream>> {
        // A thread that panicked left the map whole: inserting and removing are single steps.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a connection off the list when its thread ends, even by a panic.
struct Membership {
    connections: Arc<Connections>,
    id: u64,
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.connections.lock().remove(&self.id);
    }
}

/// A running management listener.
#[derive(Debug)]
pub struct Server {
    wake: UnixStream,
    acceptor: Option<JoinHandle<Listener>>,
    connections: Arc<Connections>,
    stop: Duration,
}

impl Server {
    /// Starts to answer.
    ///
    /// # Errors
    /// The kernel's, when it gives no thread or no descriptor.
    pub fn start(listener: Listener, service: Arc<dyn Service>, limits: Limits) -> io::Result<Self> {
        let (wake, woken) = UnixStream::pair()?;
        listener.socket().set_nonblocking(true)?;
        let connections = Arc::new(Connections::default());
        let acceptor = Acceptor { service, limits, connections: Arc::clone(&connections), next: 0 };
        let acceptor = std::thread::Builder::new()
            .name("mgmt-accept".into())
            .spawn(move || acceptor.run(listener, &woken))?;
        Ok(Self { wake, acceptor: Some(acceptor), connections, stop: limits.stop })
    }

    /// Ends all connections, waits a bounded time for their threads, and removes the socket.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.wake.shutdown(Shutdown::Both);
        if let Some(acceptor) = self.acceptor.take() {
            // The listener, and with it the socket's file, goes here.
            let _ = acceptor.join();
        }
        for stream in self.connections.lock().values() {
            // What was answered is still delivered; a new request finds the end.
            let _ = stream.shutdown(Shutdown::Read);
        }
        let clock = Clock::start();
        let start = clock.now();
        while !self.connections.lock().is_empty() && clock.now().since(start) < self.stop {
            std::thread::sleep(Duration::from_millis(2));
        }
        for stream in self.connections.lock().values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

struct Acceptor {
    service: Arc<dyn Service>,
    limits: Limits,
    connections: Arc<Connections>,
    next: u64,
}

impl Acceptor {
    /// Takes connections until `woken` says to stop; gives the listener back.
    fn run(mut self, listener: Listener, woken: &UnixStream) -> Listener {
        loop {
            let mut fds = [PollFd::new(listener.socket(), PollFlags::IN), PollFd::new(woken, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    log::error!("management socket: waiting for connections failed: {error}");
                    return listener;
                }
            }
            if !fds[1].revents().is_empty() {
                return listener;
            }
            match listener.socket().accept() {
                Ok((stream, _)) => self.admit(&stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    // Out of descriptors, most likely: wait instead of spinning.
                    log::warn!("management socket: a connection could not be taken: {error}");
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        }
    }

    fn admit(&mut self, stream: &UnixStream) {
        if let Err(fault) = self.start(stream) {
            connection::refuse(stream, &fault);
        }
    }

    fn start(&mut self, stream: &UnixStream) -> Result<(), Fault> {
        let failed = |error: io::Error| Fault::new(FaultCode::Unavailable, format!("no connection: {error}"));
        let peer = rustix::net::sockopt::socket_peercred(stream).map_err(|error| failed(error.into()))?;
        let own = rustix::process::geteuid();
        let caller = access::admitted(peer.uid.as_raw(), own.as_raw())?;
        let limit = self.limits.connections;
        let served = stream.try_clone().map_err(failed)?;
        let listed = stream.try_clone().map_err(failed)?;
        let id = self.next;
        self.next += 1;
        {
            let mut open = self.connections.lock();
            if open.len() >= limit {
                return Err(Fault::new(
                    FaultCode::Busy,
                    format!("all {limit} management connections are taken"),
                )
                .hint("try again when another command has ended"));
            }
            open.insert(id, listed);
        }
        let membership = Membership { connections: Arc::clone(&self.connections), id };
        let service = Arc::clone(&self.service);
        let limits = self.limits;
        std::thread::Builder::new()
            .name("mgmt-client".into())
            .spawn(move || {
                let _membership = membership;
                connection::serve(&served, &caller, &*service, &limits);
            })
            .map(drop)
            .map_err(failed)
    }
}

#[cfg(test)]
pub(crate) mod scratch;
#[cfg(test)]
mod tests;
