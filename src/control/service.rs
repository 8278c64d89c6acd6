//! What a transport needs of whoever answers: the socket knows this, not the manager.

use crate::control::access::Caller;
use crate::control::protocol::{Answer, ChangeRequest, Changed, End, Fault, Request};

/// Answers requests.
pub trait Service: Send + Sync {
    /// Answers one request, if the caller may ask it: any number of answers into `sink`, then what the last line says. Takes a bounded time
    /// unless the request itself asks to wait, and ends soon after the client is gone.
    ///
    /// # Errors
    /// What the last line says instead, or that nobody reads any more.
    fn answer(&self, caller: &Caller, request: Request, sink: &mut dyn Sink) -> Result<End, Interrupted>;

    /// Begins a change, if the caller may make it, and does not wait: `answer` is told when it is durable and in force, or that it was not
    /// made. If it is dropped instead, the gateway is stopping.
    ///
    /// # Errors
    /// It was not begun.
    fn change(&self, caller: &Caller, request: ChangeRequest, answer: Waiting<Changed>) -> Result<(), Fault>;

    /// Whose secret of an API key this is.
    fn owner_of(&self, secret: &str) -> Option<Caller>;
}

/// Who waits for an answer that comes later, from another thread. Telling it does not wait.
pub type Waiting<T> = Box<dyn FnOnce(Result<T, Fault>) + Send>;

/// Where answers go.
pub trait Sink {
    /// Sends one answer. It may wait in a buffer.
    fn send(&mut self, answer: &Answer) -> Result<(), Gone>;

    /// Sends what waits in the buffer, and notices whether the client is still there.
    fn flush(&mut self) -> Result<(), Gone>;
}

/// The client has gone, or is too slow: there is nobody to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

/// Why an answer ends early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interrupted {
    /// It went wrong.
    Fault(Fault),
    /// Nobody reads it.
    Gone,
}

impl From<Fault> for Interrupted {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Gone> for Interrupted {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}
