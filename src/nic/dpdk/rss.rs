//! How a port distributes what it receives over its queues: set, read back from it, and looked after.

use std::io;
use std::sync::Arc;

use super::sys::{self, Facts};
use crate::base::Rng;
use crate::base::rss::{IndirectionTable, OwnedBy, Program, Rss};

/// Bytes of a key where the driver does not say.
const USUAL_KEY: usize = 40;

/// What a port with several queues is asked for.
#[derive(Debug)]
pub(super) struct Wish {
    by: Option<OwnedBy>,
    program: Option<Program>,
    workers: u16,
    /// The key of its hash, as long as the port has it.
    pub(super) key: Arc<[u8]>,
}

impl Wish {
    /// That packets come to their owners, if that is said and the port's table is large enough; else by flow, under a key that
    /// nobody knows.
    pub(super) fn new(by: Option<OwnedBy>, workers: u16, facts: &Facts) -> io::Result<Self> {
        if workers < 2 || !facts.hashes {
            return Ok(Self { by: None, program: None, workers, key: Arc::default() });
        }
        let length = if facts.key_length == 0 { USUAL_KEY } else { facts.key_length.into() };
        let program = by.and_then(|by| Program::new(by, workers, facts.table_length.into()));
        let mut key = match &program {
            Some(program) => program.key.to_vec(),
            None => {
                let mut rng = Rng::from_system()?;
                (0..length).map(|_| rng.next_u64() as u8).collect()
            }
        };
        key.resize(length, 0);
        Ok(Self { by, program, workers, key: key.into() })
    }

    /// What the started port makes of it.
    pub(super) fn settle(self, port: u16) -> Distribution {
        if self.key.is_empty() {
            return Distribution::Unknown("it has no RSS");
        }
        if !sys::key(port).is_ok_and(|key| *key == *self.key) {
            // What it has then is read back below.
            let _ = sys::set_key(port, &self.key);
        }
        if let Some(program) = &self.program {
            let _ = sys::set_table(port, &program.table);
        }
        // Some drivers (mlx5) have a table of another length once the port has its queues, or once one was set.
        let table = sys::facts(port).and_then(|facts| sys::table(port, facts.table_length));
        let (Ok(key), Ok(table)) = (sys::key(port), table) else {
            return Distribution::Unknown("it distributes by an RSS of which it says nothing");
        };
        let rss = Rss::new(&key, IndirectionTable::new(&table));
        match (self.by, self.program) {
            (Some(by), Some(program)) if rss.brings_home(by, self.workers) => {
                Distribution::Owners { key: self.key, table: program.table }
            }
            _ => Distribution::Flows { key: key.into(), rss: Arc::new(rss) },
        }
    }
}

/// How a port with several queues distributes what it receives.
#[derive(Debug)]
pub(super) enum Distribution {
    /// Nobody knows; why, if there is more than one queue.
    Unknown(&'static str),
    /// Every packet of a TCP or UDP flow to the worker that owns it.
    Owners { key: Arc<[u8]>, table: Vec<u16> },
    /// By the hash of a flow.
    Flows { key: Arc<[u8]>, rss: Arc<Rss> },
}

impl Distribution {
    /// In words, for people; empty if there is nothing to distribute.
    pub(super) fn describe(&self) -> &'static str {
        match self {
            Self::Unknown(reason) => reason,
            Self::Owners { .. } => "it distributes by RSS to the owners",
            Self::Flows { .. } => "it distributes flows by RSS",
        }
    }

    /// What is known of it that the choice of an external port may follow.
    pub(super) fn rss(&self) -> Option<Arc<Rss>> {
        match self {
            Self::Flows { rss, .. } => Some(Arc::clone(rss)),
            Self::Owners { .. } | Self::Unknown(_) => None,
        }
    }

    /// Makes a port do so still, or follows what it does. Says what was found if that is something else.
    pub(super) fn restore(&self, port: u16) -> Option<String> {
        let (key, wanted) = match self {
            Self::Unknown(_) => return None,
            Self::Owners { key, table } => (key, table.clone()),
            Self::Flows { key, rss } => (key, rss.table.queues()),
        };
        let mut found = Vec::new();
        if sys::key(port).is_ok_and(|present| *present != **key) {
            let outcome = sys::set_key(port, key);
            found.push(describe("its RSS key had changed", "set again", outcome));
        }
        let table = sys::table(port, wanted.len() as u16).ok().filter(|present| *present != wanted);
        match (self, table) {
            (Self::Owners { table, .. }, Some(_)) => {
                let outcome = sys::set_table(port, table);
                found.push(describe("its RSS indirection table had changed", "set again", outcome));
            }
            (Self::Flows { rss, .. }, Some(present)) => {
                rss.table.set(&present);
                found.push("its RSS indirection table has changed: new sessions follow it".to_owned());
            }
            (_, None) | (Self::Unknown(_), _) => {}
        }
        (!found.is_empty()).then(|| found.join("; "))
    }
}

fn describe(what: &str, done: &str, outcome: io::Result<()>) -> String {
    match outcome {
        Ok(()) => format!("{what}: {done}"),
        Err(error) => format!("{what} and cannot be {done}: {error}; packets are handed over"),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;

    use super::*;
    use crate::base::PortIndex;
    use crate::base::toeplitz::MICROSOFT_KEY;
    use crate::nic::Port;
    use crate::nic::af_packet::Steering;
    use crate::nic::dpdk::pools::shares;
    use crate::nic::dpdk::tests::started;
    use crate::nic::dpdk::{Dpdk, PortOptions};

    fn open_on(dpdk: &Dpdk, device: &str, queues: usize, steering: Steering) -> io::Result<Port> {
        let options = PortOptions { steering, ..PortOptions::default() };
        dpdk.open(device, PortIndex(0), queues, options)
    }

    /// The null device has a key and an indirection table like a NIC, though no packets: what is set is read back from it.
    #[test]
    fn what_a_device_was_told_is_read_back_and_restored() {
        let eal = started();
        let devices = ["net_null10,size=64", "net_null11,size=64", "net_null12,size=64", "net_ring13"];
        let dpdk = Dpdk::on(&eal, &shares(&[], 2048), 16, 2048).unwrap();
        let open = |device, queues, steering| open_on(&dpdk, device, queues, steering).unwrap();
        for (device, steering) in [(devices[0], Steering::InsideSource), (devices[1], Steering::OutsidePort)]
        {
            let port = open(device, 4, steering);
            assert!(port.info.mode.ends_with("it distributes by RSS to the owners"), "{}", port.info.mode);
            assert!(port.rss.is_none());
            let monitor = port.monitor.unwrap();
            assert_eq!(monitor.restore(), None);
            // Somebody changes both.
            let number = sys::port_of(&CString::new(device.split(',').next().unwrap()).unwrap()).unwrap();
            sys::set_table(number, &[3; 128]).unwrap();
            sys::set_key(number, &MICROSOFT_KEY).unwrap();
            let found = monitor.restore().unwrap();
            assert!(
                found.contains("key had changed: set again")
                    && found.contains("table had changed: set again")
            );
            assert_eq!(monitor.restore(), None);
            assert!(monitor.link().is_some());
        }
        // Distributed by flow, the table is followed.
        let port = open(devices[2], 4, Steering::FlowHash);
        assert!(port.info.mode.ends_with("it distributes flows by RSS"), "{}", port.info.mode);
        let (rss, monitor) = (port.rss.unwrap(), port.monitor.unwrap());
        let number = sys::port_of(c"net_null12").unwrap();
        sys::set_table(number, &[2; 128]).unwrap();
        assert!(monitor.restore().unwrap().contains("new sessions follow it"));
        assert_eq!(rss.table.queues(), [2; 128]);
        // One that does not start, as nobody serves its socket, is closed.
        let device = "net_memif14,role=client,socket=/tmp/natgate-nobody.sock,socket-abstract=no";
        let error = open_on(&dpdk, device, 1, Steering::FlowHash).unwrap_err();
        assert!(error.to_string().starts_with("starting it fails"), "{error}");
        assert!(sys::port_of(c"net_memif14").is_err(), "it is still there");
        // Rings have no hash.
        let port = open(devices[3], 2, Steering::OutsidePort);
        assert!(port.info.mode.ends_with("it has no RSS") && port.rss.is_none(), "{}", port.info.mode);
    }
}
