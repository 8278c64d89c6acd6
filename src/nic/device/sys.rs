//! The `ioctl` calls that ask about a network device and set it.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct ifreq`: a device's name and 24 bytes whose meaning depends on the request.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Request {
    pub(super) name: [u8; libc::IFNAMSIZ],
    pub(super) value: [u8; 24],
}

const _: () = assert!(size_of::<Request>() == size_of::<libc::ifreq>());

fn owned(fd: libc::c_int) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A socket to send requests over.
pub(super) fn control_socket() -> io::Result<OwnedFd> {
    // SAFETY: takes plain numbers only.
    owned(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })
}

/// Sends a request whose value the kernel reads or writes in place.
pub(super) fn request(socket: &OwnedFd, code: libc::c_ulong, request: &mut Request) -> io::Result<()> {
    debug_assert!(code != libc::SIOCETHTOOL as libc::c_ulong, "its value is a pointer");
    // SAFETY: the device requests of this module read and write within the `ifreq` that they are given.
    match unsafe { libc::ioctl(socket.as_raw_fd(), code, std::ptr::from_mut(request)) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// An `ethtool` request: a fixed structure that begins with the command.
///
/// # Safety
/// The kernel reads and writes at most `size_of::<Self>()` bytes for the command in the structure.
pub(super) unsafe trait Ethtool: FromBytes + IntoBytes {}

/// `struct ethtool_drvinfo`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct DriverInfo {
    pub(super) command: Command,
    pub(super) driver: [u8; 32],
    rest: [u8; 160],
}

/// `struct ethtool_channels`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Channels {
    pub(super) command: Command,
    maxima: [u32; 4],
    pub(super) receive: u32,
    pub(super) transmit: u32,
    other: u32,
    pub(super) combined: u32,
}

/// `struct ethtool_value`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Value {
    pub(super) command: Command,
    pub(super) data: u32,
}

/// `struct ethtool_rxnfc`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct FlowHash {
    pub(super) command: Command,
    flow: u32,
    pub(super) data: u64,
    rest: [u64; 22],
}

/// The number of an `ethtool` command. The field is private: a structure cannot be sent with another one's command.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub(super) struct Command(u32);

impl DriverInfo {
    /// `ETHTOOL_GDRVINFO`
    pub(super) fn new() -> Self {
        Self { command: Command(3), driver: [0; 32], rest: [0; 160] }
    }
}

impl Channels {
    /// `ETHTOOL_GCHANNELS`
    pub(super) fn new() -> Self {
        Self { command: Command(0x3c), maxima: [0; 4], receive: 0, transmit: 0, other: 0, combined: 0 }
    }
}

impl FlowHash {
    /// `ETHTOOL_GRXFH` for `UDP_V4_FLOW`
    pub(super) fn udp4() -> Self {
        Self { command: Command(0x29), flow: 2, data: 0, rest: [0; 22] }
    }
}

impl Value {
    /// `ETHTOOL_GFLAGS`
    pub(super) fn get_flags() -> Self {
        Self { command: Command(0x25), data: 0 }
    }

    /// `ETHTOOL_GGRO`
    pub(super) fn get_gro() -> Self {
        Self { command: Command(0x2b), data: 0 }
    }

    /// `ETHTOOL_SGRO`
    pub(super) fn set_gro(on: bool) -> Self {
        Self { command: Command(0x2c), data: on.into() }
    }

    /// `ETHTOOL_SFLAGS`
    pub(super) fn set_flags(flags: u32) -> Self {
        Self { command: Command(0x26), data: flags }
    }
}

// SAFETY: `ETHTOOL_GDRVINFO`, its only command, writes one `struct ethtool_drvinfo` of 196 bytes.
unsafe impl Ethtool for DriverInfo {}
// SAFETY: `ETHTOOL_GCHANNELS`, its only command, writes one `struct ethtool_channels` of nine words.
unsafe impl Ethtool for Channels {}
// SAFETY: all of its commands read or write one `struct ethtool_value` of two words.
unsafe impl Ethtool for Value {}

// SAFETY: `ETHTOOL_GRXFH`, its only command, reads and writes at most one `struct ethtool_rxnfc` of 192 bytes, without rules.
unsafe impl Ethtool for FlowHash {}

const _: () = assert!(size_of::<FlowHash>() == 192);
const _: () = assert!(size_of::<DriverInfo>() == 196 && size_of::<Channels>() == 36);

/// Sends an `ethtool` request; the answer is in `data`.
pub(super) fn ethtool<T: Ethtool>(
    socket: &OwnedFd,
    name: [u8; libc::IFNAMSIZ],
    data: &mut T,
) -> io::Result<()> {
    let mut request = Request { name, value: [0; 24] };
    let address = std::ptr::from_mut(data).expose_provenance();
    request.value[..size_of::<usize>()].copy_from_slice(&address.to_ne_bytes());
    let code = libc::SIOCETHTOOL as libc::c_ulong;
    // SAFETY: the request points to `data`, which is exclusively borrowed and as large as its command needs
    // (`Ethtool`).
    match unsafe { libc::ioctl(socket.as_raw_fd(), code, std::ptr::from_mut(&mut request)) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A socket that keeps device `index` in promiscuous mode for as long as it is open.
pub(super) fn promiscuous(index: u32) -> io::Result<OwnedFd> {
    // Protocol 0: the socket receives nothing.
    // SAFETY: takes plain numbers only.
    let socket = owned(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) })?;
    let member = libc::packet_mreq {
        mr_ifindex: index.cast_signed(),
        mr_type: libc::PACKET_MR_PROMISC as libc::c_ushort,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    // SAFETY: the kernel reads the one `packet_mreq` of the length given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_ADD_MEMBERSHIP,
            std::ptr::from_ref(&member).cast(),
            size_of::<libc::packet_mreq>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(socket) } else { Err(io::Error::last_os_error()) }
}
