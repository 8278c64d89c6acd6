//! The bpf(2) system call: maps, programs, links.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use zerocopy::{Immutable, IntoBytes};

use super::program::Instruction;

const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const MAP_DELETE_ELEM: libc::c_int = 3;
const PROG_LOAD: libc::c_int = 5;
const LINK_CREATE: libc::c_int = 28;
const LINK_DETACH: libc::c_int = 34;

/// `BPF_PROG_TYPE_XDP`
const PROG_TYPE_XDP: u32 = 6;
/// `BPF_XDP`, the attach type.
const ATTACH_XDP: u32 = 37;

/// Kinds of map.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub(super) enum MapKind {
    LpmTrie = 11,
    XskMap = 17,
}

/// A BPF map, with the sizes that the kernel will read.
#[derive(Debug)]
pub(super) struct Map {
    fd: OwnedFd,
    key: usize,
    value: usize,
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct MapCreate {
    kind: u32,
    key: u32,
    value: u32,
    entries: u32,
    flags: u32,
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct MapElement {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct ProgramLoad {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    device: u32,
    attach: u32,
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach: u32,
    flags: u32,
}

/// # Safety
/// Addresses in `attributes` are null or point to what `command` reads or writes there.
unsafe fn bpf<T: IntoBytes + Immutable>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_int> {
    let (start, len) = (std::ptr::from_ref(attributes), size_of::<T>());
    // SAFETY: the kernel reads `len` bytes of attributes; the caller answers for what they point to.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, start, len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}

/// # Safety
/// As for [`bpf`]; and `command` is one that returns a new descriptor.
unsafe fn bpf_fd<T: IntoBytes + Immutable>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise.
    let fd = unsafe { bpf(command, attributes) }?;
    // SAFETY: the command has just returned a new descriptor, which nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn raw(fd: &OwnedFd) -> u32 {
    fd.as_raw_fd() as u32
}

fn address<T>(values: &[T]) -> u64 {
    values.as_ptr().expose_provenance() as u64
}

impl Map {
    pub(super) fn new(kind: MapKind, key: usize, value: usize, entries: u32, flags: u32) -> io::Result<Self> {
        let attributes =
            MapCreate { kind: kind as u32, key: key as u32, value: value as u32, entries, flags };
        // SAFETY: no addresses; returns a new descriptor.
        let fd = unsafe { bpf_fd(MAP_CREATE, &attributes) }?;
        Ok(Self { fd, key, value })
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    pub(super) fn set(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        if key.len() != self.key || value.len() != self.value {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let (key, value) = (address(key), address(value));
        let attributes = MapElement { map: raw(&self.fd), padding: 0, key, value, flags: 0 };
        // SAFETY: the kernel reads the key and the value, which have the lengths that the map was made with.
        unsafe { bpf(MAP_UPDATE_ELEM, &attributes) }.map(drop)
    }

    pub(super) fn remove(&self, key: &[u8]) -> io::Result<()> {
        if key.len() != self.key {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let attributes = MapElement { map: raw(&self.fd), padding: 0, key: address(key), value: 0, flags: 0 };
        // SAFETY: the kernel reads the key, which has the length that the map was made with.
        unsafe { bpf(MAP_DELETE_ELEM, &attributes) }.map(drop)
    }
}

/// Loads an XDP program; the verifier's words are in the error when it refuses.
pub(super) fn load(instructions: &[Instruction]) -> io::Result<OwnedFd> {
    let mut name = [0; 16];
    name[..7].copy_from_slice(b"natgate");
    let license = b"Apache-2.0\0";
    let mut attributes = ProgramLoad {
        kind: PROG_TYPE_XDP,
        count: instructions.len() as u32,
        instructions: address(instructions),
        license: address(license),
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name,
        device: 0,
        attach: ATTACH_XDP,
    };
    // SAFETY: the kernel reads `count` instructions and the licence up to its zero byte; returns a new descriptor.
    let error = match unsafe { bpf_fd(PROG_LOAD, &attributes) } {
        Ok(program) => return Ok(program),
        Err(error) => error,
    };
    if !matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EACCES)) {
        return Err(error);
    }
    let mut log = vec![0_u8; 1 << 16];
    attributes.log_level = 1;
    attributes.log_size = log.len() as u32;
    attributes.log = log.as_mut_ptr().expose_provenance() as u64;
    // SAFETY: as above; and the kernel writes at most `log_size` bytes to `log`, which is as long.
    if let Ok(program) = unsafe { bpf_fd(PROG_LOAD, &attributes) } {
        return Ok(program);
    }
    let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
    let log = String::from_utf8_lossy(&log[..end]);
    Err(io::Error::new(error.kind(), format!("{error}: {}", log.trim_end())))
}

/// Attaches a program to a device until the link is closed, by whatever end of the process.
pub(super) fn attach(program: &OwnedFd, device: u32, flags: u32) -> io::Result<OwnedFd> {
    let attributes = LinkCreate { program: raw(program), target: device, attach: ATTACH_XDP, flags };
    // SAFETY: no addresses; returns a new descriptor.
    unsafe { bpf_fd(LINK_CREATE, &attributes) }
}

/// Detaches a link's program now.
pub(super) fn detach(link: &OwnedFd) -> io::Result<()> {
    // SAFETY: no addresses.
    unsafe { bpf(LINK_DETACH, &raw(link)) }.map(drop)
}
