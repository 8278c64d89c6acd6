use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::facts::{Core, Device, Live, Nic, PagePool};
use super::plan::PlannedPort;
use super::*;
use crate::config::{self, Backend};
use crate::control::socket::scratch::Directory;

/// A machine that is made of files.
struct Machine(Directory);

impl Machine {
    /// Four cores with two threads each, on two nodes; `eth0` of ixgbe with two queues on the first node.
    fn new() -> Self {
        let machine = Self(Directory::new());
        machine.put("proc/sys/kernel/osrelease", "6.1.0-13-amd64");
        machine.put("proc/self/limits", "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 4096                 files     \nMax locked memory         8388608              8388608              bytes     \n");
        machine.put("proc/self/status", "Name:\tnatgate\nCapEff:\t0000000000000000\n");
        machine.put("proc/sys/net/ipv4/conf/eth0/forwarding", "1");
        let clock = "sys/devices/system/clocksource/clocksource0";
        machine.put(&format!("{clock}/current_clocksource"), "hpet");
        machine.put(&format!("{clock}/available_clocksource"), "hpet tsc acpi_pm ");
        machine.put("sys/devices/system/cpu/online", "0-7");
        machine.put("sys/devices/system/cpu/isolated", "2-3,6");
        for core in 0..8 {
            let directory = format!("sys/devices/system/cpu/cpu{core}");
            machine.put(
                &format!("{directory}/topology/thread_siblings_list"),
                &format!("{},{}", core % 4, core % 4 + 4),
            );
            machine.put(&format!("{directory}/cpufreq/scaling_governor"), "powersave");
            machine.put(&format!("{directory}/node{}/there", core % 4 / 2), "");
        }
        for (node, free) in [(0, 4), (1, 512)] {
            let pages = format!("sys/devices/system/node/node{node}/hugepages/hugepages-2048kB");
            machine.put(&format!("{pages}/nr_hugepages"), "512");
            machine.put(&format!("{pages}/free_hugepages"), &free.to_string());
        }
        machine.put("sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]");
        let eth0 = "sys/class/net/eth0";
        machine.put(&format!("{eth0}/flags"), "0x1002");
        machine.put(&format!("{eth0}/type"), "1");
        machine.put(&format!("{eth0}/mtu"), "9000");
        for queue in ["rx-0", "rx-1", "tx-0", "tx-1"] {
            machine.put(&format!("{eth0}/queues/{queue}/there"), "");
        }
        machine.put(&format!("{eth0}/device/numa_node"), "0");
        symlink("../../bus/pci/drivers/ixgbe", machine.path(&format!("{eth0}/device/driver"))).unwrap();
        symlink("../br0", machine.path(&format!("{eth0}/master"))).unwrap();
        machine
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
    }
}

fn plan(ports: &[Backend]) -> Plan {
    let port =
        |(n, backend): (usize, &Backend)| PlannedPort { name: format!("p{n}"), backend: backend.clone() };
    Plan {
        workers: 2,
        cores: Some(vec![2, 3]),
        polls: true,
        ports: ports.iter().enumerate().map(port).collect(),
        buffers: 64 << 20,
        buffer_size: 2048,
        tables: 190 << 20,
        needs_hugepages: false,
        socket: "/run/natgate.sock".into(),
    }
}

fn xdp() -> Backend {
    Backend::AfXdp { device: "eth0".into(), share: false }
}

fn packet() -> Backend {
    Backend::AfPacket { device: "eth0".into() }
}

fn dpdk() -> Backend {
    Backend::Dpdk { device: "0000:03:00.0,arg=1".into(), promiscuous: false }
}

/// Four cores, all as it should be.
fn good() -> Facts {
    let core = |n| {
        let core = Core { siblings: [n].into(), governor: Some("performance".into()), node: Some(0) };
        (n, core)
    };
    let live = Live { gro: Some(false), lro: Some(false), hashes_udp_ports: Some(true), ..Live::default() };
    let device = Device {
        driver: Some("ice".into()),
        is_ethernet: Some(true),
        is_up: Some(true),
        mtu: Some(1500),
        receive: 2,
        transmit: 2,
        node: Some(0),
        master: None,
        forwards: Some(false),
        live: Some(live),
    };
    let nic = Nic { driver: Some("vfio-pci".into()), node: Some(0), is_network: true, interfaces: vec![] };
    Facts {
        kernel: Some("6.1.0".into()),
        clock: Some("tsc".into()),
        clocks: vec!["tsc".into()],
        cores: (0..4).map(core).collect(),
        isolated: [2, 3].into(),
        pages: vec![PagePool { node: Some(0), size: 2 << 20, total: 256, free: 256 }],
        transparent: Some("madvise".into()),
        locked: Some(u64::MAX),
        files: Some(65_536),
        may_lock: Some(false),
        iommu_groups: 9,
        has_vfio: true,
        unsafe_vfio: false,
        devices: [("eth0".to_owned(), device)].into(),
        nics: [("0000:03:00.0".to_owned(), nic)].into(),
        is_running: false,
        setup: None,
    }
}

/// What is not well: check and severity.
fn amiss(facts: &Facts, plan: &Plan) -> Vec<(&'static str, Severity)> {
    let findings = judge(facts, plan);
    for finding in &findings {
        assert_eq!(finding.severity > Severity::Unknown, finding.fix.is_some(), "{finding:?}");
        assert!(finding.severity == Severity::Ok || !finding.found.is_empty(), "{finding:?}");
        assert!(finding.severity <= Severity::Unknown || !finding.why.is_empty(), "{finding:?}");
    }
    let bad = findings.iter().filter(|finding| finding.severity != Severity::Ok);
    bad.map(|finding| (finding.check, finding.severity)).collect()
}

fn fix_of(facts: &Facts, plan: &Plan, check: &str) -> String {
    let all = judge(facts, plan);
    let found = all.iter().find(|finding| finding.check == check && finding.fix.is_some());
    found.unwrap_or_else(|| panic!("{check}: {all:?}")).fix.clone().unwrap()
}

#[test]
fn a_machine_that_is_fit_has_nothing_amiss() {
    for backend in [xdp(), packet(), dpdk(), Backend::Auto { device: "eth0".into(), share: false }] {
        assert_eq!(amiss(&good(), &plan(&[backend])), []);
    }
}

#[test]
fn files_are_read_as_the_kernel_writes_them() {
    let machine = Machine::new();
    let root = machine.0.path();
    assert_eq!(facts::cores(root), (0..8).collect::<Vec<_>>());
    let facts = Facts::read(root, &plan(&[xdp()]));
    assert_eq!(facts.kernel.as_deref(), Some("6.1.0-13-amd64"));
    assert_eq!((facts.locked, facts.files, facts.may_lock), (Some(8 << 20), Some(1024), Some(false)));
    assert_eq!(facts.isolated, [2, 3, 6].into());
    assert_eq!(facts.transparent.as_deref(), Some("never"));
    let core = Core { siblings: [1, 5].into(), governor: Some("powersave".into()), node: Some(0) };
    assert_eq!(facts.cores[&5], core);
    assert_eq!(facts.pages[0], PagePool { node: Some(0), size: 2 << 20, total: 512, free: 4 });
    let device = Device {
        driver: Some("ixgbe".into()),
        is_ethernet: Some(true),
        is_up: Some(false),
        mtu: Some(9000),
        receive: 2,
        transmit: 2,
        node: Some(0),
        master: Some("br0".into()),
        forwards: Some(true),
        live: None,
    };
    assert_eq!(facts.devices["eth0"], device);
    machine.put("proc/self/status", "CapEff:\t0000000000004000");
    machine.put(
        "proc/net/unix",
        "Num RefCount Protocol Flags Type St Inode Path\n0: 2 0 10000 1 1 77 /run/natgate.sock",
    );
    let facts = Facts::read(root, &plan(&[]));
    assert_eq!((facts.may_lock, facts.is_running), (Some(true), true));
}

#[test]
fn all_that_is_amiss_with_a_machine_is_found_at_once() {
    let machine = Machine::new();
    let file = machine.path("natgate.toml");
    let toml = "[system]\ncores = [1, 5]\n[[port]]\nname = \"wan\"\ndevice = \"eth0\"\nbackend = \"af_xdp\"\n\
                [[port]]\nname = \"lan\"\ndevice = \"eth7\"\n";
    let model = config::parse(toml, "natgate.toml").unwrap();
    let mut findings = examine(machine.0.path(), &file, &Configuration::Good(Box::new(model)));
    findings[0].found = findings[0].found.replace(&file.display().to_string(), "FILE");
    let lines = findings.iter().map(|Finding { check, subject, severity, found, why, fix }| {
        let fix = fix.as_deref().map_or_else(String::new, |fix| format!("    $ {fix}\n"));
        format!("{severity} {check} {subject}: {found}\n    {why}\n{fix}")
    });
    insta::assert_snapshot!(lines.collect::<String>());
}

#[test]
fn where_nothing_can_be_read_that_is_said() {
    let empty = Directory::new();
    let findings = examine(empty.path(), Path::new("/none.toml"), &Configuration::Absent);
    let worst = findings.iter().map(|finding| finding.severity).max();
    assert_eq!(worst, Some(Severity::Unknown), "{findings:?}");
    assert!(findings.iter().filter(|finding| finding.severity == Severity::Unknown).count() > 5);
}

#[test]
fn cores_are_proposed_that_disturb_nobody() {
    let mut facts = good();
    for core in 0..4 {
        facts.cores.get_mut(&core).unwrap().siblings = [core % 2, core % 2 + 2].into();
    }
    let plan = Plan { cores: Some(vec![1, 3]), ..plan(&[xdp()]) };
    assert_eq!(fix_of(&facts, &plan, "hyperthreads"), "system.cores = [2, 3]");
    facts.isolated = [1, 3].into();
    // Where the threads of too few cores are there, fewer workers are proposed.
    assert_eq!(fix_of(&facts, &plan, "hyperthreads"), "system.cores = [1, 2]");
    let unpinned = Plan { cores: None, ..plan };
    assert_eq!(amiss(&facts, &unpinned), [("workers", Severity::Warning)]);
    let many = Plan { workers: 9, ..unpinned };
    assert!(amiss(&facts, &many).contains(&("workers", Severity::Error)));
}

#[test]
fn huge_pages_are_counted_where_the_workers_are() {
    let pool = |node, free| PagePool { node: Some(node), size: 2 << 20, total: 256, free };
    let mut facts = Facts { pages: vec![pool(0, 0), pool(1, 256)], ..good() };
    let plan = Plan { needs_hugepages: true, ..plan(&[dpdk()]) };
    assert_eq!(amiss(&facts, &plan), [("hugepages", Severity::Warning)]);
    assert_eq!(fix_of(&facts, &plan, "hugepages"), "dpdk-env/setup hugepages --mib 254 --node 0");
    // A gateway at work has taken its pages.
    facts.is_running = true;
    assert_eq!(amiss(&facts, &plan), []);
    facts = Facts { pages: vec![pool(0, 16)], ..good() };
    assert_eq!(amiss(&facts, &plan), [("hugepages", Severity::Error)]);
    let pages = PagePool { size: 1 << 30, ..pool(0, 1) };
    facts.pages = vec![pages];
    assert_eq!(amiss(&facts, &plan), []);
    // natgate's own memory lies on pages of 2 MiB.
    let plan = Plan { ports: super::tests::plan(&[xdp()]).ports, needs_hugepages: false, ..plan };
    assert_eq!(amiss(&facts, &plan), [("hugepages", Severity::Warning)]);
}

#[test]
fn what_the_kernel_does_beside_the_gateway_depends_on_the_back_end() {
    let mut facts = good();
    let device = facts.devices.get_mut("eth0").unwrap();
    device.forwards = Some(true);
    device.live.as_mut().unwrap().addresses = vec![[192, 0, 2, 1].into()];
    let auto = |share| Backend::Auto { device: "eth0".into(), share };
    assert_eq!(
        amiss(&facts, &plan(&[packet()])),
        [("forwarding", Severity::Error), ("addresses", Severity::Error)]
    );
    assert_eq!(
        amiss(&facts, &plan(&[auto(false)])),
        [("forwarding", Severity::Warning), ("addresses", Severity::Warning)]
    );
    assert_eq!(amiss(&facts, &plan(&[auto(true)])), []);
    assert_eq!(amiss(&facts, &plan(&[xdp()])), [("addresses", Severity::Warning)]);
}

#[test]
fn merged_segments_matter_when_somebody_turned_them_on_again() {
    let mut facts = good();
    let live = facts.devices.get_mut("eth0").unwrap().live.as_mut().unwrap();
    (live.gro, live.hashes_udp_ports) = (Some(true), Some(false));
    assert_eq!(amiss(&facts, &plan(&[xdp()])), [("rss", Severity::Warning)]);
    facts.is_running = true;
    assert_eq!(amiss(&facts, &plan(&[xdp()])), [("offloads", Severity::Warning), ("rss", Severity::Warning)]);
    assert_eq!(fix_of(&facts, &plan(&[xdp()]), "offloads"), "ethtool -K eth0 gro off");
}

#[test]
fn a_nic_for_dpdk_needs_its_driver_and_an_iommu() {
    let mut facts = good();
    let nic = facts.nics.get_mut("0000:03:00.0").unwrap();
    nic.driver = Some("ixgbe".into());
    facts.iommu_groups = 0;
    assert_eq!(amiss(&facts, &plan(&[dpdk()])), [("driver", Severity::Error), ("iommu", Severity::Error)]);
    assert_eq!(
        fix_of(&facts, &plan(&[dpdk()]), "driver"),
        "dpdk-env/setup vfio && dpdk-env/setup bind 0000:03:00.0"
    );
    facts.unsafe_vfio = true;
    facts.nics.get_mut("0000:03:00.0").unwrap().driver = Some("vfio-pci".into());
    assert_eq!(amiss(&facts, &plan(&[dpdk()])), [("iommu", Severity::Warning)]);
    // What stays with the kernel's driver needs none.
    facts.nics.get_mut("0000:03:00.0").unwrap().driver = Some("mlx5_core".into());
    assert_eq!(amiss(&facts, &plan(&[dpdk()])), []);
    facts.nics.clear();
    assert_eq!(amiss(&facts, &plan(&[dpdk()])), [("device", Severity::Error)]);
}

#[test]
fn old_kernels_and_slow_clocks_are_named() {
    let facts = Facts {
        kernel: Some("4.19.0-26-amd64".into()),
        clock: Some("hpet".into()),
        clocks: vec!["hpet".into(), "tsc".into()],
        ..good()
    };
    assert_eq!(amiss(&facts, &plan(&[xdp()])), [("kernel", Severity::Error), ("clock", Severity::Warning)]);
    assert!(fix_of(&facts, &plan(&[xdp()]), "clock").starts_with("echo tsc > "));
}
