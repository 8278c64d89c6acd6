//! Rules of `[system]`, `[quotas]`, `[store]`, `[api]`, `[session_log]`, `[metering]` and `[[port]]`.

use std::path::PathBuf;
use std::time::Duration;

use hashbrown::HashMap;

use super::{Check, name_of, value_of};
use crate::config::document::{Field, Spot};
use crate::config::error::Code;
use crate::config::file::{BackendWord, PortTable};
use crate::config::model::{Backend, Port};
use crate::config::settings::{Api, Metering, Quotas, SessionLog, System, Workers};

impl Check<'_, '_> {
    pub(super) fn system(&self) -> System {
        let default = System::default();
        let Some(table) = &self.file.system else { return default };
        let mut workers = Workers::PerCore;
        if let Some(count) = &table.workers {
            workers = Workers::Count(count.value as u16);
        }
        if let Some(cores) = &table.cores {
            if let Some(count) = &table.workers {
                self.at(table.here, count, Code::WorkersOrCores)
                    .conflicts(table.here.missing("cores"), None)
                    .hint("remove one of the two")
                    .emit();
            }
            if cores.is_empty() || cores.len() > 256 {
                self.document
                    .error(table.here.missing("cores"), Code::OutOfRange)
                    .rule("there must be from 1 to 256 cores")
                    .emit();
            }
            let mut seen: HashMap<u64, Spot> = HashMap::new();
            for core in cores {
                let spot = table.here.of(core);
                if let Some(first) = seen.insert(core.value, spot) {
                    self.document.error(spot, Code::DuplicateCore).conflicts(first, None).emit();
                }
            }
            workers = Workers::Cores(cores.iter().map(|core| core.value as usize).collect());
        }
        if let Some(size) = &table.buffer_size
            && (!size.value.is_power_of_two()
                || size.value > 4096 && self.has_port_of(BackendWord::AfXdp)
                || size.value > 32768 && self.has_port_of(BackendWord::Dpdk)
                || size.value > 2048 && self.has_port_of(BackendWord::Capsule))
        {
            self.at(table.here, size, Code::BufferSize).emit();
        }
        let size = |field: &Option<Field<u64>>| field.as_ref().map(|field| field.value as usize);
        System {
            workers,
            sessions: size(&table.sessions).unwrap_or(default.sessions),
            neighbours: size(&table.neighbours).unwrap_or(default.neighbours),
            snat_eips: size(&table.snat_eips).unwrap_or(default.snat_eips),
            buffers: size(&table.buffers),
            buffer_size: size(&table.buffer_size).unwrap_or(default.buffer_size),
            idle: value_of(table.idle.as_ref()),
            worker_failure: value_of(table.worker_failure.as_ref()).unwrap_or_default(),
            control: table.control.as_ref().map_or(default.control, |path| PathBuf::from(&path.value)),
            log: value_of(table.log.as_ref()).unwrap_or(default.log),
        }
    }

    /// The places of the keys of `[system]` that are there.
    pub(super) fn system_spots(&self) -> impl Iterator<Item = Spot> {
        self.file.system.iter().flat_map(|t| {
            [
                t.workers.as_ref().map(|f| t.here.of(f)),
                t.cores.as_ref().map(|_| t.here.missing("cores")),
                t.sessions.as_ref().map(|f| t.here.of(f)),
                t.neighbours.as_ref().map(|f| t.here.of(f)),
                t.snat_eips.as_ref().map(|f| t.here.of(f)),
                t.buffers.as_ref().map(|f| t.here.of(f)),
                t.buffer_size.as_ref().map(|f| t.here.of(f)),
                t.idle.as_ref().map(|f| t.here.of(f)),
                t.worker_failure.as_ref().map(|f| t.here.of(f)),
                t.control.as_ref().map(|f| t.here.of(f)),
            ]
            .into_iter()
            .flatten()
        })
    }

    /// Where resources are kept; the file has none then.
    pub(super) fn store(&self) -> Option<PathBuf> {
        let table = self.file.store.as_ref()?;
        let file = self.file;
        let declared = [
            file.vpcs.first().map(|t| t.here),
            file.gateways.first().map(|t| t.here),
            file.plans.first().map(|t| t.here),
            file.eips.first().map(|t| t.here),
            file.dnat.first().map(|t| t.here),
            file.snat.first().map(|t| t.here),
        ];
        for here in declared.into_iter().flatten() {
            self.document
                .error(here, Code::StoreHasResources)
                .hint("take it out of the file and create it with natgate vpc, vswitch, gateway, plan, eip, dnat or snat create")
                .emit();
        }
        let path = table.path.as_ref().map(|path| PathBuf::from(&path.value));
        Some(path.unwrap_or_else(|| PathBuf::from("/var/lib/natgate/natgate.redb")))
    }

    /// Where the HTTP API is served.
    pub(super) fn api(&self, system: &System) -> Api {
        let mut api = Api { socket: system.control.with_file_name("api.sock"), listen: None, tls: None };
        let Some(table) = &self.file.api else { return api };
        if let Some(socket) = &table.socket {
            api.socket = PathBuf::from(&socket.value);
        }
        if api.socket == system.control {
            self.document
                .error(table.here.missing("socket"), Code::InvalidPath)
                .rule("the API and the management protocol need a socket each")
                .emit();
        }
        match (&table.tls_certificate, &table.tls_key) {
            (Some(certificate), Some(key)) => {
                api.tls = Some((PathBuf::from(&certificate.value), PathBuf::from(&key.value)));
            }
            (None, None) => {}
            (Some(one), None) | (None, Some(one)) => {
                self.document
                    .error(table.here.of(one), Code::ApiTlsPair)
                    .hint("give both tls_certificate and tls_key")
                    .emit();
            }
        }
        if let Some(listen) = &table.listen {
            api.listen = Some(listen.value);
            if !listen.value.ip().is_loopback() && table.tls_certificate.is_none() && table.tls_key.is_none()
            {
                self.document
                    .error(table.here.of(listen), Code::ApiNeedsTls)
                    .hint("give tls_certificate and tls_key, or listen on 127.0.0.1")
                    .emit();
            }
            if self.file.store.is_none() {
                self.document
                    .error(table.here.of(listen), Code::ApiNeedsKeys)
                    .hint("add [store]; or use the Unix socket, which needs no keys")
                    .emit();
            }
        }
        api
    }

    /// Where sessions are logged.
    pub(super) fn session_log(&self) -> Option<SessionLog> {
        let table = self.file.session_log.as_ref()?;
        let path = |field: &Option<Field<String>>| field.as_ref().map(|field| PathBuf::from(&field.value));
        let log = SessionLog {
            file: path(&table.file),
            syslog: value_of(table.syslog.as_ref()),
            ipfix: value_of(table.ipfix.as_ref()),
            index: path(&table.index),
            keep: table.keep.as_ref().map_or(Duration::from_hours(30 * 24), |keep| keep.value),
            events: table.events.as_ref().map_or(1 << 16, |events| events.value as usize),
        };
        if log.file.is_none() && log.syslog.is_none() && log.ipfix.is_none() && log.index.is_none() {
            self.document
                .error(table.here, Code::SessionLogNowhere)
                .hint("give file, syslog, ipfix or index; or take the table out")
                .emit();
        }
        if let Some(keep) = table.keep.as_ref().filter(|_| log.index.is_none()) {
            self.document
                .error(table.here.of(keep), Code::SessionLogKeep)
                .hint("give index too; or take keep out")
                .emit();
        }
        Some(log)
    }

    /// Where it is kept what gateways and EIPs used.
    pub(super) fn metering(&self) -> Option<Metering> {
        let table = self.file.metering.as_ref()?;
        let path = table.path.as_ref().map_or("/var/lib/natgate/metering", |path| path.value.as_str());
        let keep = table.keep.as_ref().map_or(Duration::from_hours(400 * 24), |keep| keep.value);
        Some(Metering { path: path.into(), keep })
    }

    pub(super) fn quotas(&self) -> Quotas {
        let default = Quotas::default();
        let Some(table) = &self.file.quotas else { return default };
        let quota = |field: &Option<Field<u64>>, default| field.as_ref().map_or(default, |f| f.value as u32);
        Quotas {
            dnat_entries_per_gateway: quota(
                &table.dnat_entries_per_gateway,
                default.dnat_entries_per_gateway,
            ),
            snat_entries_per_gateway: quota(
                &table.snat_entries_per_gateway,
                default.snat_entries_per_gateway,
            ),
            eips_per_gateway: quota(&table.eips_per_gateway, default.eips_per_gateway),
            gateways_per_vpc: quota(&table.gateways_per_vpc, default.gateways_per_vpc),
        }
    }

    pub(super) fn ports(&self) -> Vec<Port> {
        const MOST: usize = 1024;
        let tables = &self.file.ports;
        if tables.is_empty() {
            self.document
                .error(self.file.here.missing("port"), Code::NoPort)
                .hint("add [[port]] with name and device")
                .emit();
        }
        if let Some(extra) = tables.get(MOST) {
            self.document.error(extra.here, Code::TooMany).hint(format!("at most {MOST} ports")).emit();
        }
        self.devices();
        tables.iter().enumerate().filter_map(|(i, table)| self.port(i, table)).collect()
    }

    fn port(&self, index: usize, table: &PortTable) -> Option<Port> {
        let here = table.here;
        let captures = table.replay.is_some() || table.capture.is_some();
        let word = match &table.backend {
            Some(backend) => backend.value,
            None if captures && table.device.is_none() => BackendWord::Pcap,
            None => BackendWord::Auto,
        };
        let share = table.share.as_ref().is_some_and(|share| share.value);
        if let Some(field) = &table.share
            && share
            && !matches!(word, BackendWord::Auto | BackendWord::AfXdp)
        {
            self.at(here, field, Code::PortShare).emit();
        }
        if let Some(field) = table.promiscuous.as_ref().filter(|_| word != BackendWord::Dpdk) {
            self.at(here, field, Code::PortPromiscuous)
                .hint("remove the key: a port of another back end takes frames to any address, or those that it replays")
                .emit();
        }
        let refuse = |spot: Spot, hint: &str| {
            self.document.error(spot, Code::PortKeys).hint(hint).emit();
        };
        let backend = if word == BackendWord::Pcap {
            if let Some(device) = &table.device {
                refuse(here.of(device), "remove the device, or the back end pcap");
            }
            if !captures {
                refuse(
                    here.missing("replay"),
                    "name a capture to read with replay, or one to write with capture",
                );
            }
            let path = |field: &Option<Field<String>>| field.as_ref().map(|f| PathBuf::from(&f.value));
            let number = (index as u16 + 1).to_be_bytes();
            let mac = [0x02, 0x6e, 0x67, 0x00, number[0], number[1]];
            Backend::Pcap {
                replay: path(&table.replay),
                capture: path(&table.capture),
                mac: value_of(table.mac.as_ref()).unwrap_or(mac),
            }
        } else {
            for capture in [&table.replay, &table.capture].into_iter().flatten() {
                refuse(here.of(capture), "captures go with backend = \"pcap\" and without a device");
            }
            if let Some(mac) = &table.mac {
                refuse(
                    here.of(mac),
                    "a device has an address of its own: only a port of back end pcap is given one",
                );
            }
            if table.device.is_none() && !captures {
                refuse(here.missing("device"), "name the network device");
            }
            let device = value_of(table.device.as_ref())?;
            match word {
                BackendWord::AfXdp => Backend::AfXdp { device, share },
                BackendWord::AfPacket => Backend::AfPacket { device },
                BackendWord::Dpdk => {
                    let promiscuous = value_of(table.promiscuous.as_ref()).unwrap_or_default();
                    Backend::Dpdk { device, promiscuous }
                }
                BackendWord::Capsule => Backend::Capsule { device },
                BackendWord::Auto | BackendWord::Pcap => Backend::Auto { device, share },
            }
        };
        Some(Port { name: value_of(table.name.as_ref())?, backend })
    }

    /// Devices and written captures belong to one port each.
    fn devices(&self) {
        let mut devices: HashMap<&str, &PortTable> = HashMap::new();
        let mut written: HashMap<&str, &PortTable> = HashMap::new();
        for table in &self.file.ports {
            for (field, seen, code) in [
                (&table.device, &mut devices, Code::DuplicateDevice),
                (&table.capture, &mut written, Code::DuplicateCapture),
            ] {
                let Some(field) = field else { continue };
                if let Some(first) = seen.get(field.value.as_str()) {
                    self.at(table.here, field, code)
                        .conflicts(first.here, name_of(first.name.as_ref()))
                        .emit();
                } else {
                    seen.insert(&field.value, table);
                }
            }
        }
        for table in &self.file.ports {
            if let Some(replay) = &table.replay
                && let Some(writer) = written.get(replay.value.as_str())
            {
                self.at(table.here, replay, Code::DuplicateCapture)
                    .conflicts(writer.here, name_of(writer.name.as_ref()))
                    .emit();
            }
        }
    }
}
