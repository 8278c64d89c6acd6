//! A Linux network device, for the back ends that open one: what it is, and settings that are undone.

mod sys;

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use super::Mac;
use sys::Request;

/// `ETH_FLAG_RXVLAN`: the device takes VLAN tags out of received frames.
const RX_VLAN: u32 = 1 << 8;
/// `ETH_FLAG_LRO`: the device merges received TCP segments.
const LRO: u32 = 1 << 15;
/// `RXH_L4_B_0_1 | RXH_L4_B_2_3`: both ports are hashed.
const HASH_PORTS: u64 = 1 << 6 | 1 << 7;

/// Drivers whose frames may come from a kernel on the same machine, which leaves checksums to be finished later.
const LOCAL_SENDERS: [&str; 13] = [
    "bonding",
    "bridge",
    "dummy",
    "ipvlan",
    "macsec",
    "macvlan",
    "netkit",
    "team",
    "tun",
    "veth",
    "vif",
    "virtio_net",
    "vmxnet3",
];

/// A network device of the caller's network namespace.
#[derive(Debug)]
pub struct Device {
    name: String,
    key: [u8; libc::IFNAMSIZ],
    index: u32,
    socket: OwnedFd,
}

/// How many queues a device has in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queues {
    /// Receive queues.
    pub receive: usize,
    /// Transmit queues.
    pub transmit: usize,
    /// Whether the driver offers no way to change the number.
    pub fixed: bool,
}

impl Device {
    /// Finds the device by its name.
    ///
    /// # Errors
    /// Not found; invalid input for what is no device name.
    pub fn find(name: &str) -> io::Result<Self> {
        let mut key = [0; libc::IFNAMSIZ];
        if name.is_empty() || name.len() >= key.len() || name.contains('\0') {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("`{name}` is no device name")));
        }
        key[..name.len()].copy_from_slice(name.as_bytes());
        let mut device = Self { name: name.to_owned(), key, index: 0, socket: sys::control_socket()? };
        let value = device.ask(libc::SIOCGIFINDEX as libc::c_ulong).map_err(|error| {
            if error.raw_os_error() == Some(libc::ENODEV) {
                return io::Error::new(io::ErrorKind::NotFound, format!("there is no device `{name}`"));
            }
            error
        })?;
        device.index = word(&value);
        Ok(device)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its interface index.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Its Ethernet address.
    ///
    /// # Errors
    /// Unsupported, if it is not an Ethernet device; the kernel's.
    pub fn mac(&self) -> io::Result<Mac> {
        let value = self.ask(libc::SIOCGIFHWADDR as libc::c_ulong)?;
        if u16::from_ne_bytes([value[0], value[1]]) != libc::ARPHRD_ETHER {
            let message = format!("`{}` is not an Ethernet device", self.name);
            return Err(io::Error::new(io::ErrorKind::Unsupported, message));
        }
        Ok([value[2], value[3], value[4], value[5], value[6], value[7]])
    }

    /// Its MTU in bytes.
    ///
    /// # Errors
    /// The kernel's.
    pub fn mtu(&self) -> io::Result<u32> {
        self.ask(libc::SIOCGIFMTU as libc::c_ulong).map(|value| word(&value))
    }

    /// Whether it is set up (`ip link set ... up`).
    ///
    /// # Errors
    /// The kernel's.
    pub fn is_up(&self) -> io::Result<bool> {
        let value = self.ask(libc::SIOCGIFFLAGS as libc::c_ulong)?;
        Ok(word(&value) & libc::IFF_UP as u32 != 0)
    }

    /// The name of its driver; empty if the device does not say.
    pub fn driver(&self) -> String {
        let mut info = sys::DriverInfo::new();
        match sys::ethtool(&self.socket, self.key, &mut info) {
            Ok(()) => {
                info.driver.iter().take_while(|&&byte| byte != 0).map(|&byte| char::from(byte)).collect()
            }
            Err(_) => String::new(),
        }
    }

    /// Whether frames may come from a kernel on the same machine, with their transport checksums unfinished.
    pub fn has_local_senders(&self) -> bool {
        let driver = self.driver();
        LOCAL_SENDERS.iter().any(|&name| name == driver)
    }

    /// The queues in use.
    ///
    /// # Errors
    /// The kernel's.
    pub fn queues(&self) -> io::Result<Queues> {
        let mut channels = sys::Channels::new();
        match sys::ethtool(&self.socket, self.key, &mut channels) {
            Ok(()) => Ok(Queues {
                receive: (channels.receive + channels.combined).max(1) as usize,
                transmit: (channels.transmit + channels.combined).max(1) as usize,
                fixed: false,
            }),
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                Ok(self.listed_queues().unwrap_or(Queues { receive: 1, transmit: 1, fixed: true }))
            }
            Err(error) => Err(error),
        }
    }

    /// Puts the device into promiscuous mode until the answer is dropped, or the process ends in whatever way.
    ///
    /// # Errors
    /// The kernel's.
    pub fn promiscuous(&self) -> io::Result<Promiscuous> {
        Ok(Promiscuous { _member: sys::promiscuous(self.index)? })
    }

    /// Makes the device hand up frames as they came from the wire: VLAN tags in place, segments unmerged. Undone when
    /// the answer is dropped; a process that is killed leaves it so.
    ///
    /// # Errors
    /// The kernel's.
    pub fn raw_frames(self) -> io::Result<RawFrames> {
        let flags = self.flags()?;
        let changed = flags & (RX_VLAN | LRO);
        if changed != 0 {
            // What the driver cannot change it refuses; what remains is read back.
            let _ = self.set_flags(flags & !changed);
        }
        let now = self.flags()?;
        Ok(RawFrames { changed: changed & !now, strips_vlan: now & RX_VLAN != 0, device: self })
    }

    /// Makes the kernel hand up frames as they came: neither device (LRO) nor kernel (GRO) merges segments. What cannot be
    /// changed stays as it is. Undone when the answer is dropped; a process that is killed leaves it so.
    pub fn unmerged(self) -> Unmerged {
        let gro = self.gro().unwrap_or(false) && self.set_gro(false).is_ok();
        let flags = self.flags().unwrap_or(0);
        let lro = flags & LRO != 0 && self.set_flags(flags & !LRO).is_ok();
        Unmerged { device: self, gro, lro }
    }

    /// Its first IPv4 address that is the kernel's; `None` if it has none.
    pub fn kernel_address(&self) -> Option<Ipv4Addr> {
        // A `sockaddr_in`: family, port, address.
        let value = self.ask(libc::SIOCGIFADDR as libc::c_ulong).ok()?;
        Some(Ipv4Addr::new(value[4], value[5], value[6], value[7]))
    }

    /// Whether the kernel merges the TCP segments that the device receives (GRO); none if it does not say.
    pub fn merges_in_kernel(&self) -> Option<bool> {
        self.gro().ok()
    }

    /// Whether the device itself does (LRO); none if it does not say.
    pub fn merges_in_device(&self) -> Option<bool> {
        self.flags().ok().map(|flags| flags & LRO != 0)
    }

    /// Whether ports take part in how received UDP is distributed over the queues; none if the driver does not say.
    pub fn hashes_udp_ports(&self) -> Option<bool> {
        let mut hash = sys::FlowHash::udp4();
        sys::ethtool(&self.socket, self.key, &mut hash).ok()?;
        Some(hash.data & HASH_PORTS == HASH_PORTS)
    }

    fn gro(&self) -> io::Result<bool> {
        let mut value = sys::Value::get_gro();
        sys::ethtool(&self.socket, self.key, &mut value)?;
        Ok(value.data != 0)
    }

    fn set_gro(&self, on: bool) -> io::Result<()> {
        sys::ethtool(&self.socket, self.key, &mut sys::Value::set_gro(on))
    }

    /// Counts queues in sysfs, if that shows the caller's network namespace.
    fn listed_queues(&self) -> Option<Queues> {
        let directory = std::path::Path::new("/sys/class/net").join(&self.name);
        let index = std::fs::read_to_string(directory.join("ifindex")).ok()?;
        if index.trim().parse() != Ok(self.index) {
            return None;
        }
        let (mut receive, mut transmit) = (0, 0);
        for entry in std::fs::read_dir(directory.join("queues")).ok()?.flatten() {
            match entry.file_name().to_str() {
                Some(name) if name.starts_with("rx-") => receive += 1,
                Some(name) if name.starts_with("tx-") => transmit += 1,
                _ => {}
            }
        }
        Some(Queues { receive: receive.max(1), transmit: transmit.max(1), fixed: true })
    }

    fn ask(&self, code: libc::c_ulong) -> io::Result<[u8; 24]> {
        let mut request = Request { name: self.key, value: [0; 24] };
        sys::request(&self.socket, code, &mut request)?;
        Ok(request.value)
    }

    fn flags(&self) -> io::Result<u32> {
        let mut value = sys::Value::get_flags();
        sys::ethtool(&self.socket, self.key, &mut value)?;
        Ok(value.data)
    }

    fn set_flags(&self, flags: u32) -> io::Result<()> {
        sys::ethtool(&self.socket, self.key, &mut sys::Value::set_flags(flags))
    }
}

fn word(value: &[u8; 24]) -> u32 {
    u32::from_ne_bytes([value[0], value[1], value[2], value[3]])
}

/// Keeps a device in promiscuous mode.
#[derive(Debug)]
pub struct Promiscuous {
    _member: OwnedFd,
}

/// Keeps a device from changing received frames.
#[derive(Debug)]
pub struct RawFrames {
    device: Device,
    changed: u32,
    strips_vlan: bool,
}

impl RawFrames {
    /// Whether the device takes VLAN tags out nevertheless: its driver cannot be told otherwise.
    pub fn strips_vlan(&self) -> bool {
        self.strips_vlan
    }
}

impl Drop for RawFrames {
    fn drop(&mut self) {
        if self.changed == 0 {
            return;
        }
        // A device that has gone meanwhile needs no undoing.
        if let Ok(flags) = self.device.flags() {
            let _ = self.device.set_flags(flags | self.changed);
        }
    }
}

/// Keeps received segments from being merged.
#[derive(Debug)]
pub struct Unmerged {
    device: Device,
    /// What was on before.
    gro: bool,
    lro: bool,
}

impl Drop for Unmerged {
    fn drop(&mut self) {
        // A device that has gone meanwhile needs no undoing.
        if self.gro {
            let _ = self.device.set_gro(true);
        }
        if self.lro
            && let Ok(flags) = self.device.flags()
        {
            let _ = self.device.set_flags(flags | LRO);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_device_is_no_ethernet() {
        let device = Device::find("lo").unwrap();
        assert_eq!(device.mac().unwrap_err().kind(), io::ErrorKind::Unsupported);
        assert!(device.mtu().unwrap() >= 1500);
        assert_eq!(device.queues().unwrap(), Queues { receive: 1, transmit: 1, fixed: true });
        assert!(!device.has_local_senders());
    }

    #[test]
    fn names_that_are_none_are_refused() {
        assert_eq!(Device::find("").unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(Device::find("a-name-that-is-too-long").unwrap_err().kind(), io::ErrorKind::InvalidInput);
        let error = Device::find("ng-none").unwrap_err();
        assert_eq!(error.to_string(), "there is no device `ng-none`");
    }
}
