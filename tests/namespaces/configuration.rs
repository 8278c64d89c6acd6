//! Configuration files for the gateway of a lab.

use std::path::Path;

/// The story of the demo: a host behind single ports, a range and UDP; a host with an EIP of its own; a pool for everyone.
/// Tests append what they need besides.
pub fn base(back_end: &str, socket: &Path) -> String {
    let mut text = system(socket);
    if matches!(back_end, "dpdk" | "capsule") {
        // Workers that never sleep would leave the clients no core.
        text += "idle = \"sleep\"\n";
    }
    text += &(port("wan", back_end) + &port("lan", back_end));
    text += r#"
[[outside]]
port = "wan"
address = "203.0.113.2/24"
gateway = "203.0.113.1"
public = ["203.0.113.16/28"]
"#;
    text += &vpc("prod", "lan", None);
    text += &gateway("gw1", "prod");
    for last in [16, 17, 18, 19] {
        text += &eip(last, "gw1");
    }
    text += &dnat("page", "gw1", 16, "80", "10.0.1.10", "8080", "TCP");
    text += &dnat("range", "gw1", 16, "\"8000/8002\"", "10.0.1.10", "\"9000/9002\"", "TCP");
    text += &dnat("iperf3-tcp", "gw1", 16, "5201", "10.0.1.10", "5201", "TCP");
    text += &dnat("iperf3-udp", "gw1", 16, "5201", "10.0.1.10", "5201", "UDP");
    text += &dnat("own-eip", "gw1", 17, "\"Any\"", "10.0.1.20", "\"Any\"", "Any");
    text += &snat("everyone", "gw1", &[18, 19]);
    text
}

/// Two workers, whatever the machine has.
pub fn system(socket: &Path) -> String {
    format!("[system]\nworkers = 2\nsessions = 65536\ncontrol = \"{}\"\n", socket.display())
}

/// A port on the device of the same name; of DPDK for two workers.
pub fn port(name: &str, back_end: &str) -> String {
    if matches!(back_end, "dpdk" | "capsule") {
        return format!(
            "\n[[port]]\nname = \"{name}\"\ndevice = \"net_af_packet_{name},iface={name},qpairs=2,framecnt=2048\"\nbackend = \"{back_end}\"\n"
        );
    }
    format!("\n[[port]]\nname = \"{name}\"\ndevice = \"{name}\"\nbackend = \"{back_end}\"\n")
}

/// A VPC 10.0.0.0/16 with one vSwitch 10.0.1.0/24 on a port.
pub fn vpc(name: &str, port: &str, vlan: Option<u16>) -> String {
    let vlan = vlan.map_or(String::new(), |vlan| format!("vlan = {vlan}\n"));
    format!(
        "\n[[vpc]]\nname = \"{name}\"\ncidr = \"10.0.0.0/16\"\n\n[[vpc.vswitch]]\nname = \"servers\"\n\
         cidr = \"10.0.1.0/24\"\nport = \"{port}\"\naddress = \"10.0.1.1\"\n{vlan}"
    )
}

/// A gateway in the vSwitch of [`vpc`].
pub fn gateway(name: &str, vpc: &str) -> String {
    format!("\n[[gateway]]\nname = \"{name}\"\nvpc = \"{vpc}\"\nvswitch = \"servers\"\n")
}

/// The EIP 203.0.113.`last`.
pub fn eip(last: u8, gateway: &str) -> String {
    format!("\n[[eip]]\naddress = \"203.0.113.{last}\"\ngateway = \"{gateway}\"\n")
}

/// A DNAT entry; ports as they stand in the file.
pub fn dnat(
    name: &str,
    gateway: &str,
    eip: u8,
    public_port: &str,
    private_ip: &str,
    private_port: &str,
    protocol: &str,
) -> String {
    format!(
        "\n[[dnat]]\nname = \"{name}\"\ngateway = \"{gateway}\"\neip = \"203.0.113.{eip}\"\npublic_port = {public_port}\n\
         private_ip = \"{private_ip}\"\nprivate_port = {private_port}\nprotocol = \"{protocol}\"\n"
    )
}

/// An SNAT entry for the whole VPC.
pub fn snat(name: &str, gateway: &str, eips: &[u8]) -> String {
    let eips: Vec<_> = eips.iter().map(|last| format!("\"203.0.113.{last}\"")).collect();
    format!(
        "\n[[snat]]\nname = \"{name}\"\ngateway = \"{gateway}\"\nsource = \"vpc\"\neips = [{}]\n",
        eips.join(", ")
    )
}
