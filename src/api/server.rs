//! Listeners and connections. One thread runs all of them; what a request asks is answered on threads of its own, so that a
//! slow answer does not hold up another.
//!
//! Everything that can be refused is taken before the gateway touches its ports: the socket, the address, the certificate.

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::api::caller::Peer;
use crate::api::connection::{Connection, HEADER, STALL};
use crate::api::places::Places;
use crate::api::routes::{AT_ONCE, Api, router};
use crate::config;
use crate::control::access;
use crate::control::service::Service;
use crate::control::socket::{BindError, Listener};

/// Connections of each listener at once.
const CONNECTIONS: usize = 256;
/// Time for requests under way when the server stops.
const STOP: Duration = Duration::from_secs(2);

/// The API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The Unix socket cannot be had.
    #[error("api.socket {0}")]
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

/// Everything that the API is served with.
pub struct Listeners {
    socket: Listener,
    tcp: Option<std::net::TcpListener>,
    tls: Option<TlsAcceptor>,
}

impl Listeners {
    /// Takes what the configuration names. Clients that come wait until it is served.
    ///
    /// # Errors
    /// A listener or the certificate is not to be had.
    pub fn open(config: &config::Api) -> Result<Self, StartError> {
        let tls = config.tls.as_ref().map(|(certificate, key)| acceptor(certificate, key)).transpose()?;
        let socket = Listener::bind(&config.socket)?;
        socket.socket().set_nonblocking(true)?;
        let tcp = config.listen.map(|address| {
            let listener = std::net::TcpListener::bind(address);
            let listener = listener.and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
            listener.map_err(|error| StartError::Listen { address, error })
        });
        Ok(Self { socket, tcp: tcp.transpose()?, tls })
    }
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
    /// The kernel gives no thread.
    pub fn start(listeners: Listeners, service: Arc<dyn Service>) -> Result<Self, StartError> {
        let Listeners { socket, tcp, tls } = listeners;
        let local = socket.socket().try_clone()?;
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
    // Each listener has places of its own: whatever comes by TCP leaves the Unix socket alone.
    let places = [Places::new(CONNECTIONS), Places::new(CONNECTIONS)];
    let connection = || Connection { router: router.clone(), stopping: stopping.clone(), stall: STALL };
    let mut stop = stopping.clone();
    tokio::select! {
        () = serve_local(&local, &places[0], connection) => {}
        () = serve_tcp(tcp.as_ref(), tls.as_ref(), &places[1], connection) => {}
        _ = stop.changed() => {}
    }
    stopping.mark_unchanged();
    let ended = async { tokio::join!(places[0].empty(CONNECTIONS), places[1].empty(CONNECTIONS)) };
    let _ = timeout(STOP, ended).await;
    Ok(())
}

/// Serves the Unix socket for ever.
async fn serve_local(listener: &UnixListener, places: &Arc<Places>, connection: impl Fn() -> Connection) {
    let own = rustix::process::geteuid().as_raw();
    let admitted = |stream: &UnixStream| {
        let user = stream.peer_cred().map_err(|error| error.to_string())?.uid();
        access::admitted(user, own).map_err(|fault| fault.to_string())?;
        Ok::<_, String>(user)
    };
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                pause(&error).await;
                continue;
            }
        };
        match admitted(&stream) {
            Ok(user) => {
                let place = places.take().await;
                tokio::spawn(connection().run(stream, Peer::Local { user }, place));
            }
            Err(reason) => log::warn!("API: connection refused: {reason}"),
        }
    }
}

/// Serves TCP for ever, if there is a listener.
async fn serve_tcp(
    listener: Option<&TcpListener>,
    tls: Option<&TlsAcceptor>,
    places: &Arc<Places>,
    connection: impl Fn() -> Connection,
) {
    let Some(listener) = listener else { return std::future::pending().await };
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                pause(&error).await;
                continue;
            }
        };
        let (connection, place) = (connection(), places.take().await);
        match tls.cloned() {
            None => drop(tokio::spawn(connection.run(stream, Peer::Remote, place))),
            Some(tls) => drop(tokio::spawn(async move {
                let shaken = tokio::select! {
                    shaken = timeout(HEADER, tls.accept(stream)) => shaken,
                    () = place.wanted() => return,
                };
                // A handshake that fails is the client's matter: it has seen why.
                if let Ok(Ok(stream)) = shaken {
                    connection.run(stream, Peer::Remote, place).await;
                }
            })),
        }
    }
}

/// Out of descriptors, most likely: waits instead of spinning.
async fn pause(error: &io::Error) {
    log::warn!("API: a connection could not be taken: {error}");
    sleep(Duration::from_millis(50)).await;
}
