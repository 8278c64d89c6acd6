//! Rules of `[dpdk]` and of the ports that need it.

use super::{Check, value_of};
use crate::config::error::Code;
use crate::config::file::{BackendWord, PortTable};
use crate::config::settings::Dpdk;

impl Check<'_, '_> {
    /// Whether a port names this back end.
    pub(super) fn has_port_of(&self, word: BackendWord) -> bool {
        let is_of = |port: &PortTable| port.backend.as_ref().is_some_and(|backend| backend.value == word);
        self.file.ports.iter().any(is_of)
    }

    pub(super) fn dpdk(&self) -> Dpdk {
        let has_port = self.has_port_of(BackendWord::Dpdk) || self.has_port_of(BackendWord::Capsule);
        if has_port {
            self.dpdk_ports();
        }
        let Some(table) = &self.file.dpdk else { return Dpdk::default() };
        if !has_port {
            self.document
                .error(table.here, Code::DpdkUnused)
                .hint("remove the table, or give a port backend = \"dpdk\"")
                .emit();
        }
        if let Some(rss) = table.rss.as_ref().filter(|_| self.has_port_of(BackendWord::Capsule)) {
            self.at(table.here, rss, Code::CapsuleRss)
                .hint("remove the key, or use the back end dpdk")
                .emit();
        }
        Dpdk {
            hugepages: value_of(table.hugepages.as_ref()).unwrap_or_default(),
            memory: table.memory.as_ref().map(|memory| memory.value as u32),
            telemetry: value_of(table.telemetry.as_ref()).unwrap_or_default(),
            rss: value_of(table.rss.as_ref()).unwrap_or_default(),
            arguments: table.arguments.iter().map(|argument| argument.value.clone()).collect(),
        }
    }

    /// What the back end asks of the ports, each of which is named.
    fn dpdk_ports(&self) {
        for table in &self.file.ports {
            match &table.backend {
                Some(backend) if backend.value == BackendWord::Dpdk && !cfg!(feature = "dpdk") => {
                    self.at(table.here, backend, Code::DpdkNotBuilt)
                        .hint("install DPDK and build with `cargo build --release --features dpdk`")
                        .emit();
                }
                Some(backend) if backend.value == BackendWord::Capsule && !cfg!(feature = "capsule") => {
                    self.at(table.here, backend, Code::CapsuleNotBuilt)
                        .hint("install DPDK and build with `cargo build --release --features capsule`")
                        .emit();
                }
                Some(backend) if matches!(backend.value, BackendWord::AfXdp | BackendWord::Auto) => {
                    self.at(table.here, backend, Code::DpdkMixed).hint(MIXED).emit();
                }
                None if table.device.is_some() => {
                    self.document.error(table.here.missing("backend"), Code::DpdkMixed).hint(MIXED).emit();
                }
                _ => {}
            }
            if let Some(backend) = &table.backend
                && backend.value == BackendWord::Capsule
                && self.has_port_of(BackendWord::Dpdk)
            {
                self.at(table.here, backend, Code::CapsuleMixed)
                    .hint("give all ports of DPDK's the same back end")
                    .emit();
            }
        }
    }
}

const MIXED: &str =
    "give the port backend = \"af_packet\"; or \"dpdk\" with a device such as net_af_xdp0,iface=eth0";
