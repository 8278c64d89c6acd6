//! Messages to a collector by TCP, over as many connections as it takes.
//!
//! Nothing here waits: connecting, sending and noticing that the other end is gone are steps that the log's thread makes now and
//! then. Messages wait in a bounded queue; what it has no room for is refused, and counted by whoever asked. A message that
//! was given to a connection is kept until so much was given after it that the kernel cannot have it any more undelivered: when a
//! connection breaks, all that are kept are sent again, whole, over the next one. So the collector's machine misses none, and may
//! see the last ones twice.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::base::Moment;

/// Bytes of messages that may wait, and be kept.
const QUEUE: usize = 4 << 20;
/// Bytes that the kernel is asked to hold undelivered; it doubles them.
const SEND_BUFFER: usize = 64 << 10;
/// Bytes that it can hold, with room to spare.
const FLIGHT: usize = 4 * SEND_BUFFER;
/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the other end may leave bytes unacknowledged, in milliseconds.
const SILENCE: u32 = 30_000;
/// Pause before the second attempt to connect; each further one is twice as long, up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(10);

/// One message.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) bytes: Vec<u8>,
    /// Lines in it; of an empty one: lines that are missing here.
    pub(super) lines: u64,
}

/// What a protocol does with the connections that it goes over.
pub(super) trait Session: Send {
    /// A connection was made: what is sent first.
    fn begin(&mut self) -> Vec<u8>;
    /// A message is about to be sent over this connection, for the first time or again.
    fn stamp(&mut self, message: &mut Message);
}

#[derive(Debug)]
enum Link {
    Down { until: Option<Moment> },
    Connecting { socket: TcpStream, since: Moment },
    Up(TcpStream),
}

/// Messages on their way to a collector.
#[derive(Debug)]
pub(super) struct Stream<S> {
    collector: SocketAddr,
    session: S,
    link: Link,
    pause: Duration,
    /// What is sent before the next message.
    first: Vec<u8>,
    /// The oldest first: those that were given to the connection and are kept, then those that wait.
    queue: VecDeque<Message>,
    /// How many of the queue were given to the connection wholly, and their bytes.
    given: usize,
    flight: usize,
    /// Bytes that were given to it of what comes next.
    begun: usize,
    is_stamped: bool,
    /// Bytes of the queue.
    bytes: usize,
}

impl<S: Session> Stream<S> {
    pub(super) fn new(collector: SocketAddr, session: S) -> Self {
        Self {
            collector,
            session,
            link: Link::Down { until: None },
            pause: FIRST_PAUSE,
            first: Vec::new(),
            queue: VecDeque::new(),
            given: 0,
            flight: 0,
            begun: 0,
            is_stamped: false,
            bytes: 0,
        }
    }

    /// Takes a message, or gives it back because there is no room.
    pub(super) fn push(&mut self, message: Message) -> Result<(), Message> {
        if self.bytes + message.bytes.len() > QUEUE {
            return Err(message);
        }
        self.bytes += message.bytes.len();
        self.queue.push_back(message);
        Ok(())
    }

    /// Notes that so many lines are missing before the next message.
    pub(super) fn skip(&mut self, lines: u64) {
        // One that is at hand, or that was passed, has been counted already.
        let waits = self.given + usize::from(self.is_stamped) < self.queue.len();
        match self.queue.back_mut().filter(|last| waits && last.bytes.is_empty()) {
            Some(last) => last.lines += lines,
            None => self.queue.push_back(Message { bytes: Vec::new(), lines }),
        }
    }

    /// Why nothing more is taken.
    pub(super) fn is_full() -> io::Error {
        io::Error::new(io::ErrorKind::WouldBlock, "more waits for the collector than there is room for")
    }

    /// Whether nothing waits.
    pub(super) fn is_settled(&self) -> bool {
        self.given == self.queue.len() && self.first.is_empty()
    }

    /// Lines that wait, and are given up.
    pub(super) fn abandon(&mut self) -> u64 {
        let waiting = self.queue.drain(..).skip(self.given);
        let lost = waiting.filter(|message| !message.bytes.is_empty()).map(|message| message.lines).sum();
        (self.given, self.flight, self.begun, self.bytes) = (0, 0, 0, 0);
        lost
    }

    /// Makes what steps can be made without waiting.
    ///
    /// # Errors
    /// Why there is no connection; another one is tried later.
    pub(super) fn advance(&mut self, now: Moment) -> io::Result<()> {
        let advanced = self.step(now);
        if advanced.is_err() {
            self.link = Link::Down { until: Some(now + self.pause) };
            self.pause = (self.pause * 2).min(LAST_PAUSE);
        }
        advanced.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", self.collector)))
    }

    fn step(&mut self, now: Moment) -> io::Result<()> {
        match std::mem::replace(&mut self.link, Link::Down { until: None }) {
            Link::Down { until: Some(until) } if now < until => {
                self.link = Link::Down { until: Some(until) };
                return Ok(());
            }
            Link::Down { .. } => {
                let socket = connect(self.collector)?;
                self.link = Link::Connecting { socket, since: now };
            }
            link => self.link = link,
        }
        if let Link::Connecting { socket, since } = &self.link {
            if is_connected(socket)? {
                let Link::Connecting { socket, .. } =
                    std::mem::replace(&mut self.link, Link::Down { until: None })
                else {
                    return Ok(());
                };
                self.link = Link::Up(socket);
                self.begin();
            } else if now.since(*since) >= CONNECT {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        if let Link::Up(socket) = &self.link {
            let socket = socket.try_clone()?;
            self.send(&socket)?;
        }
        Ok(())
    }

    /// Over a new connection everything that is kept goes again.
    fn begin(&mut self) {
        self.first = self.session.begin();
        (self.given, self.flight, self.begun, self.is_stamped) = (0, 0, 0, false);
    }

    fn send(&mut self, mut socket: &TcpStream) -> io::Result<()> {
        // It has nothing to say: it is asked whether it is still there.
        match socket.read(&mut [0; 256]) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::ConnectionReset, "the collector has hung up")),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            _ => {}
        }
        loop {
            let part = if self.first.is_empty() {
                let Some(message) = self.queue.get_mut(self.given) else { return Ok(()) };
                if !std::mem::replace(&mut self.is_stamped, true) {
                    self.session.stamp(message);
                }
                message.bytes.get(self.begun..).unwrap_or_default()
            } else {
                self.first.get(self.begun..).unwrap_or_default()
            };
            if !part.is_empty() {
                match socket.write(part) {
                    Ok(written) => self.begun += written,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error),
                }
                // Something arrives there: the next break is not the last one's.
                self.pause = FIRST_PAUSE;
            }
            self.count_what_is_whole();
        }
    }

    fn count_what_is_whole(&mut self) {
        if !self.first.is_empty() {
            if self.begun == self.first.len() {
                (self.first, self.begun) = (Vec::new(), 0);
            }
            return;
        }
        let Some(message) = self.queue.get(self.given).filter(|m| m.bytes.len() == self.begun) else {
            return;
        };
        self.flight += message.bytes.len();
        self.given += 1;
        (self.begun, self.is_stamped) = (0, false);
        while let Some(oldest) = self.queue.front()
            && self.given > 0
            && self.flight - oldest.bytes.len() >= FLIGHT
        {
            let len = oldest.bytes.len();
            self.queue.pop_front();
            (self.given, self.flight, self.bytes) = (self.given - 1, self.flight - len, self.bytes - len);
        }
    }
}

/// Begins to connect.
fn connect(collector: SocketAddr) -> io::Result<TcpStream> {
    let family = if collector.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_send_buffer_size(&socket, SEND_BUFFER)?;
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_user_timeout(&socket, SILENCE)?;
    match rustix::net::connect(&socket, &collector) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket.into()),
        Err(error) => Err(error.into()),
    }
}

fn is_connected(socket: &TcpStream) -> io::Result<bool> {
    let mut fds = [PollFd::new(socket, PollFlags::OUT)];
    if poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? == 0 {
        return Ok(false);
    }
    sockopt::socket_error(socket)??;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Counts connections and numbers messages anew over each.
    #[derive(Debug, Default)]
    struct Numbers {
        connections: u32,
        next: u64,
    }

    impl Session for Numbers {
        fn begin(&mut self) -> Vec<u8> {
            self.connections += 1;
            self.next = 0;
            format!("hello {}\n", self.connections).into_bytes()
        }

        fn stamp(&mut self, message: &mut Message) {
            if !message.bytes.is_empty() {
                let number = format!("{:08}", self.next);
                message.bytes[..8].copy_from_slice(number.as_bytes());
            }
            self.next += message.lines;
        }
    }

    fn message(n: u64) -> Message {
        Message { bytes: format!("00000000 {n:08}{}\n", "x".repeat(100)).into_bytes(), lines: 1 }
    }

    /// Advances until it is so; fails after ten seconds.
    fn until(
        stream: &mut Stream<Numbers>,
        now: &mut Moment,
        mut so: impl FnMut(&mut Stream<Numbers>) -> bool,
    ) {
        for _ in 0..2000 {
            *now = *now + Duration::from_millis(100);
            let _ = stream.advance(*now);
            if so(stream) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("in vain: {stream:?}");
    }

    fn lines(mut socket: &TcpStream, text: &mut String) {
        socket.set_nonblocking(true).unwrap();
        let mut chunk = [0; 4096];
        while let Ok(read) = socket.read(&mut chunk) {
            if read == 0 {
                return;
            }
            text.push_str(std::str::from_utf8(&chunk[..read]).unwrap());
        }
    }

    #[test]
    fn what_is_undelivered_when_a_connection_breaks_comes_over_the_next_one() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // What the other end's kernel has and nobody reads is lost with it: it is to have little.
        sockopt::set_socket_recv_buffer_size(&listener, 4096).unwrap();
        let mut stream = Stream::new(listener.local_addr().unwrap(), Numbers::default());
        let mut now = Moment::from_secs(1);
        let mut sent = 0;
        let mut seen = std::collections::BTreeSet::new();
        for connection in 1..=3 {
            for _ in 0..5000 {
                stream.push(message(sent)).unwrap();
                sent += 1;
            }
            until(&mut stream, &mut now, |stream| matches!(stream.link, Link::Up(_)));
            let socket = listener.accept().unwrap().0;
            let mut text = String::new();
            // The second reads a part, and the others all.
            let enough = if connection == 2 { 100_000 } else { usize::MAX };
            until(&mut stream, &mut now, |stream| {
                lines(&socket, &mut text);
                text.len() > enough || stream.is_settled() && text.ends_with('\n')
            });
            if connection != 2 {
                std::thread::sleep(Duration::from_millis(20));
                lines(&socket, &mut text);
            }
            drop(socket);
            let mut got = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            assert_eq!(got.next(), Some(format!("hello {connection}\n").as_str()));
            for (n, line) in got.enumerate() {
                assert_eq!(line[..8].parse::<usize>().unwrap(), n, "numbered anew, without a gap");
                seen.insert(line[9..17].parse::<u64>().unwrap());
            }
            until(&mut stream, &mut now, |stream| !matches!(stream.link, Link::Up(_)));
        }
        assert_eq!(seen.len() as u64, sent);
        assert_eq!(stream.session.connections, 3);
    }

    #[test]
    fn without_a_collector_the_queue_fills_and_refuses() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut stream = Stream::new(closed, Numbers::default());
        let mut now = Moment::from_secs(1);
        let taken = (0..1_000_000).take_while(|n| stream.push(message(*n)).is_ok()).count();
        assert_eq!(taken, QUEUE / message(0).bytes.len());
        let mut failures = 0;
        for _ in 0..1000 {
            now = now + Duration::from_millis(20);
            failures += u32::from(stream.advance(now).is_err());
            std::thread::sleep(Duration::from_micros(100));
        }
        assert!((3..=8).contains(&failures), "{failures} attempts in 20 s");
        assert!(stream.push(message(0)).is_err());
        assert_eq!(stream.abandon(), taken as u64);
        assert!(stream.push(message(0)).is_ok());
    }
}
