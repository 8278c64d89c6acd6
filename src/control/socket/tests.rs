use std::io::{BufRead, BufReader, Read, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::scratch::Directory;
use super::*;
use crate::control::access::{Caller, Role};
use crate::control::client::{Client, ClientError};
use crate::control::protocol::{
    Answer, ChangeRequest, Changed, End, ReloadRequest, Request, Session, SessionsRequest, Status,
};
use crate::control::service::{Interrupted, Sink, Waiting};

/// Lists as many sessions as the limit says, and waits in a trace until the client is gone.
#[derive(Default)]
struct Fake {
    tracing: AtomicBool,
    abandoned: AtomicBool,
}

impl Service for Fake {
    fn owner_of(&self, secret: &str) -> Option<Caller> {
        (secret == "known").then(|| Caller { name: "key key-1".into(), role: Role::Viewer })
    }

    fn change(&self, _: &Caller, _: ChangeRequest, _: Waiting<Changed>) -> Result<(), Fault> {
        Err(Fault::new(FaultCode::BadRequest, "not faked"))
    }

    fn answer(&self, caller: &Caller, request: Request, sink: &mut dyn Sink) -> Result<End, Interrupted> {
        caller.may(&request)?;
        match request {
            Request::Status => {
                sink.send(&Answer::Status(Box::new(Status { version: "test".into(), ..Status::default() })))?;
                Ok(End { count: 1, ..End::default() })
            }
            Request::Sessions(SessionsRequest { limit: Some(limit), .. }) => {
                for n in 0..limit {
                    let session = Session { bytes_out: n, ..Session::default() };
                    if let Err(gone) = sink.send(&Answer::Session(Box::new(session))) {
                        self.abandoned.store(true, Ordering::SeqCst);
                        return Err(gone.into());
                    }
                }
                Ok(End { count: limit, ..End::default() })
            }
            Request::Trace(_) => loop {
                self.tracing.store(true, Ordering::SeqCst);
                if let Err(gone) = sink.flush() {
                    self.abandoned.store(true, Ordering::SeqCst);
                    return Err(gone.into());
                }
                std::thread::sleep(Duration::from_millis(5));
            },
            Request::Reload(_) => panic!("the service breaks down"),
            _ => Err(Fault::new(FaultCode::BadRequest, "not faked").hint("try another").into()),
        }
    }
}

fn start(path: &Path, limits: Limits) -> (Server, Arc<Fake>) {
    let fake = Arc::new(Fake::default());
    let server = Server::start(Listener::bind(path).unwrap(), Arc::clone(&fake) as _, limits).unwrap();
    (server, fake)
}

fn quick() -> Limits {
    let short = Duration::from_millis(200);
    Limits { connections: 3, request: 1000, read: short, write: short, stop: short }
}

fn status(path: &Path) -> Result<String, ClientError> {
    let mut version = String::new();
    Client::connect(path)?.ask(Request::Status, |answer| {
        if let Answer::Status(status) = answer {
            version = status.version;
        }
        ControlFlow::Continue(())
    })?;
    Ok(version)
}

#[test]
fn with_a_key_it_is_the_owner_who_asks() {
    let directory = Directory::new();
    let (_server, _fake) = start(&directory.socket(), Limits::default());
    let ask = |key: Option<&str>, request| {
        let client = Client::connect(&directory.socket()).unwrap().with_key(key.map(str::to_owned));
        let asked = { client }.ask(request, |_| ControlFlow::Continue(()));
        asked.map_err(|error| error.to_string())
    };
    assert!(ask(Some("known"), Request::Status).is_ok());
    let refused = ask(Some("known"), Request::Confirm).unwrap_err();
    assert!(refused.contains("takes the role operator"), "{refused}");
    let refused = ask(Some("unknown"), Request::Status).unwrap_err();
    assert!(refused.contains("no API key has this secret"), "{refused}");
    // The socket's own user is an admin, whom the fake does not know what to answer.
    assert!(ask(None, Request::Confirm).unwrap_err().contains("not faked"));
}

/// Sends raw bytes and reads all answers until the gateway closes.
fn raw(path: &Path, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn eventually(mut condition: impl FnMut() -> bool) {
    for _ in 0..500 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it never came to pass");
}

#[test]
fn answers_come_in_order_and_end() {
    let directory = Directory::new();
    let (_server, _) = start(&directory.socket(), Limits::default());
    let mut client = Client::connect(&directory.socket()).unwrap();
    for limit in [0, 5, 100_000] {
        let mut next = 0;
        let request = Request::Sessions(SessionsRequest { limit: Some(limit), ..SessionsRequest::default() });
        let end = client.ask(request, |answer| {
            let Answer::Session(session) = answer else { panic!("{answer:?}") };
            assert_eq!(session.bytes_out, next);
            next += 1;
            ControlFlow::Continue(())
        });
        assert_eq!(end.unwrap().count, limit);
        assert_eq!(next, limit);
    }
}

#[test]
fn a_fault_reaches_the_client_whole_and_the_connection_goes_on() {
    let directory = Directory::new();
    let (_server, _) = start(&directory.socket(), Limits::default());
    let mut client = Client::connect(&directory.socket()).unwrap();
    let refused = client.ask(Request::Stats, |_| ControlFlow::Continue(()));
    let Err(ClientError::Refused(fault)) = refused else { panic!("{refused:?}") };
    assert_eq!(fault, Fault::new(FaultCode::BadRequest, "not faked").hint("try another"));
    client.ask(Request::Status, |_| ControlFlow::Continue(())).unwrap();
}

#[test]
fn the_socket_and_its_directory_are_made_private_and_removed() {
    let directory = Directory::new();
    let path = directory.socket();
    let (server, _) = start(&path, quick());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(status(&path).unwrap(), "test");
    server.stop();
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
    assert!(matches!(status(&path), Err(ClientError::NotReachable { .. })));
}

#[test]
fn only_root_and_the_owner_are_permitted() {
    let permitted = |user, own| access::admitted(user, own).is_ok();
    assert!(permitted(0, 1000) && permitted(1000, 1000) && permitted(0, 0));
    assert!(!permitted(1001, 1000) && !permitted(1000, 0));
}

#[test]
fn a_live_socket_is_refused_and_stays() {
    let directory = Directory::new();
    let path = directory.socket();
    let (_server, _) = start(&path, quick());
    let error = Listener::bind(&path).unwrap_err();
    let expected = format!("another natgate (process {})", std::process::id());
    assert!(error.to_string().contains(&expected), "{error}");
    assert_eq!(status(&path).unwrap(), "test");
}

#[test]
fn a_socket_of_another_program_is_refused_and_stays() {
    let directory = Directory::new();
    let path = directory.path().join("other.sock");
    let _other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    assert!(matches!(Listener::bind(&path), Err(BindError::InUse { .. })));
    UnixStream::connect(&path).unwrap();
}

#[test]
fn a_stale_socket_is_replaced() {
    let directory = Directory::new();
    let path = directory.path().join("stale.sock");
    // What a killed process leaves: the socket's file, and its lock's with nobody holding it.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    std::fs::write(with_lock(&path), "1\n").unwrap();
    assert!(path.exists());
    let (_server, _) = start(&path, quick());
    assert_eq!(status(&path).unwrap(), "test");
}

fn with_lock(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

#[test]
fn a_file_that_is_no_socket_is_refused_and_stays() {
    let directory = Directory::new();
    let path = directory.path().join("precious");
    std::fs::write(&path, "data").unwrap();
    assert!(matches!(Listener::bind(&path), Err(BindError::NotASocket { .. })));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
}

#[test]
fn a_path_that_is_too_long_is_refused() {
    let error = Listener::bind(&Path::new("/tmp").join("x".repeat(200))).unwrap_err();
    assert!(matches!(error, BindError::TooLong { length: 205, .. }), "{error}");
}

#[test]
fn of_two_that_start_at_once_one_gets_the_socket() {
    let directory = Directory::new();
    let path = directory.socket();
    for _ in 0..20 {
        let bound: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| Listener::bind(&path))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(bound.iter().filter(|result| result.is_ok()).count(), 1, "{bound:?}");
    }
}

#[test]
fn an_oversized_line_is_refused() {
    let directory = Directory::new();
    let (_server, _) = start(&directory.socket(), quick());
    let answer = raw(&directory.socket(), &[b' '; 5000]);
    assert!(answer.contains("too-long") && answer.contains("1000 bytes"), "{answer}");
    assert_eq!(status(&directory.socket()).unwrap(), "test");
}

#[test]
fn garbage_is_refused_with_words() {
    let directory = Directory::new();
    let (_server, _) = start(&directory.socket(), Limits::default());
    let path = directory.socket();
    for (line, expected) in [
        (&b"\n"[..], "bad-request"),
        (b"\xff\xfe\n", "bad-request"),
        (b"GET / HTTP/1.1\r\n", "bad-request"),
        (b"{\"version\":1}\n", "missing field `request`"),
        (b"{\"version\":2,\"request\":\"fly\"}\n", "protocol version 2 is not spoken here, 1 is"),
        (b"{\"version\":1,\"request\":\"fly\"}\n", "unknown variant `fly`"),
        (b"{\"version\":1,\"request\":{\"sessions\":{\"colour\":\"red\"}}}\n", "unknown field `colour`"),
        (b"{\"version\":1,\"request\":{\"sessions\":{\"peer\":\"10.0\"}}}\n", "no IPv4 address"),
        (b"{\"version\":1,\"request\":\"status\"}", "without a line feed"),
    ] {
        let answer = raw(&path, line);
        assert!(answer.starts_with("{\"error\":") && answer.contains(expected), "{line:?}: {answer}");
    }
    let several = raw(&path, b"nonsense\n{\"version\":1,\"request\":\"status\"}\n");
    assert_eq!(several.lines().count(), 3, "{several}");
    assert!(several.ends_with("{\"end\":{\"count\":1,\"truncated\":false}}\n"), "{several}");
}

#[test]
fn a_client_that_sends_too_slowly_is_let_go() {
    let directory = Directory::new();
    let (_server, _) = start(&directory.socket(), quick());
    let mut stream = UnixStream::connect(directory.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    // A byte now and then does not extend the time that a whole line has.
    let mut answer = Vec::new();
    for _ in 0..100 {
        let _ = stream.write_all(b" ");
        let mut chunk = [0; 200];
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => answer.extend_from_slice(&chunk[..read]),
            Err(_) => {}
        }
    }
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.contains("timed-out"), "{answer}");
}

#[test]
fn a_client_that_does_not_read_is_let_go() {
    let directory = Directory::new();
    let (_server, fake) = start(&directory.socket(), quick());
    let mut stream = UnixStream::connect(directory.socket()).unwrap();
    stream.write_all(b"{\"version\":1,\"request\":{\"sessions\":{\"limit\":10000000}}}\n").unwrap();
    eventually(|| fake.abandoned.load(Ordering::SeqCst));
}

#[test]
fn a_client_that_hangs_up_is_noticed_while_it_waits() {
    let directory = Directory::new();
    let (_server, fake) = start(&directory.socket(), Limits::default());
    let trace = b"{\"version\":1,\"request\":{\"trace\":{\"packets\":1,\"timeout_seconds\":60}}}\n";
    let mut stream = UnixStream::connect(directory.socket()).unwrap();
    stream.write_all(trace).unwrap();
    eventually(|| fake.tracing.load(Ordering::SeqCst));
    // Ending only its own sending is not hanging up.
    stream.shutdown(Shutdown::Write).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert!(!fake.abandoned.load(Ordering::SeqCst));
    drop(stream);
    eventually(|| fake.abandoned.load(Ordering::SeqCst));
}

#[test]
fn too_many_clients_are_told_so_and_later_ones_are_served() {
    let directory = Directory::new();
    let path = directory.socket();
    let (server, _) = start(&path, Limits { read: Duration::from_secs(30), ..quick() });
    let mut held: Vec<_> = (0..3).map(|_| UnixStream::connect(&path).unwrap()).collect();
    eventually(|| server.connections.lock().len() == 3);
    let refused = status(&path).unwrap_err();
    let ClientError::Refused(fault) = refused else { panic!("{refused:?}") };
    assert_eq!(fault.code, FaultCode::Busy);
    held.pop();
    eventually(|| status(&path).is_ok());
}

#[test]
fn a_service_that_panics_costs_one_connection() {
    let directory = Directory::new();
    let (server, _) = start(&directory.socket(), quick());
    let broken = Client::connect(&directory.socket())
        .unwrap()
        .ask(Request::Reload(ReloadRequest::default()), |_| ControlFlow::Continue(()));
    assert!(matches!(broken, Err(ClientError::Broken { .. })), "{broken:?}");
    eventually(|| server.connections.lock().is_empty());
    assert_eq!(status(&directory.socket()).unwrap(), "test");
}

#[test]
fn stopping_ends_idle_and_waiting_clients_in_bounded_time() {
    let directory = Directory::new();
    let (server, fake) = start(&directory.socket(), Limits { read: Duration::from_secs(30), ..quick() });
    let idle = UnixStream::connect(directory.socket()).unwrap();
    let mut tracing = UnixStream::connect(directory.socket()).unwrap();
    tracing
        .write_all(b"{\"version\":1,\"request\":{\"trace\":{\"packets\":1,\"timeout_seconds\":60}}}\n")
        .unwrap();
    eventually(|| fake.tracing.load(Ordering::SeqCst));
    let clock = Clock::start();
    let start = clock.now();
    server.stop();
    assert!(clock.now().since(start) < Duration::from_secs(2));
    for stream in [idle, tracing] {
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        assert_eq!(BufReader::new(stream).read_line(&mut String::new()).unwrap(), 0);
    }
}
