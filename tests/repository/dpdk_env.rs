//! `dpdk-env/setup` on a machine made of files: what it changes, what it refuses, and that it takes everything back.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common;

/// Where the kernel's files would be.
struct Machine {
    root: PathBuf,
    namespace: Option<String>,
}

const NIC: &str = "0000:03:00.0";
const OTHER: &str = "0000:03:00.1";

impl Machine {
    /// Two NICs of a driver, `nic0` and `nic1`, on two NUMA nodes; with an IOMMU and vfio-pci.
    fn new(name: &str) -> Self {
        let root = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("dpdk-env-{name}"));
        let _ = fs::remove_dir_all(&root);
        let machine = Self { root, namespace: None };
        for (number, address) in [NIC, OTHER].into_iter().enumerate() {
            machine.put(&format!("bus/pci/devices/{address}/class"), "0x020000\n");
            machine.put(&format!("bus/pci/devices/{address}/numa_node"), &format!("{number}\n"));
            machine.put(&format!("bus/pci/devices/{address}/driver_override"), "(null)\n");
            machine.put(&format!("bus/pci/devices/{address}/net/nic{number}/mtu"), "1500\n");
            machine.give(address, "ixgbe");
            let pages = format!("devices/system/node/node{number}/hugepages/hugepages-2048kB");
            machine.put(&format!("{pages}/nr_hugepages"), "8\n");
            machine.put(&format!("{pages}/free_hugepages"), "4\n");
        }
        for driver in ["ixgbe", "vfio-pci"] {
            machine.put(&format!("bus/pci/drivers/{driver}/unbind"), "");
        }
        machine.put("bus/pci/drivers_probe", "");
        machine.put("kernel/iommu_groups/1/type", "DMA\n");
        machine
    }

    fn file(&self, path: &str) -> PathBuf {
        self.root.join("sys").join(path)
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.file(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(path, text).expect("a file");
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.file(path)).expect("a file").trim().to_owned()
    }

    /// What the kernel does when a driver takes a device.
    fn give(&self, address: &str, driver: &str) {
        let link = self.file(&format!("bus/pci/devices/{address}/driver"));
        let _ = fs::remove_file(&link);
        symlink(Path::new("../../drivers").join(driver), link).expect("a link");
    }

    /// What it says, and whether it went well.
    fn setup(&self, arguments: &str) -> Result<String, String> {
        let script = common::repository().join("dpdk-env/setup");
        let mut command = match &self.namespace {
            Some(name) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name]).arg(script);
                command
            }
            None => Command::new(script),
        };
        command.args(arguments.split_whitespace());
        command.env("DPDK_ENV_ROOT", &self.root).env("DPDK_ENV_STATE", self.root.join("state"));
        command.env_remove("SSH_CONNECTION");
        let output = command.output().expect("dpdk-env/setup");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(text + &error) } else { Err(error) }
    }

    fn files(&self) -> Vec<(PathBuf, String)> {
        let mut found = Vec::new();
        collect(&self.root, &mut found);
        found.sort();
        found
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(name) = &self.namespace {
            let _ = Command::new("ip").args(["netns", "delete", name]).status();
        }
    }
}

fn collect(directory: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(directory).expect("a directory").flatten() {
        let (path, kind) = (entry.path(), entry.file_type().expect("a type"));
        if kind.is_symlink() {
            let target = fs::read_link(&path).expect("a link").display().to_string();
            found.push((path, target));
        } else if kind.is_dir() {
            collect(&path, found);
        } else {
            found.push((path.clone(), fs::read_to_string(&path).expect("text")));
        }
    }
}

const NODE: [&str; 2] = [
    "devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages",
    "devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages",
];

#[test]
fn the_status_names_what_is_there() {
    let machine = Machine::new("status");
    let status = machine.setup("status").unwrap();
    for words in [
        "node 0: 2M: 8 pages, 4 free",
        "node 1: 2M: 8 pages, 4 free",
        "IOMMU: on, 1 groups",
        "vfio-pci: loaded",
        "0000:03:00.0  driver ixgbe, device nic0, node 0",
        "0000:03:00.1  driver ixgbe, device nic1, node 1",
    ] {
        assert!(status.contains(words), "\"{words}\" is missing in\n{status}");
    }
}

#[test]
fn huge_pages_are_set_on_each_node_and_taken_back() {
    let machine = Machine::new("hugepages");
    // As many as are free already.
    let text = machine.setup("hugepages --mib 16").unwrap();
    assert!(text.contains("node 0: 4 pages of 2M are free already"), "{text}");
    assert_eq!(NODE.map(|node| machine.read(node)), ["8", "8"]);
    let before = machine.files();
    let text = machine.setup("--dry-run hugepages --mib 64").unwrap();
    assert!(text.contains("would write: 20 to "), "{text}");
    assert_eq!(machine.files(), before, "a dry run changed something");
    // These files give no pages, and that is said.
    let error = machine.setup("hugepages --mib 20 --node 1").unwrap_err();
    assert!(error.contains("node 1: only 4 of 10 pages of 2M could be had"), "{error}");
    assert_eq!(NODE.map(|node| machine.read(node)), ["8", "14"]);
    machine.setup("undo").unwrap();
    assert_eq!(NODE.map(|node| machine.read(node)), ["8", "8"]);
    assert!(machine.setup("undo").unwrap().contains("nothing was changed"));
    for (arguments, words) in [
        ("hugepages", "needs --mib"),
        ("hugepages --mib many", "needs --mib"),
        ("hugepages --mib 2 --size 4M", "--size is 2M or 1G"),
        ("hugepages --mib 2 --node 7", "no pages of 2M on node 7"),
        ("hugepages --mib 2 --size 1G", "no pages of 1G"),
        ("nonsense", "there is no command nonsense"),
    ] {
        let error = machine.setup(arguments).unwrap_err();
        assert!(error.contains(words), "{arguments}: {error}");
    }
}

#[test]
fn a_nic_is_given_to_dpdk_and_back() {
    let machine = Machine::new("bind");
    let before = machine.files();
    let text = machine.setup(&format!("--dry-run bind {NIC}")).unwrap();
    assert!(text.contains("would write: 0000:03:00.0 to ") && text.contains("/ixgbe/unbind"), "{text}");
    assert_eq!(machine.files(), before, "a dry run changed something");

    // No such device is in the network of this process: nothing there is set down.
    machine.put("bus/pci/devices/0000:03:00.0/net/nic0/mtu", "1500\n");
    fs::remove_dir_all(machine.file("bus/pci/devices/0000:03:00.0/net")).unwrap();
    machine.setup("bind 03:00.0").unwrap();
    assert_eq!(machine.read("bus/pci/drivers/ixgbe/unbind"), NIC);
    assert_eq!(machine.read("bus/pci/devices/0000:03:00.0/driver_override"), "vfio-pci");
    assert_eq!(machine.read("bus/pci/drivers_probe"), NIC);
    machine.give(NIC, "vfio-pci");
    // Once more changes nothing.
    let bound = machine.files();
    assert!(machine.setup("bind 03:00.0").unwrap().contains("DPDK's already"));
    assert_eq!(machine.files(), bound);
    assert!(machine.setup("status").unwrap().contains("bind 0000:03:00.0 ixgbe"));

    let text = machine.setup("undo").unwrap();
    assert!(text.contains("the kernel's again, by ixgbe"), "{text}");
    assert_eq!(machine.read("bus/pci/drivers/vfio-pci/unbind"), NIC);
    assert_eq!(machine.read("bus/pci/devices/0000:03:00.0/driver_override"), "");
    machine.give(NIC, "ixgbe");
    assert!(machine.setup(&format!("unbind {NIC}")).unwrap().contains("is not DPDK's"));
}

#[test]
fn what_must_not_be_taken_is_refused() {
    common::need_root!();
    let mut machine = Machine::new("refuse");
    let name = format!("ng-dpdk-env-{}", std::process::id());
    let ip = |arguments: &str| {
        let status = Command::new("ip").args(arguments.split_whitespace()).status().expect("ip");
        assert!(status.success(), "ip {arguments}");
    };
    ip(&format!("netns add {name}"));
    machine.namespace = Some(name.clone());
    ip(&format!("-n {name} link add nic0 type veth peer name nic1"));
    for (device, address) in [("nic0", "192.0.2.1/24"), ("nic1", "192.0.2.2/24")] {
        ip(&format!("-n {name} address add {address} dev {device}"));
        ip(&format!("-n {name} link set {device} up"));
    }
    ip(&format!("-n {name} route add default via 192.0.2.9 dev nic0"));
    let before = machine.files();
    for (arguments, words) in [
        (format!("bind {NIC}"), "(nic0) carries the default route"),
        (format!("bind {NIC} --force"), "(nic0) carries the default route"),
        (format!("bind {OTHER}"), "(nic1) is up and has an address"),
        ("bind ffff:00:00.0".to_owned(), "there is no PCI device ffff:00:00.0"),
        ("bind nic0".to_owned(), "is no PCI address"),
        ("bind".to_owned(), "needs the PCI address"),
    ] {
        let error = machine.setup(&arguments).unwrap_err();
        assert!(error.contains(words), "{arguments}: {error}");
    }
    let text = machine.setup("status").unwrap();
    assert!(text.contains("device nic0, node 0, carries the default route"), "{text}");
    assert_eq!(machine.files(), before, "a refusal changed something");
    // With --force, and without a route of weight, it is taken.
    machine.setup(&format!("bind {OTHER} --force")).unwrap();
    assert_eq!(machine.read("bus/pci/drivers_probe"), OTHER);
}

#[test]
fn without_an_iommu_that_must_be_said() {
    let machine = Machine::new("iommu");
    fs::remove_dir_all(machine.file("kernel/iommu_groups/1")).unwrap();
    machine.put("module/vfio/parameters/enable_unsafe_noiommu_mode", "N\n");
    let error = machine.setup("vfio").unwrap_err();
    assert!(error.contains("a NIC could write to any memory"), "{error}");
    machine.setup("vfio --no-iommu").unwrap();
    assert_eq!(machine.read("module/vfio/parameters/enable_unsafe_noiommu_mode"), "Y");
    machine.setup("vfio").unwrap();
    machine.setup("undo").unwrap();
    assert_eq!(machine.read("module/vfio/parameters/enable_unsafe_noiommu_mode"), "N");
}

#[test]
fn the_doctor_sees_the_machine_that_the_script_sees() {
    let machine = Machine::new("doctor");
    let status = machine.setup("status").unwrap();
    assert!(status.contains("node 0: 2M: 8 pages, 4 free"), "{status}");
    let output = Command::new(env!("CARGO_BIN_EXE_natgate"))
        .args(["doctor", "-o", "json", "--config", "/nonexistent", "--root"])
        .arg(&machine.root)
        .output()
        .expect("natgate doctor");
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let findings = report["findings"].as_array().expect("findings");
    let pages = findings.iter().find(|finding| finding["check"] == "hugepages").expect("huge pages");
    // Two nodes with four pages of 2 MiB each.
    assert!(pages["found"].as_str().is_some_and(|found| found.starts_with("16 MiB free, ")), "{pages}");
    // And what it advises is a command of the script's.
    let fix = pages["fix"].as_str().and_then(|fix| fix.strip_prefix("dpdk-env/setup ")).expect("a fix");
    let would = machine.setup(&format!("--dry-run {fix}")).unwrap();
    assert!(would.contains("would write: "), "{would}");
}
