//! What always holds between what the workers list, count and own: asked after each step of a conversation.

use std::collections::{HashMap, HashSet};

use natgate::base::GatewayIndex;
use natgate::base::owner::{owner_of_host, owner_of_port};
use natgate::nat::query::SessionRow;
use natgate::nat::session::SessionKind;
use natgate::nat::{Engine, PortsCursor};

use super::net::TestNet;

impl TestNet {
    /// Asserts it. Not for configurations with port blocks or FTP, where ports are owned without a session.
    pub fn assert_consistent(&self) {
        let rows = self.sessions();
        let totals = self.totals();
        assert_eq!(totals.sessions_created - totals.sessions_removed, rows.len() as u64, "all are listed");
        assert_external_tuples_are_unique(&rows);
        for (worker, engine) in self.engines.iter().enumerate() {
            let mine: Vec<_> = rows.iter().filter(|row| row.worker.index() == worker).collect();
            self.assert_worker(engine, &mine);
        }
        for index in (0..).map(GatewayIndex) {
            let Some(gateway) = self.snapshot().gateway(index) else { break };
            let of_it = rows.iter().filter(|row| row.kind.is_snat() && row.gateway == index).count();
            assert_eq!(gateway.meter.sessions(), of_it as u64, "sessions of gateway {index:?}: {rows:?}");
        }
    }

    /// A worker has the sessions that it counts, and owns their ports once each.
    fn assert_worker(&self, engine: &Engine, rows: &[&SessionRow]) {
        let workers = self.engines.len() as u16;
        let occupancy = engine.occupancy();
        assert_eq!(occupancy.sessions, rows.len(), "{rows:?}");
        let snat: Vec<_> = rows.iter().filter(|row| row.kind.is_snat()).collect();
        for row in &snat {
            let owners = [owner_of_host(row.inside.0, workers), owner_of_port(row.external.1, workers)];
            assert!(
                owners.iter().all(|owner| usize::from(*owner) == row.worker.index()),
                "{owners:?}: {row:?}"
            );
        }
        let hosts: HashSet<_> = snat.iter().map(|row| (row.vpc, row.inside.0)).collect();
        assert_eq!(occupancy.hosts, hosts.len(), "{rows:?}");
        let of_all_peers: HashSet<_> = snat
            .iter()
            .filter(|row| row.kind == SessionKind::Snat)
            .map(|row| (row.protocol, row.external))
            .collect();
        assert_eq!(occupancy.mappings, of_all_peers.len(), "{rows:?}");

        let mut owned: HashMap<_, HashSet<_>> = HashMap::new();
        for row in &snat {
            let eip = self.snapshot().eip(row.external.0).expect("an EIP that is there").index;
            owned.entry((eip, row.protocol)).or_default().insert(row.external.1);
        }
        let mut taken = Vec::with_capacity(64);
        assert!(engine.list_ports(&mut PortsCursor::default(), &mut taken), "room for all");
        let taken: HashMap<_, _> =
            taken.iter().filter_map(|row| Some(((row.eip, row.protocol?), row.taken as usize))).collect();
        let owned: HashMap<_, _> = owned.into_iter().map(|(of, ports)| (of, ports.len())).collect();
        assert_eq!(taken, owned, "ports that are taken, and those of sessions: {rows:?}");
    }
}

/// An external endpoint leads to one private one; where mapping depends on the peer, the two together do.
fn assert_external_tuples_are_unique(rows: &[SessionRow]) {
    let mut of_all_peers = HashMap::new();
    let mut of_a_peer = HashMap::new();
    for row in rows.iter().filter(|row| row.kind.is_snat()) {
        let inside = (row.vpc, row.inside);
        let external = (row.protocol, row.external);
        let other = match row.kind {
            SessionKind::Snat => of_all_peers.insert(external, inside),
            _ => of_a_peer.insert((external, row.peer), inside),
        };
        assert!(other.is_none_or(|other| other == inside), "{other:?} and {row:?}");
    }
    for (external, peer) in of_a_peer.keys() {
        assert!(!of_all_peers.contains_key(external), "{external:?} is for all peers and for {peer:?}");
    }
}
