//! Listeners and connections. One thread runs all of them; what a request asks is answered on threads of its own, so that a
//! slow answer does not hold up another.
//!
//! Every connection has bounds: how many there are, how long a header may take to come, a request to be answered, and the
//! connection to live. Whoever takes all places of a listener keeps others waiting until these bounds free one; the other
//! listener is not concerned.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::api::caller::Peer;
use crate::api::problem::Problem;
use crate::api::routes::{AT_ONCE, Api, router};
use crate::config;
use crate::control::access;
use crate::control::service::Service;
use crate::control::socket::{BindError, Listener};

/// Connections of each listener at once.
const CONNECTIONS: usize = 64;
/// Time for a request's header to come, and for a connection to wait for the next request.
const HEADER: Duration = Duration::from_secs(10);
/// Time for the rest of a request to come and to be answered.
const ANSWER: Duration = Duration::from_secs(30);
/// After so long a connection takes no further request, so that none is held for ever.
const LIFE: Duration = Duration::from_mins(2);
/// Time for requests under way when the server stops.
const STOP: Duration = Duration::from_secs(2);

/// The API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The Unix socket cannot be had.
    #[error("{0}")]
    Socket(#[from] BindError),
    /// The TCP listener cannot be had.
    #[error("api.listen {address}: {error}; choose another address or port, or stop what listens there")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The reason.
        error: io::Error,
    },
    /// The certificate or its key cannot be used.
    #[error("{key} {path}: {reason}")]
    Tls {
        /// The key of the configuration.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// No thread, or no runtime.
    #[error("the API cannot be started: {0}")]
    System(#[from] io::Error),
}

/// A running API. It stops when this is dropped.
#[derive(Debug)]
pub struct Server {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Begins to serve.
    ///
    /// # Errors
    /// A listener, the certificate or a thread is not to be had.
    pub fn start(config: &config::Api, service: Arc<dyn Service>) -> Result<Self, StartError> {
        let socket = Listener::bind(&config.socket)?;
        let local = socket.socket().try_clone()?;
        local.set_nonblocking(true)?;
        let tcp = config.listen.map(|address| {
            let listener = std::net::TcpListener::bind(address);
            let listener = listener.and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
            listener.map_err(|error| StartError::Listen { address, error })
        });
        let tcp = tcp.transpose()?;
        let tls = config.tls.as_ref().map(|(certificate, key)| acceptor(certificate, key)).transpose()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(AT_ONCE)
            .thread_name("api-worker")
            .build()?;
        let (stop, stopping) = watch::channel(false);
        let router = router(Api::new(service));
        let thread = std::thread::Builder::new().name("api".into()).spawn(move || {
            let ended = runtime.block_on(serve(local, tcp, tls, router, stopping));
            if let Err(error) = ended {
                log::error!("API: it is not served any more: {error}");
            }
            runtime.shutdown_timeout(STOP);
            drop(socket);
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nobody listens if the thread has ended.
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn acceptor(certificate: &Path, key: &Path) -> Result<TlsAcceptor, StartError> {
    let wrong = |name, path: &Path| {
        let path = path.to_owned();
        move |reason: String| StartError::Tls { key: name, path, reason }
    };
    let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect);
    let chain: Vec<_> =
        chain.map_err(|error| wrong("api.tls_certificate", certificate)(error.to_string()))?;
    if chain.is_empty() {
        return Err(wrong("api.tls_certificate", certificate)("there is no certificate in it".into()));
    }
    let private = PrivateKeyDer::from_pem_file(key);
    let private = private.map_err(|error| wrong("api.tls_key", key)(error.to_string()))?;
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private));
    let mut config = config.map_err(|error| wrong("api.tls_key", key)(error.to_string()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Takes connections until it is to stop; then those under way have a moment to end.
async fn serve(
    local: StdUnixListener,
    tcp: Option<std::net::TcpListener>,
    tls: Option<TlsAcceptor>,
    router: Router,
    mut stopping: watch::Receiver<bool>,
) -> io::Result<()> {
    let local = UnixListener::from_std(local)?;
    let tcp = tcp.map(TcpListener::from_std).transpose()?;
    let own = rustix::process::geteuid().as_raw();
    let places = [Arc::new(Semaphore::new(CONNECTIONS)), Arc::new(Semaphore::new(CONNECTIONS))];
    let spawn =
        |stopping: &watch::Receiver<bool>| Connection { router: router.clone(), stopping: stopping.clone() };
    loop {
        tokio::select! {
            taken = taken(&places[0], async || local.accept().await) => {
                let (stream, place) = match taken { Ok(((stream, _), place)) => (stream, place), Err(error) => { pause(&error).await; continue } };
                let user = stream.peer_cred()?.uid();
                match access::admitted(user, own) {
                    Ok(_) => drop(tokio::spawn(spawn(&stopping).run(stream, Peer::Local { user }, place))),
                    Err(fault) => log::warn!("API: connection refused: {fault}"),
                }
            }
            taken = taken(&places[1], async || match &tcp { Some(tcp) => tcp.accept().await, None => std::future::pending().await }) => {
                let (stream, place) = match taken { Ok(((stream, _), place)) => (stream, place), Err(error) => { pause(&error).await; continue } };
                let connection = spawn(&stopping);
                match tls.clone() {
                    None => drop(tokio::spawn(connection.run(stream, Peer::Remote, place))),
                    Some(tls) => drop(tokio::spawn(async move {
                        // A handshake that fails is the client's matter: it has seen why.
                        if let Ok(Ok(stream)) = timeout(HEADER, tls.accept(stream)).await {
                            connection.run(stream, Peer::Remote, place).await;
                        }
                    })),
                }
            }
            _ = stopping.changed() => break,
        }
    }
    let all = places.iter().map(|place| place.acquire_many(CONNECTIONS as u32));
    for ended in all {
        let _ = timeout(STOP, ended).await;
    }
    Ok(())
}

/// The next connection, when there is a place for it.
async fn taken<T>(
    places: &Arc<Semaphore>,
    accept: impl AsyncFn() -> io::Result<T>,
) -> io::Result<(T, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    Ok((accept().await?, place))
}

/// Out of descriptors, most likely: waits instead of spinning.
async fn pause(error: &io::Error) {
    log::warn!("API: a connection could not be taken: {error}");
    sleep(Duration::from_millis(50)).await;
}

/// A connection to be served.
struct Connection {
    router: Router,
    stopping: watch::Receiver<bool>,
}

impl Connection {
    async fn run(
        mut self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        peer: Peer,
        place: OwnedSemaphorePermit,
    ) {
        let router = self.router;
        let service = service_fn(move |request| answer(router.clone(), peer, request));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER)
            .max_buf_size(64 * 1024)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            // Whatever ends a connection early is the client's doing.
            _ = connection.as_mut() => {}
            () = async { tokio::select! { () = sleep(LIFE) => {}, _ = self.stopping.changed() => {} } } => {
                connection.as_mut().graceful_shutdown();
                let _ = timeout(ANSWER, connection).await;
            }
        }
        drop(place);
    }
}

/// Answers a request, in time.
async fn answer(
    router: Router,
    peer: Peer,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(peer);
    let answered = timeout(ANSWER, TowerToHyperService::new(router).call(request)).await;
    answered.unwrap_or_else(|_| {
        let detail = format!("the request did not come and end within {} s", ANSWER.as_secs());
        let problem = Problem::new(StatusCode::REQUEST_TIMEOUT, "timed-out", detail);
        Ok(problem
            .hint("a change may still be made: look, or repeat it with the same idempotency key")
            .into_response())
    })
}
