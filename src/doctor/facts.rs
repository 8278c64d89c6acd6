//! What is known of a machine, read from its files. What a caller may not read, or a kernel does not have, stays unknown.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use super::live;
use super::plan::Plan;

/// Where the package installs `dpdk-env/setup`.
const SETUP: &str = "/usr/share/natgate/dpdk-env/setup";

/// What is known of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The kernel's release.
    pub kernel: Option<String>,
    /// The clock source in use.
    pub clock: Option<String>,
    /// All that there are.
    pub clocks: Vec<String>,
    /// Cores, by their number.
    pub cores: BTreeMap<usize, Core>,
    /// Cores that the scheduler leaves alone.
    pub isolated: BTreeSet<usize>,
    /// Pools of huge pages.
    pub pages: Vec<PagePool>,
    /// What the kernel does with transparent huge pages.
    pub transparent: Option<String>,
    /// Bytes that a process may lock in memory; `u64::MAX` if there is no limit.
    pub locked: Option<u64>,
    /// Files that a process may have open.
    pub files: Option<u64>,
    /// Whether the limit on locked memory does not concern the caller.
    pub may_lock: Option<bool>,
    /// Groups of the IOMMU.
    pub iommu_groups: usize,
    /// Whether `vfio-pci` is loaded.
    pub has_vfio: bool,
    /// Whether vfio goes without an IOMMU.
    pub unsafe_vfio: bool,
    /// Network devices of the kernel, those that the plan names.
    pub devices: BTreeMap<String, Device>,
    /// NICs on the PCI bus, those that the plan names.
    pub nics: BTreeMap<String, Nic>,
    /// Whether a gateway runs with the plan's management socket.
    pub is_running: bool,
    /// The script that makes the machine ready for DPDK, as the package installs it.
    pub setup: Option<&'static str>,
}

/// A core.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Core {
    /// The cores that share its execution units, itself included.
    pub siblings: BTreeSet<usize>,
    /// How its frequency is chosen.
    pub governor: Option<String>,
    /// Its NUMA node.
    pub node: Option<usize>,
}

/// Huge pages of one size, of a node or of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PagePool {
    /// The NUMA node; none where the machine has none.
    pub node: Option<usize>,
    /// Bytes of a page.
    pub size: usize,
    /// How many there are.
    pub total: usize,
    /// And how many of them are free.
    pub free: usize,
}

/// A network device of the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Its driver.
    pub driver: Option<String>,
    /// Whether it is an Ethernet device.
    pub is_ethernet: Option<bool>,
    /// Whether it is set up.
    pub is_up: Option<bool>,
    /// Its MTU in bytes.
    pub mtu: Option<usize>,
    /// Receive queues.
    pub receive: usize,
    /// Transmit queues.
    pub transmit: usize,
    /// Its NUMA node.
    pub node: Option<usize>,
    /// The bond or bridge that it belongs to.
    pub master: Option<String>,
    /// Whether the kernel forwards what it receives there.
    pub forwards: Option<bool>,
    /// What only system calls tell; none of a machine that is made of files.
    pub live: Option<Live>,
}

/// What only system calls tell of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// Addresses that the kernel has there.
    pub addresses: Vec<Ipv4Addr>,
    /// Whether the kernel merges received segments.
    pub gro: Option<bool>,
    /// Whether the device does.
    pub lro: Option<bool>,
    /// Whether ports take part in how UDP is distributed over the queues.
    pub hashes_udp_ports: Option<bool>,
}

/// A NIC on the PCI bus.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nic {
    /// Its driver.
    pub driver: Option<String>,
    /// Its NUMA node.
    pub node: Option<usize>,
    /// Whether it is a network device at all.
    pub is_network: bool,
    /// The kernel's names of it.
    pub interfaces: Vec<String>,
}

/// The cores that are online.
pub fn cores(root: &Path) -> Vec<usize> {
    text(&root.join("sys/devices/system/cpu/online")).map_or_else(Vec::new, |list| numbers(&list))
}

impl Facts {
    /// A command of the script that makes machines ready, installed or in the repository.
    pub(super) fn setup(&self, command: &str) -> String {
        format!("{} {command}", self.setup.unwrap_or("dpdk-env/setup"))
    }

    /// Reads them.
    pub fn read(root: &Path, plan: &Plan) -> Self {
        let sys = root.join("sys");
        let proc = root.join("proc");
        let clocks = sys.join("devices/system/clocksource/clocksource0");
        let limits = text(&proc.join("self/limits")).unwrap_or_default();
        let mut facts = Self {
            kernel: text(&proc.join("sys/kernel/osrelease")),
            clock: text(&clocks.join("current_clocksource")),
            clocks: words(text(&clocks.join("available_clocksource"))),
            cores: cores(root).into_iter().map(|core| (core, read_core(&sys, core))).collect(),
            isolated: text(&sys.join("devices/system/cpu/isolated"))
                .map_or_else(BTreeSet::new, |list| numbers(&list).into_iter().collect()),
            pages: read_pages(&sys),
            transparent: text(&sys.join("kernel/mm/transparent_hugepage/enabled"))
                .and_then(|modes| Some(modes.split_once('[')?.1.split_once(']')?.0.to_owned())),
            locked: limit(&limits, "Max locked memory"),
            files: limit(&limits, "Max open files"),
            may_lock: text(&proc.join("self/status")).as_deref().and_then(may_lock),
            iommu_groups: names(&sys.join("kernel/iommu_groups")).len(),
            has_vfio: sys.join("bus/pci/drivers/vfio-pci").is_dir(),
            unsafe_vfio: text(&sys.join("module/vfio/parameters/enable_unsafe_noiommu_mode"))
                .is_some_and(|mode| mode == "Y"),
            is_running: fs::read_to_string(proc.join("net/unix")).is_ok_and(|sockets| {
                let socket = plan.socket.to_string_lossy();
                sockets.lines().any(|line| line.split_whitespace().nth(7) == Some(&socket))
            }),
            setup: Some(SETUP).filter(|setup| root.join(setup.trim_start_matches('/')).exists()),
            ..Self::default()
        };
        for port in &plan.ports {
            if let Some(device) = port.backend.device()
                && let Some(read) = read_device(&sys, &proc, device)
            {
                let live = (root == Path::new("/")).then(|| live::look(device)).flatten();
                facts.devices.insert(device.to_owned(), Device { live, ..read });
            }
            if let Some(address) = port.pci() {
                facts.nics.extend(read_nic(&sys, address).map(|nic| (address.to_owned(), nic)));
            }
        }
        facts
    }
}

fn read_core(sys: &Path, core: usize) -> Core {
    let directory = sys.join(format!("devices/system/cpu/cpu{core}"));
    Core {
        siblings: text(&directory.join("topology/thread_siblings_list"))
            .map_or_else(BTreeSet::new, |list| numbers(&list).into_iter().collect()),
        governor: text(&directory.join("cpufreq/scaling_governor")),
        node: names(&directory).iter().find_map(|name| name.strip_prefix("node")?.parse().ok()),
    }
}

/// The pools of the nodes, or the machine's where it has none.
fn read_pages(sys: &Path) -> Vec<PagePool> {
    let nodes = sys.join("devices/system/node");
    let mut pools = Vec::new();
    let mut numbers: Vec<usize> =
        names(&nodes).iter().filter_map(|name| name.strip_prefix("node")?.parse().ok()).collect();
    numbers.sort_unstable();
    for node in numbers {
        pools.extend(read_pools(&nodes.join(format!("node{node}/hugepages")), Some(node)));
    }
    if pools.is_empty() {
        pools = read_pools(&sys.join("kernel/mm/hugepages"), None);
    }
    pools
}

fn read_pools(directory: &Path, node: Option<usize>) -> Vec<PagePool> {
    let pool = |name: &String| {
        let kib: usize = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let number = |file| text(&directory.join(name).join(file))?.parse().ok();
        Some(PagePool {
            node,
            size: kib << 10,
            total: number("nr_hugepages")?,
            free: number("free_hugepages")?,
        })
    };
    let mut pools: Vec<_> = names(directory).iter().filter_map(pool).collect();
    pools.sort_by_key(|pool| pool.size);
    pools
}

fn read_device(sys: &Path, proc: &Path, name: &str) -> Option<Device> {
    // A name that is a path would lead elsewhere.
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        return None;
    }
    let directory = sys.join("class/net").join(name);
    if !directory.exists() {
        return None;
    }
    let queues = names(&directory.join("queues"));
    let count = |prefix| queues.iter().filter(|name| name.starts_with(prefix)).count();
    Some(Device {
        driver: link(&directory.join("device/driver")),
        // `ARPHRD_ETHER`
        is_ethernet: text(&directory.join("type")).map(|kind| kind == "1"),
        is_up: text(&directory.join("flags"))
            .and_then(|flags| u32::from_str_radix(flags.strip_prefix("0x")?, 16).ok())
            .map(|flags| flags & 1 != 0),
        mtu: text(&directory.join("mtu")).and_then(|mtu| mtu.parse().ok()),
        receive: count("rx-"),
        transmit: count("tx-"),
        node: node(&directory.join("device/numa_node")),
        master: link(&directory.join("master")),
        forwards: text(&proc.join("sys/net/ipv4/conf").join(name).join("forwarding")).map(|on| on != "0"),
        live: None,
    })
}

fn read_nic(sys: &Path, address: &str) -> Option<Nic> {
    let directory = sys.join("bus/pci/devices").join(address);
    if !directory.exists() {
        return None;
    }
    let mut interfaces = names(&directory.join("net"));
    // Those of a virtio device lie one step deeper.
    for name in names(&directory).iter().filter(|name| name.starts_with("virtio")) {
        interfaces.extend(names(&directory.join(name).join("net")));
    }
    Some(Nic {
        driver: link(&directory.join("driver")),
        node: node(&directory.join("numa_node")),
        is_network: text(&directory.join("class")).is_some_and(|class| class.starts_with("0x02")),
        interfaces,
    })
}

/// The number of a NUMA node; a device that belongs to none says -1.
fn node(path: &Path) -> Option<usize> {
    text(path)?.parse().ok()
}

fn text(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn words(text: Option<String>) -> Vec<String> {
    text.unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<_> =
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// The name that a link leads to.
fn link(path: &Path) -> Option<String> {
    Some(fs::read_link(path).ok()?.file_name()?.to_str()?.to_owned())
}

/// A list of the kernel's, such as `0-3,8`.
fn numbers(list: &str) -> Vec<usize> {
    // More cores than any machine has are a mistake, not a list to be filled.
    const MOST: usize = 1 << 16;
    let mut found = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<usize>(), last.trim().parse::<usize>()) {
            found.extend(first..=last.min(MOST));
        }
    }
    found
}

/// A soft limit of `/proc/self/limits`.
fn limit(limits: &str, name: &str) -> Option<u64> {
    let value = limits.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?;
    if value == "unlimited" { Some(u64::MAX) } else { value.parse().ok() }
}

/// Whether the caller may lock memory without a limit, from `/proc/self/status`.
fn may_lock(status: &str) -> Option<bool> {
    const CAP_IPC_LOCK: u32 = 14;
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?.trim();
    Some(u64::from_str_radix(capabilities, 16).ok()? >> CAP_IPC_LOCK & 1 == 1)
}
