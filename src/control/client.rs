//! The other end of the management socket.

use std::io::{self, BufRead, BufReader, Write};
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use crate::control::protocol::{Answer, End, Envelope, Fault, MAX_REQUEST, Request, VERSION};

/// The longest answer line that is believed.
const MAX_ANSWER: u64 = 64 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no gateway is reached at {path}: {error}")]
    NotReachable {
        /// The socket.
        path: PathBuf,
        /// The kernel's reason.
        error: io::Error,
    },
    /// The gateway says no.
    #[error("{0}")]
    Refused(Fault),
    /// The conversation broke.
    #[error("the gateway at {path} did not answer to the end: {reason}")]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What happened.
        reason: String,
    },
}

/// A connection to a running gateway.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    path: PathBuf,
    key: Option<String>,
}

impl Client {
    /// Connects to the gateway that listens at `path`.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        match UnixStream::connect(path) {
            Ok(stream) => Ok(Self { stream: BufReader::new(stream), path: path.to_owned(), key: None }),
            Err(error) => Err(ClientError::NotReachable { path: path.to_owned(), error }),
        }
    }

    /// Asks as the owner of an API key from now on, who may do no more than the user of the socket.
    pub fn with_key(self, secret: Option<String>) -> Self {
        Self { key: secret, ..self }
    }

    /// Asks, and gives each answer to `each` as it comes, until that breaks off or all is said. After a break the
    /// connection is of no more use.
    pub fn ask(
        &mut self,
        request: Request,
        mut each: impl FnMut(Answer) -> ControlFlow<()>,
    ) -> Result<End, ClientError> {
        let broken = |path: &Path, reason: String| ClientError::Broken { path: path.to_owned(), reason };
        let key = self.key.clone();
        let mut line = serde_json::to_vec(&Envelope { version: VERSION, key, request })
            .map_err(|error| broken(&self.path, error.to_string()))?;
        line.push(b'\n');
        if line.len() > MAX_REQUEST {
            let reason = format!("the request has {} bytes, more than {MAX_REQUEST}", line.len());
            return Err(broken(&self.path, reason));
        }
        // A gateway that refuses the connection has closed it already, and its reason waits to be read.
        let sent = self.stream.get_mut().write_all(&line);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = io::Read::take(&mut self.stream, MAX_ANSWER).read_until(b'\n', &mut line);
            match (read, &sent) {
                (Ok(_), _) if line.ends_with(b"\n") => {}
                (Err(error), _) => return Err(broken(&self.path, error.to_string())),
                (Ok(_), Err(error)) => return Err(broken(&self.path, error.to_string())),
                (Ok(_), Ok(())) => return Err(broken(&self.path, "it closed the connection".into())),
            }
            let answer = serde_json::from_slice(&line)
                .map_err(|error| broken(&self.path, format!("its answer is not understood: {error}")))?;
            match answer {
                Answer::End(end) => return Ok(end),
                Answer::Error(fault) => return Err(ClientError::Refused(fault)),
                answer => {
                    if each(answer).is_break() {
                        return Ok(End { truncated: true, ..End::default() });
                    }
                }
            }
        }
    }
}
