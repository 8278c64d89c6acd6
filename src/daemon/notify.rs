//! Telling systemd how the service stands: sd_notify(3).

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The service manager, if there is one that wants to know.
#[derive(Debug)]
pub(super) struct Notifier(Option<UnixDatagram>);

impl Notifier {
    /// Whoever the environment names in `NOTIFY_SOCKET`.
    pub(super) fn from_environment() -> Self {
        let address = std::env::var_os("NOTIFY_SOCKET");
        Self(address.and_then(|address| {
            let connected = connect(address.as_bytes());
            connected.inspect_err(|error| log::warn!("NOTIFY_SOCKET {}: {error}", address.display())).ok()
        }))
    }

    /// Nobody.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self(None)
    }

    /// A socket of the test's.
    #[cfg(test)]
    pub(super) fn to_test() -> (Self, UnixDatagram) {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        (Self(Some(ours)), theirs)
    }

    /// The gateway works.
    pub(super) fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}"));
    }

    /// A changed configuration is being applied; ends with [`ready`](Self::ready).
    pub(super) fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// All workers are at work: feeds the watchdog.
    pub(super) fn alive(&self) {
        self.tell("WATCHDOG=1");
    }

    /// The gateway is about to end.
    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    fn tell(&self, state: &str) {
        if let Some(socket) = &self.0
            && let Err(error) = socket.send(state.as_bytes())
        {
            log::warn!("the service manager could not be told {state:?}: {error}");
        }
    }
}

fn connect(address: &[u8]) -> io::Result<UnixDatagram> {
    let address = match address.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(address))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    // A service manager that does not read must not hold the gateway up.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_told_by_path_and_by_abstract_name() {
        let directory = crate::control::socket::scratch::Directory::new();
        let path = directory.path().join("notify");
        let name = format!("natgate-notify-{}", std::process::id());
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        for (socket, address) in [
            (UnixDatagram::bind(&path).unwrap(), path.to_str().unwrap().to_owned()),
            (by_name, format!("@{name}")),
        ] {
            let notifier = Notifier(Some(connect(address.as_bytes()).unwrap()));
            notifier.ready("all well");
            notifier.reloading();
            notifier.stopping();
            let mut buffer = [0; 200];
            let mut next = || {
                let read = socket.recv(&mut buffer).unwrap();
                String::from_utf8(buffer[..read].to_vec()).unwrap()
            };
            assert_eq!(next(), "READY=1\nSTATUS=all well");
            assert!(next().starts_with("RELOADING=1\nMONOTONIC_USEC="));
            assert_eq!(next(), "STOPPING=1");
        }
        Notifier::none().stopping();
        assert!(connect(b"/nonexistent/socket").is_err());
    }
}
