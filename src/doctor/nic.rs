//! Ports: the devices, their drivers and queues, and what the kernel does beside the gateway.

use super::facts::{Device, Facts, Live};
use super::plan::{Plan, PlannedPort};
use super::{Finding, Severity};
use crate::config::Backend;
use crate::nic::pool::HEADROOM;

/// Bytes of an Ethernet header with one VLAN tag.
const ETHERNET: usize = 18;

/// Drivers whose XDP sockets let the NIC itself read and write the packet buffers.
const ZERO_COPY: [&str; 12] =
    ["gve", "hns3", "i40e", "iavf", "ice", "idpf", "igb", "igc", "ixgbe", "mlx5_core", "nfp", "stmmac"];
/// Drivers that run XDP programs themselves, with frames copied once.
const NATIVE: [&str; 22] = [
    "atlantic",
    "bnxt_en",
    "cxgb4",
    "dpaa2_eth",
    "dpaa_eth",
    "ena",
    "fec",
    "hv_netvsc",
    "ionic",
    "ixgbevf",
    "mana",
    "mlx4_en",
    "mlx4_core",
    "mvneta",
    "mvpp2",
    "netvsc",
    "qede",
    "sfc",
    "tun",
    "veth",
    "virtio_net",
    "vmxnet3",
];
/// Drivers of DPDK's that are one with the kernel's.
const BIFURCATED: [&str; 3] = ["mana", "mlx4_core", "mlx5_core"];

pub(super) fn judge(facts: &Facts, plan: &Plan) -> Vec<Finding> {
    let mut findings = Vec::new();
    for port in &plan.ports {
        let before = findings.len();
        match (&port.backend, port.pci()) {
            (Backend::Dpdk { .. } | Backend::Capsule { .. }, Some(address)) => {
                dpdk(facts, plan, address, &mut findings);
            }
            (Backend::Dpdk { device, .. } | Backend::Capsule { device }, None) => {
                findings.push(Finding::ok("driver", format!("{device}, a virtual device of DPDK's")));
            }
            (Backend::Pcap { .. }, _) => findings.push(Finding::ok("driver", "captures")),
            (backend, _) => {
                let name = backend.device().unwrap_or_default();
                match facts.devices.get(name) {
                    Some(device) => kernel_device(facts, plan, port, name, device, &mut findings),
                    None => findings.push(
                        Finding::error("device", format!("there is no device {name}"))
                            .why("a port without its device is not opened, and natgate does not start")
                            .fix("ip -brief link    # the devices that there are"),
                    ),
                }
            }
        }
        for finding in &mut findings[before..] {
            finding.subject.clone_from(&port.name);
        }
    }
    findings
}

/// Whether packet sockets may be what a port is opened by.
fn may_be_packet(backend: &Backend) -> bool {
    matches!(backend, Backend::AfPacket { .. } | Backend::Auto { share: false, .. })
}

/// As bad as it is for a port of packet sockets; less where they are only what is fallen back to.
fn by(backend: &Backend, check: &'static str, found: String) -> Finding {
    let sure = !matches!(backend, Backend::Auto { share: false, .. });
    Finding::new(check, if sure { Severity::Error } else { Severity::Warning }, found)
}

fn kernel_device(
    facts: &Facts,
    plan: &Plan,
    port: &PlannedPort,
    name: &str,
    device: &Device,
    findings: &mut Vec<Finding>,
) {
    let backend = &port.backend;
    if device.is_ethernet == Some(false) {
        findings.push(
            Finding::error("device", format!("{name} is no Ethernet device"))
                .why("a gateway needs Ethernet addresses on its links: the port is not opened")
                .fix("ip -brief link    # the devices that there are"),
        );
        return;
    }
    match device.is_up {
        Some(false) => findings.push(
            Finding::error("device", format!("{name} is down"))
                .why("a port whose device is down is not opened, and natgate does not start")
                .fix(format!("ip link set dev {name} up")),
        ),
        Some(true) => findings.push(Finding::ok("device", format!("{name} is up"))),
        None => findings.push(Finding::unknown("device", format!("whether {name} is up cannot be read"))),
    }
    if let Some(master) = &device.master {
        findings.push(
            Finding::warning("device", format!("{name} belongs to {master}"))
                .why("frames that a bond or a bridge takes do not come to the gateway")
                .fix(format!("ip link set dev {name} nomaster, or give {master} to the port")),
        );
    }
    if !matches!(backend, Backend::AfPacket { .. }) {
        driver(name, device, findings);
        queues(backend, name, device, plan, findings);
    }
    mtu(backend, name, device, plan, findings);
    node(name, device.node, facts, plan, findings);
    kernel_beside(backend, name, device, findings);
    match &device.live {
        Some(live) => {
            offloads(facts, name, live, findings);
            // Packet sockets are distributed by a program of natgate's own.
            if plan.workers > 1 && !matches!(backend, Backend::AfPacket { .. }) {
                findings.push(hash(name, live));
            }
        }
        None => findings.push(
            Finding::unknown("offloads", format!("offloads, hash and addresses of {name} are not in files"))
                .why("only the machine itself tells them"),
        ),
    }
}

fn driver(name: &str, device: &Device, findings: &mut Vec<Finding>) {
    findings.push(match device.driver.as_deref() {
        None => Finding::unknown("driver", format!("{name} names no driver"))
            .why("whether XDP works in it, or only in the kernel's general path, shows at the start (natgate status)"),
        Some(driver) if ZERO_COPY.contains(&driver) => {
            Finding::ok("driver", format!("{driver}: XDP in the driver, without copies"))
        }
        Some(driver) if NATIVE.contains(&driver) => {
            Finding::ok("driver", format!("{driver}: XDP in the driver, each frame copied once"))
        }
        Some(driver) => Finding::warning("driver", format!("{driver}: not known to run XDP itself"))
            .why("in the kernel's general path XDP sockets receive about a quarter of what they do in the driver")
            .fix("a NIC whose driver has XDP, or backend = \"dpdk\" where DPDK has one"),
    });
}

fn queues(backend: &Backend, name: &str, device: &Device, plan: &Plan, findings: &mut Vec<Finding>) {
    let workers = plan.workers;
    let found =
        format!("{} receive and {} transmit queues for {workers} workers", device.receive, device.transmit);
    if device.receive == workers && device.transmit >= workers {
        findings.push(Finding::ok("queues", found));
        return;
    }
    let why = match backend {
        Backend::Auto { share: false, .. } => {
            "XDP sockets need a queue for each worker: packet sockets would be used"
        }
        _ => "XDP sockets need a queue for each worker: the port is not opened",
    };
    let fix = if device.driver.is_none() || device.driver.as_deref() == Some("veth") {
        format!("ethtool -L {name} rx {workers} tx {workers}")
    } else {
        format!("ethtool -L {name} combined {workers}")
    };
    findings.push(by(backend, "queues", found).why(why).fix(fix));
}

fn mtu(backend: &Backend, name: &str, device: &Device, plan: &Plan, findings: &mut Vec<Finding>) {
    let Some(mtu) = device.mtu else { return };
    let most = plan.buffer_size.saturating_sub(HEADROOM + ETHERNET);
    if mtu <= most {
        findings.push(Finding::ok("mtu", format!("{mtu} bytes fit a buffer of {}", plan.buffer_size)));
        return;
    }
    let why = match backend {
        Backend::AfXdp { .. } => {
            "XDP sockets take no frame that is larger than a buffer: the port is not opened"
        }
        _ => "frames that are larger than a buffer are refused",
    };
    let largest = if matches!(backend, Backend::AfPacket { .. }) { 65_536 } else { 4096 };
    let larger = Some((mtu + HEADROOM + ETHERNET).next_power_of_two()).filter(|larger| *larger <= largest);
    let larger = larger.map_or_else(String::new, |larger| format!(", or system.buffer_size = {larger}"));
    let found = format!("{mtu} bytes do not fit a buffer of {}", plan.buffer_size);
    findings
        .push(by(backend, "mtu", found).why(why).fix(format!("ip link set dev {name} mtu {most}{larger}")));
}

/// Workers on another node than the NIC.
fn node(name: &str, node: Option<usize>, facts: &Facts, plan: &Plan, findings: &mut Vec<Finding>) {
    let (Some(node), Some(cores)) = (node, &plan.cores) else { return };
    let away = |core: &&usize| facts.cores.get(core).and_then(|core| core.node).is_some_and(|of| of != node);
    let away: Vec<usize> = cores.iter().filter(away).copied().collect();
    if away.is_empty() {
        findings.push(Finding::ok("numa", format!("{name} and the workers are on node {node}")));
        return;
    }
    let near: Vec<usize> =
        facts.cores.iter().filter(|(_, core)| core.node == Some(node)).map(|(number, _)| *number).collect();
    findings.push(
        Finding::warning("numa", format!("{name} is on node {node}, cores {away:?} of workers are not"))
            .why("each frame crosses from node to node, which takes longer than to translate it")
            .fix(format!("system.cores out of {near:?}")),
    );
}

/// What the kernel would do with the gateway's packets.
fn kernel_beside(backend: &Backend, name: &str, device: &Device, findings: &mut Vec<Finding>) {
    if may_be_packet(backend) {
        match device.forwards {
            Some(true) => findings.push(
                by(backend, "forwarding", format!("the kernel forwards what {name} receives"))
                    .why("packet sockets get a copy: the kernel sends the same packet on by its own routes, untranslated")
                    .fix(format!("sysctl -w net.ipv4.conf.{name}.forwarding=0    # and in /etc/sysctl.d")),
            ),
            Some(false) => {
                findings.push(Finding::ok("forwarding", format!("the kernel forwards nothing that {name} receives")));
            }
            None => findings.push(Finding::unknown("forwarding", "whether the kernel forwards cannot be read")),
        }
    }
    let Some(live) = &device.live else { return };
    let shared = matches!(backend, Backend::AfXdp { share: true, .. } | Backend::Auto { share: true, .. });
    match live.addresses.first() {
        Some(_) if shared => {
            findings.push(Finding::ok(
                "addresses",
                format!("the kernel's addresses on {name} stay the kernel's"),
            ));
        }
        Some(address) if may_be_packet(backend) => findings.push(
            by(backend, "addresses", format!("the kernel has {address} on {name}"))
                .why("it answers beside the gateway: resets and port-unreachable errors break connections")
                .fix(format!("ip address flush dev {name}, or share = true with backend = \"af_xdp\"")),
        ),
        Some(address) => findings.push(
            Finding::warning("addresses", format!("the kernel has {address} on {name}"))
                .why("it hears nothing there any more once the gateway has the port")
                .fix(format!("ip address flush dev {name}, or share = true")),
        ),
        None => findings.push(Finding::ok("addresses", format!("the kernel has no address on {name}"))),
    }
}

fn offloads(facts: &Facts, name: &str, live: &Live, findings: &mut Vec<Finding>) {
    let on: Vec<&str> = [("GRO", "gro", live.gro), ("LRO", "lro", live.lro)]
        .into_iter()
        .filter(|(_, _, on)| *on == Some(true))
        .map(|(name, _, _)| name)
        .collect();
    let list = on.join(" and ");
    findings.push(if on.is_empty() {
        Finding::ok("offloads", format!("{name} merges no segments"))
    } else if facts.is_running {
        Finding::warning("offloads", format!("{list} of {name} is on although the gateway runs"))
            .why("merged segments are larger than the way out allows: natgate turned this off, something turned it on again")
            .fix(format!("ethtool -K {name} {}", on.iter().map(|on| format!("{} off", on.to_lowercase())).collect::<Vec<_>>().join(" ")))
    } else {
        Finding::ok("offloads", format!("{list} of {name} is on; natgate turns it off while it has the port"))
    });
}

/// How the device distributes over its queues.
fn hash(name: &str, live: &Live) -> Finding {
    match live.hashes_udp_ports {
        Some(true) => Finding::ok("rss", "UDP is distributed over the queues by addresses and ports"),
        Some(false) => Finding::warning("rss", "UDP is distributed over the queues by addresses alone")
            .why("all that two hosts say to each other by UDP (QUIC, tunnels) meets at one worker")
            .fix(format!("ethtool -N {name} rx-flow-hash udp4 sdfn")),
        None => Finding::unknown("rss", format!("{name} does not say how it distributes over its queues"))
            .why("frames that arrive at another worker than their session's are handed over (natgate stats)"),
    }
}

/// A NIC that is to be DPDK's.
fn dpdk(facts: &Facts, plan: &Plan, address: &str, findings: &mut Vec<Finding>) {
    let Some(nic) = facts.nics.get(address).filter(|nic| nic.is_network) else {
        findings.push(
            Finding::error("device", format!("there is no NIC at {address}"))
                .why("a port without its device is not opened, and natgate does not start")
                .fix(facts.setup("status    # the NICs that there are")),
        );
        return;
    };
    match nic.driver.as_deref() {
        Some("vfio-pci") => findings.push(Finding::ok("driver", format!("{address} is with vfio-pci"))),
        Some(driver) if BIFURCATED.contains(&driver) => {
            findings.push(Finding::ok(
                "driver",
                format!("{address} is with {driver}, which DPDK uses beside the kernel"),
            ));
        }
        Some(driver @ ("igb_uio" | "uio_pci_generic")) => findings.push(
            Finding::warning("driver", format!("{address} is with {driver}"))
                .why("nothing confines the NIC to the gateway's memory")
                .fix(bind(facts, address)),
        ),
        driver => {
            let driver = driver.unwrap_or("no driver");
            let devices = match nic.interfaces.as_slice() {
                [] => String::new(),
                devices => format!(" ({})", devices.join(", ")),
            };
            findings.push(
                Finding::error("driver", format!("{address}{devices} is with {driver}"))
                    .why("DPDK takes a NIC from vfio-pci, not from the kernel")
                    .fix(bind(facts, address)),
            );
        }
    }
    if !nic.driver.as_deref().is_some_and(|driver| BIFURCATED.contains(&driver)) {
        findings.push(iommu(facts));
    }
    node(address, nic.node, facts, plan, findings);
}

fn bind(facts: &Facts, address: &str) -> String {
    format!("{} && {}", facts.setup("vfio"), facts.setup(&format!("bind {address}")))
}

fn iommu(facts: &Facts) -> Finding {
    if facts.iommu_groups > 0 {
        return Finding::ok("iommu", format!("on, {} groups", facts.iommu_groups));
    }
    let fix =
        "on the kernel's command line: intel_iommu=on (or amd_iommu=on) iommu=pt, and on in the firmware";
    if facts.unsafe_vfio {
        return Finding::warning("iommu", "off; vfio goes without it")
            .why("nothing confines the NIC to the gateway's memory")
            .fix(fix);
    }
    Finding::error("iommu", "off").why("vfio-pci takes no NIC without it").fix(fix)
}
