//! Taking the socket's place in the file system: from nobody who lives, and giving it back.
//!
//! The place belongs to whoever holds the lock on `PATH.lock`. The lock goes with its process however that ends, so a
//! socket that a dead process left behind can be told from one in use without a race.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// The longest path that the kernel takes for a socket, less the suffix of the name that it is made under.
const LONGEST: usize = 107 - SUFFIX.len();
/// The socket is made under this name and then renamed, so that its place never holds one that is not ready.
const SUFFIX: &str = ".new";

/// Why a socket cannot be opened. Whoever wants it says which key of the configuration names it.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another gateway has it.
    #[error("{path}: another natgate ({holder}) listens there; stop it, or give this one another socket")]
    InUse {
        /// The socket.
        path: PathBuf,
        /// Whoever has it.
        holder: String,
    },
    /// Something else has that name.
    #[error("{path}: a file that is no socket has this name; remove it, or choose another socket")]
    NotASocket {
        /// The file.
        path: PathBuf,
    },
    /// The kernel does not take such a name.
    #[error("{path}: the path has {length} bytes, more than the {LONGEST} allowed; choose a shorter one")]
    TooLong {
        /// The socket.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
    },
    /// The kernel refused.
    #[error("{path}: {action} failed: {error}")]
    Io {
        /// The file concerned.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The kernel's reason.
        error: io::Error,
    },
}

/// The listening socket. Its file is removed when this is dropped.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
    /// Device and inode of the socket's file, so that only our own is removed.
    identity: (u64, u64),
    lock_path: PathBuf,
    _lock: File,
}

impl Listener {
    /// Listens at `path`, with mode 0600, in a directory that is made if there is none. A socket that a dead process
    /// left there is replaced.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let io_error = |action| move |error| BindError::Io { path: path.to_owned(), action, error };
        let length = path.as_os_str().len();
        if length > LONGEST {
            return Err(BindError::TooLong { path: path.to_owned(), length });
        }
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            let made = DirBuilder::new().recursive(true).mode(0o755).create(directory);
            made.map_err(io_error("making its directory"))?;
        }
        let lock_path = with_suffix(path, ".lock");
        let lock = lock(path, &lock_path)?;
        expect_no_listener(path)?;

        let new = with_suffix(path, SUFFIX);
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("removing what an earlier start left")(error));
            }
            _ => {}
        }
        let socket = UnixListener::bind(&new).map_err(io_error("opening it"))?;
        fs::set_permissions(&new, Permissions::from_mode(0o600)).map_err(io_error("setting its mode"))?;
        let metadata = fs::symlink_metadata(&new).map_err(io_error("looking at it"))?;
        fs::rename(&new, path).map_err(io_error("giving it its name"))?;
        let identity = (metadata.dev(), metadata.ino());
        Ok(Self { socket, path: path.to_owned(), identity, lock_path, _lock: lock })
    }

    /// The socket.
    pub fn socket(&self) -> &UnixListener {
        &self.socket
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let ours =
            fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.identity);
        if ours {
            let _ = fs::remove_file(&self.path);
        }
        // Still locked: whoever opened it meanwhile notices that it is no longer the one with this name.
        let _ = fs::remove_file(&self.lock_path);
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Takes the lock, or says who has it.
fn lock(path: &Path, lock_path: &Path) -> Result<File, BindError> {
    let io_error = |action| move |error| BindError::Io { path: lock_path.to_owned(), action, error };
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    loop {
        let mut file = options.open(lock_path).map_err(io_error("opening its lock"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let _ = Read::by_ref(&mut file).take(20).read_to_string(&mut pid);
                let holder = match pid.trim() {
                    "" => "just starting".to_owned(),
                    pid => format!("process {pid}"),
                };
                return Err(BindError::InUse { path: path.to_owned(), holder });
            }
            Err(TryLockError::Error(error)) => return Err(io_error("locking its lock")(error)),
        }
        let locked = file.metadata().map_err(io_error("looking at its lock"))?;
        let named = fs::symlink_metadata(lock_path);
        if named.is_ok_and(|named| (named.dev(), named.ino()) == (locked.dev(), locked.ino())) {
            file.set_len(0)
                .and_then(|()| writeln!(file, "{}", std::process::id()))
                .map_err(io_error("writing its lock"))?;
            return Ok(file);
        }
        // Its holder ended and removed it between our opening and our locking: begin again with a new one.
    }
}

/// Refuses to replace anything but a socket that nobody listens on.
fn expect_no_listener(path: &Path) -> Result<(), BindError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(BindError::Io { path: path.to_owned(), action: "looking for it", error }),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(BindError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(BindError::InUse { path: path.to_owned(), holder: "of an unknown process".into() }),
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {
            Ok(())
        }
        Err(error) => Err(BindError::Io { path: path.to_owned(), action: "asking who listens there", error }),
    }
}
