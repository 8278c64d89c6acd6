//! Names of DPDK's devices, and why one cannot be taken.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A device as DPDK names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DeviceName {
    /// A PCI address with its domain, such as `0000:03:00.1`.
    Pci(String),
    /// A virtual device and its arguments, such as `net_af_packet0,iface=eth0`.
    Virtual {
        /// The driver's name with a number.
        name: String,
        /// The whole text.
        arguments: String,
    },
}

impl DeviceName {
    /// Reads a name. A PCI address may lack its domain.
    pub(super) fn parse(text: &str) -> io::Result<Self> {
        if let Some(address) = pci_address(text) {
            return Ok(Self::Pci(address));
        }
        let name = text.split(',').next().unwrap_or_default();
        if name.starts_with("net_") && name.len() > 4 && !text.contains('\0') {
            return Ok(Self::Virtual { name: name.to_owned(), arguments: text.to_owned() });
        }
        Err(invalid(format!(
            "`{text}` is neither a PCI address such as 0000:03:00.0 nor a virtual device such as \
             net_af_packet0,iface=eth0"
        )))
    }

    /// What DPDK calls the port on it.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Pci(name) | Self::Virtual { name, .. } => name,
        }
    }

    /// An argument of a virtual device.
    pub(super) fn argument(&self, key: &str) -> Option<&str> {
        let Self::Virtual { arguments, .. } = self else { return None };
        arguments.split(',').find_map(|argument| argument.strip_prefix(key)?.strip_prefix('='))
    }

    /// The kernel's device that a virtual one is laid upon. Others make one of that name, or mean something else by it.
    pub(super) fn interface(&self) -> Option<&str> {
        let is_upon =
            ["net_af_packet", "net_af_xdp", "net_pcap"].iter().any(|driver| self.name().starts_with(driver));
        self.argument("iface").filter(|_| is_upon)
    }

    /// Whether DPDK may take it: what the kernel drives is the kernel's, except by drivers that share.
    pub(super) fn check(&self) -> io::Result<()> {
        let Self::Pci(address) = self else { return Ok(()) };
        match driver(&sysfs(address)) {
            Some(name) if DPDKS.contains(&name.as_str()) || SHARING.contains(&name.as_str()) => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::NotFound, why_no_port(address))),
        }
    }

    /// The NUMA node of a PCI device, if it says so.
    pub(super) fn node(&self) -> Option<i32> {
        let Self::Pci(address) = self else { return None };
        let node: i32 = fs::read_to_string(sysfs(address).join("numa_node")).ok()?.trim().parse().ok()?;
        (node >= 0).then_some(node)
    }
}

/// Drivers of the kernel's that leave a device to user space.
const DPDKS: [&str; 3] = ["vfio-pci", "uio_pci_generic", "igb_uio"];
/// Drivers that stay in place while DPDK uses the device.
const SHARING: [&str; 2] = ["mlx4_core", "mlx5_core"];

fn sysfs(address: &str) -> PathBuf {
    Path::new("/sys/bus/pci/devices").join(address)
}

/// The kernel's driver of a device.
fn driver(device: &Path) -> Option<String> {
    let driver = fs::read_link(device.join("driver")).ok()?;
    Some(driver.file_name()?.to_string_lossy().into_owned())
}

/// The full address, if the text is one.
fn pci_address(text: &str) -> Option<String> {
    let full = if text.len() == 7 { format!("0000:{text}") } else { text.to_owned() };
    let is_address = full.len() == 12
        && full.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b':',
            10 => byte == b'.',
            _ => byte.is_ascii_hexdigit(),
        });
    is_address.then(|| full.to_ascii_lowercase())
}

/// Why DPDK has found no port on a PCI device, and what to do.
pub(super) fn why_no_port(address: &str) -> String {
    let device = sysfs(address);
    if !device.exists() {
        return format!("there is no PCI device {address}: `lspci -D` lists them");
    }
    match driver(&device).as_deref() {
        Some(name) if DPDKS.contains(&name) || SHARING.contains(&name) => busy(&device, address).unwrap_or_else(|| {
            format!("DPDK has no driver for {address}, or it does not take it: `dpdk-testpmd -a {address}` says why \
                 (Debian has it in the package dpdk-dev)")
        }),
        Some(kernel) => {
            format!("{address} is the kernel's, by its driver {kernel}: `dpdk-env/setup bind {address}` gives it to DPDK")
        }
        None => format!("{address} has no driver: `dpdk-env/setup bind {address}` gives it to DPDK"),
    }
}

/// Whether another process has the device's group open.
fn busy(device: &Path, address: &str) -> Option<String> {
    let group = fs::read_link(device.join("iommu_group")).ok()?;
    let file = Path::new("/dev/vfio").join(group.file_name()?);
    let error = fs::OpenOptions::new().read(true).write(true).open(&file).err()?;
    let file = file.display();
    Some(match error.kind() {
        io::ErrorKind::ResourceBusy => {
            format!("another process has {address}: `fuser -v {file}` shows it; stop it")
        }
        io::ErrorKind::PermissionDenied => {
            format!("{file} may not be opened: run as root, or give the file to natgate's user")
        }
        _ => format!("{file} cannot be opened: {error}"),
    })
}

pub(super) fn invalid(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_told_apart() {
        for text in ["0000:03:00.1", "03:00.1"] {
            assert_eq!(DeviceName::parse(text).unwrap(), DeviceName::Pci("0000:03:00.1".into()));
        }
        let device = DeviceName::parse("net_af_packet0,iface=eth0,qpairs=2").unwrap();
        assert_eq!(device.name(), "net_af_packet0");
        assert_eq!(device.argument("iface"), Some("eth0"));
        assert_eq!(device.argument("face"), None);
        assert_eq!(device.interface(), Some("eth0"));
        for text in ["net_tap0,iface=eth0", "net_vhost0,iface=/run/a.sock", "net_null0"] {
            assert_eq!(DeviceName::parse(text).unwrap().interface(), None, "{text}");
        }
        for text in ["eth0", "net_", "", "0000:03:00", "zz:00.0"] {
            assert!(
                DeviceName::parse(text).unwrap_err().to_string().contains("neither a PCI address"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_device_that_is_not_there_is_said() {
        let error = DeviceName::parse("ffff:ff:1f.7").unwrap().check().unwrap_err();
        assert!(error.to_string().contains("there is no PCI device ffff:ff:1f.7"), "{error}");
    }

    /// Looks only: no device is touched.
    #[test]
    fn devices_of_the_kernel_are_not_taken() {
        for device in fs::read_dir("/sys/bus/pci/devices").into_iter().flatten().flatten() {
            let address = device.file_name().into_string().unwrap();
            let outcome = DeviceName::parse(&address).unwrap().check();
            match driver(&device.path()) {
                Some(name) if DPDKS.contains(&name.as_str()) || SHARING.contains(&name.as_str()) => {
                    outcome.unwrap();
                }
                Some(name) => {
                    let error = outcome.unwrap_err().to_string();
                    assert!(error.contains(&format!("the kernel's, by its driver {name}")), "{error}");
                }
                None => {
                    let error = outcome.unwrap_err().to_string();
                    assert!(error.contains(&format!("dpdk-env/setup bind {address}")), "{error}");
                }
            }
        }
    }
}
