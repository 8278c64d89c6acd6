//! What workers speak of, in the words of the configuration.

use std::net::Ipv4Addr;

use crate::base::{EntryId, InterfaceIndex, PortIndex, VpcIndex};
use crate::config::Directory;
use crate::control::address::{Endpoint, Protocol};
use crate::control::manager::View;
use crate::control::protocol::{Fault, FaultCode};
use crate::nat::SessionState;
use crate::nat::session::SessionKind;
use crate::nat::tcp::TcpState;
use crate::policy::Realm;
use crate::wire::Datagram;
use crate::wire::datagram::{DONT_FRAGMENT, tcp_flags};

/// Names shown in an error, at most.
const SHOWN: usize = 10;

impl View {
    /// The VPC of a name.
    pub(super) fn vpc_named(&self, name: &str) -> Result<VpcIndex, Fault> {
        let known = self.model.vpcs().iter().map(|vpc| vpc.name.as_str());
        self.directory.vpc_named(name).ok_or_else(|| unknown("VPC", name, known))
    }

    /// A fault about a gateway that is not there.
    pub(super) fn unknown_gateway(&self, name: &str) -> Fault {
        unknown("gateway", name, self.model.gateways().iter().map(|gateway| gateway.name.as_str()))
    }

    /// The port of a name.
    pub(super) fn port_named(&self, name: &str) -> Result<PortIndex, Fault> {
        let ports = self.model.ports();
        let position = ports.iter().position(|port| port.name.as_str() == name);
        let known = ports.iter().map(|port| port.name.as_str());
        position.map(|index| PortIndex(index as u16)).ok_or_else(|| unknown("port", name, known))
    }

    /// All entries of a name. Names of entries need not be unique.
    pub(super) fn entries_named(&self, name: &str) -> Result<Vec<EntryId>, Fault> {
        let of_name = self.directory.entries().filter(|(_, info)| *info.name == *name).map(|(id, _)| id);
        let found: Vec<_> = of_name.collect();
        if found.is_empty() {
            let known = self.directory.entries().map(|(_, info)| &*info.name);
            return Err(unknown("entry", name, known));
        }
        Ok(found)
    }
}

fn unknown<'a>(kind: &str, name: &str, known: impl Iterator<Item = &'a str>) -> Fault {
    let mut known: Vec<_> = known.collect();
    known.sort_unstable();
    known.dedup();
    let more = if known.len() > SHOWN { ", ..." } else { "" };
    known.truncate(SHOWN);
    let hint = match known.len() {
        0 => "none is configured".to_owned(),
        _ => format!("configured: {}{more}", known.join(", ")),
    };
    Fault::new(FaultCode::BadRequest, format!("{kind} \"{name}\" is not configured")).hint(hint)
}

/// The name of an entry with its kind and what it does.
pub(super) fn entry(directory: &Directory, id: EntryId) -> String {
    match directory.entry(id) {
        Some(info) => format!("{} {} ({})", info.kind().name(), info.name, info.effect),
        None => format!("an entry that is gone ({id})"),
    }
}

pub(super) fn interface(directory: &Directory, index: InterfaceIndex) -> String {
    directory.interface(index).map_or_else(|| format!("interface {index}"), str::to_owned)
}

pub(super) fn port(directory: &Directory, index: PortIndex) -> String {
    directory.port(index).map_or_else(|| format!("port {index}"), str::to_owned)
}

pub(super) fn realm(directory: &Directory, realm: Realm) -> String {
    match realm {
        Realm::Outside => "outside".to_owned(),
        Realm::Vpc(vpc) => {
            directory.vpc(vpc).map_or_else(|| format!("vpc {vpc}"), |name| format!("vpc {name}"))
        }
    }
}

pub(super) fn mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

pub(in crate::control) const fn kind(kind: SessionKind) -> &'static str {
    match kind {
        SessionKind::Snat => "snat",
        SessionKind::SnatDependent => "snat-dependent",
        SessionKind::DnatPort => "dnat-port",
        SessionKind::DnatAny => "dnat-any",
    }
}

pub(in crate::control) const fn state(state: SessionState) -> &'static str {
    match state {
        SessionState::Active => "active",
        SessionState::Tcp(TcpState::Opening) => "opening",
        SessionState::Tcp(TcpState::Established) => "established",
        SessionState::Tcp(TcpState::HalfClosed) => "half-closed",
        SessionState::Tcp(TcpState::Closed) => "closed",
        SessionState::Tcp(TcpState::Reset) => "reset",
    }
}

/// An address with its port, or identifier, where the protocol has one.
pub(in crate::control) fn endpoint(protocol: u8, (address, port): (u32, u16)) -> String {
    let has_port = Protocol(protocol).has_ports() || Protocol(protocol) == Protocol::ICMP && port != 0;
    Endpoint { address: Ipv4Addr::from(address), port: has_port.then_some(port) }.to_string()
}

/// A packet on one line.
pub(super) fn packet(datagram: &Datagram) -> String {
    let Datagram { protocol, source, destination, source_port, destination_port, total_len, ttl, .. } =
        *datagram;
    let ends =
        (endpoint(protocol, (source, source_port)), endpoint(protocol, (destination, destination_port)));
    let mut text = format!("{} {} > {}", Protocol(protocol), ends.0, ends.1);
    if Protocol(protocol) == Protocol::TCP {
        let all = [
            (tcp_flags::SYN, "syn"),
            (tcp_flags::ACK, "ack"),
            (tcp_flags::FIN, "fin"),
            (tcp_flags::RST, "rst"),
        ];
        let set = all.iter().filter(|(bit, _)| datagram.tcp_flags & bit != 0).map(|(_, name)| *name);
        let names: Vec<_> = set.collect();
        let names = if names.is_empty() { "none".to_owned() } else { names.join(",") };
        text = format!("{text} flags {names}");
    }
    let df = if datagram.fragment & DONT_FRAGMENT != 0 { " df" } else { "" };
    let fragment = if datagram.is_fragment() { " fragment" } else { "" };
    format!("{text} length {total_len} ttl {ttl}{df}{fragment}")
}
