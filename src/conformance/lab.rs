//! The network of a measurement: two namespaces, of the gateway and of all others, joined by two cables; and the gateway in it.
//!
//! ```text
//! probe namespace                       gateway namespace
//!   out  (198.51.100.0/24 and others, ---- wan   203.0.113.2/24 and the EIPs
//!         behind the router 203.0.113.1)
//!   in   (10.0.0.0/16) ------------------- lan   10.0.0.1/16
//! ```

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{Failure, Gateway, Variant};

/// How long a gateway may take to start.
const PATIENCE: Duration = Duration::from_secs(20);

/// Namespaces and files, gone with the value.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    directory: PathBuf,
}

impl Lab {
    /// Makes both namespaces and the cables between them.
    ///
    /// # Errors
    /// What the machine or the lack of privilege does not allow. What was made is removed.
    pub fn new() -> Result<Self, Failure> {
        let prefix = format!("ngc{}", std::process::id());
        let directory = std::env::temp_dir().join(format!("natgate-conformance-{}", std::process::id()));
        let lab = Self { prefix, directory };
        fs::create_dir(&lab.directory).map_err(|error| Failure::new("making a folder for files", error))?;
        for name in [lab.probe(), lab.gateway()] {
            run(&["ip", "netns", "add", &name])?;
            // Nobody but the gateway and the probe is to say anything.
            run(&["ip", "netns", "exec", &name, "sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"])?;
            run(&["ip", "netns", "exec", &name, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"])?;
        }
        for (near, far) in [("out", "wan"), ("in", "lan")] {
            let (probe, gateway) = (lab.probe(), lab.gateway());
            run(&[
                "ip", "-n", &probe, "link", "add", near, "type", "veth", "peer", "name", far, "netns",
                &gateway,
            ])?;
            run(&["ip", "-n", &probe, "link", "set", near, "up"])?;
            run(&["ip", "-n", &gateway, "link", "set", far, "up"])?;
        }
        Ok(lab)
    }

    /// The namespace of hosts and peers.
    pub fn probe(&self) -> String {
        format!("{}-probe", self.prefix)
    }

    /// The namespace of the gateway.
    pub fn gateway(&self) -> String {
        format!("{}-gateway", self.prefix)
    }

    /// Where files go.
    pub fn directory(&self) -> &std::path::Path {
        &self.directory
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in [self.probe(), self.gateway()] {
            // It may not have been made.
            let _ = Command::new("ip").args(["netns", "delete", &name]).stderr(Stdio::null()).status();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The namespace of the gateway and where its files lie, as the process in the other namespace sees them.
#[derive(Clone, Debug)]
pub struct Place {
    /// The namespace's name.
    pub namespace: String,
    /// For the gateway's files.
    pub directory: PathBuf,
}

/// A gateway that runs.
#[derive(Debug)]
pub struct Running {
    process: Option<Child>,
}

impl Running {
    /// Starts a gateway with [`Variant`]'s configuration, and waits until it is ready.
    ///
    /// # Errors
    /// Why it does not start.
    pub fn start(gateway: Gateway, variant: Variant, place: &Place) -> Result<Self, Failure> {
        match gateway {
            Gateway::Natgate => natgate(variant, place),
            Gateway::Nftables => nftables(variant, place),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn natgate(variant: Variant, place: &Place) -> Result<Running, Failure> {
    let (config, socket, log) = (
        place.directory.join("natgate.toml"),
        place.directory.join("natgate.sock"),
        place.directory.join("natgate.log"),
    );
    let files = |error| Failure::new("writing the gateway's configuration", error);
    let timeouts = match variant {
        Variant::Usual => "",
        Variant::Short => {
            "[timeouts]\ntcp_established = \"4s\"\ntcp_transitory = \"2s\"\nudp = \"2s\"\nicmp = \"2s\"\n"
        }
    };
    let text = format!(
        "[system]\ncontrol = {:?}\n{}{timeouts}",
        socket.display().to_string(),
        include_str!("natgate.toml")
    );
    fs::write(&config, text).map_err(files)?;
    let binary = std::env::current_exe().map_err(|error| Failure::new("finding this program", error))?;
    let process = Command::new("ip")
        .args(["netns", "exec", &place.namespace])
        .arg(binary)
        .args(["run", "--config"])
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).map_err(files)?)
        .spawn()
        .map_err(|error| Failure::new("starting natgate", error))?;
    let mut running = Running { process: Some(process) };
    let step = Duration::from_millis(10);
    for _ in 0..PATIENCE.as_millis() / step.as_millis() {
        let said = fs::read_to_string(&log).unwrap_or_default();
        if said.contains("ready; management at") {
            return Ok(running);
        }
        if running.process.as_mut().is_some_and(|process| !matches!(process.try_wait(), Ok(None))) {
            return Err(Failure::new("starting natgate", io::Error::other(said)));
        }
        std::thread::sleep(step);
    }
    let said = fs::read_to_string(&log).unwrap_or_default();
    Err(Failure::new("starting natgate", io::Error::new(io::ErrorKind::TimedOut, said)))
}

/// The kernel's NAT. The rules are those that an operator would write for the same entries.
fn nftables(variant: Variant, place: &Place) -> Result<Running, Failure> {
    let namespace = place.namespace.as_str();
    let ip = |words: &str| {
        let words: Vec<_> = ["ip", "-n", namespace].into_iter().chain(words.split_whitespace()).collect();
        run(&words)
    };
    let sysctl = |value: &str| run(&["ip", "netns", "exec", namespace, "sysctl", "-qw", value]);
    let rules = place.directory.join("rules.nft");
    fs::write(&rules, include_str!("nftables.nft"))
        .map_err(|error| Failure::new("writing the kernel's rules", error))?;
    sysctl("net.ipv4.ip_forward=1")?;
    // As whoever sets up a router with care would: no spoofed sources, addresses of the right side alone, announced.
    sysctl("net.ipv4.conf.all.rp_filter=1")?;
    sysctl("net.ipv4.conf.all.arp_ignore=1")?;
    sysctl("net.ipv4.conf.all.arp_notify=1")?;
    run(&["ip", "netns", "exec", namespace, "nft", "-f", &rules.display().to_string()])?;
    ip("link set wan mtu 1400")?;
    ip("address add 10.0.0.1/16 dev lan")?;
    ip("address add 203.0.113.2/24 dev wan")?;
    for eip in [16, 17, 18, 19, 25, 26, 30] {
        ip(&format!("address add 203.0.113.{eip}/32 dev wan"))?;
    }
    ip("route add default via 203.0.113.1")?;
    if variant == Variant::Short {
        for timeout in [
            "udp_timeout=2",
            "udp_timeout_stream=2",
            "icmp_timeout=2",
            "tcp_timeout_established=4",
            "tcp_timeout_syn_sent=2",
            "tcp_timeout_syn_recv=2",
        ] {
            sysctl(&format!("net.netfilter.nf_conntrack_{timeout}"))?;
        }
    }
    Ok(Running { process: None })
}

/// Runs a command that must succeed.
pub fn run(words: &[&str]) -> Result<(), Failure> {
    let (program, arguments) = words.split_first().unwrap_or((&"true", &[]));
    let failed = |error| Failure::new(words.join(" "), error);
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().map_err(|error| {
        let package = match *program {
            "ip" => "iproute2",
            _ => "nftables",
        };
        let missing = io::Error::new(error.kind(), format!("{error}; is the package {package} installed?"));
        failed(if error.kind() == io::ErrorKind::NotFound { missing } else { error })
    })?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned())))
}
