//! What becomes of the sessions of entries that a reload changes or takes away.

use hashbrown::HashMap;

use crate::base::{EipIndex, EntryId, VpcIndex};
use crate::config::{Code, Model};
use crate::control::departures::{Departures, Left, Said};
use crate::control::inventory::Refusal;
use crate::control::manager::Manager;
use crate::control::protocol::{Fault, LiveSessions, SessionPolicy};
use crate::control::writer::{Outlet, refused};
use crate::policy::{Allocation, PoolAddress, PortRange, Prefix, Snapshot};

/// What a session needs of its entry, so that it is what the entry would make.
#[derive(PartialEq, Eq)]
enum Stand<'s> {
    /// A DNAT entry; without ports it maps the whole EIP.
    Dnat { eip: EipIndex, ports: Option<(u8, PortRange)>, host: (VpcIndex, u32, u16) },
    /// An SNAT entry.
    Snat { source: (VpcIndex, Prefix), pool: &'s [PoolAddress], ports: PortRange, allocation: Allocation },
}

impl Stand<'_> {
    fn eips(&self) -> Vec<EipIndex> {
        match self {
            Self::Dnat { eip, .. } => vec![*eip],
            Self::Snat { pool, .. } => pool.iter().map(|member| member.index).collect(),
        }
    }

    /// Whether all sessions of an entry fit it still when it has become another one.
    fn goes_on_as(&self, next: &Self) -> bool {
        match (self, next) {
            (
                Self::Snat { source, pool, ports, allocation },
                Self::Snat {
                    source: next_source,
                    pool: next_pool,
                    ports: next_ports,
                    allocation: next_allocation,
                },
            ) => {
                (source, ports, allocation) == (next_source, next_ports, next_allocation)
                    && pool.iter().all(|member| next_pool.contains(member))
            }
            _ => self == next,
        }
    }

    fn is_in_blocks(&self) -> bool {
        matches!(self, Self::Snat { allocation, .. } if *allocation != Allocation::Ports)
    }
}

/// All entries of a snapshot.
fn stands(snapshot: &Snapshot) -> HashMap<EntryId, Stand<'_>> {
    let mut all = HashMap::new();
    for eip in snapshot.eips() {
        if let Some(entry) = &eip.any_port {
            let host = (entry.vpc, entry.host, 0);
            all.insert(entry.id, Stand::Dnat { eip: eip.index, ports: None, host });
        }
        for entry in eip.forwards() {
            let range = PortRange { first: entry.first, last: entry.last };
            let (ports, host) = (Some((entry.protocol, range)), (entry.vpc, entry.host, entry.host_first));
            all.insert(entry.id, Stand::Dnat { eip: eip.index, ports, host });
        }
    }
    for vpc in (0..snapshot.topology().vpcs.len()).map(|vpc| VpcIndex(vpc as u16)) {
        for (prefix, entry) in snapshot.snat_table(vpc).iter().flat_map(|table| table.iter()) {
            let (source, pool) = ((vpc, prefix), &*entry.pool);
            all.insert(
                entry.id,
                Stand::Snat { source, pool, ports: entry.ports, allocation: entry.allocation },
            );
        }
    }
    all
}

/// Notes what becomes of the sessions of all entries that are others in the next snapshot, or none.
///
/// # Errors
/// That may not be said of these entries.
pub(super) fn note(
    departures: &Departures,
    sessions: Option<LiveSessions>,
    (previous, next): (&Snapshot, &Snapshot),
) -> Result<Option<(std::sync::Arc<Snapshot>, Said)>, Fault> {
    if sessions.is_none() && departures.is_empty() {
        return Ok(None);
    }
    let (before, after) = (stands(previous), stands(next));
    let others = before.iter().filter(|(entry, stand)| after.get(*entry) != Some(*stand));
    let mut others: Vec<_> = others.collect();
    others.sort_unstable_by_key(|(entry, _)| **entry);
    if let Some(sessions) = sessions {
        departures.judge_policy(sessions, others.len())?;
        if sessions.policy != SessionPolicy::Kill && others.iter().any(|(_, stand)| stand.is_in_blocks()) {
            let refusal = Refusal::new(Code::BlockSessions, "live_sessions").value(sessions.policy.name());
            return Err(refused(refusal.hint("leave it out, or kill them")));
        }
    }
    let (now, mut said) = (departures.now(), Said::new());
    let mut edit = next.edit();
    for (entry, stand) in others {
        let takes_sessions = after.get(entry).is_none_or(|next| !stand.goes_on_as(next));
        let left = Left { entry: *entry, eips: stand.eips(), takes_sessions };
        departures.note(&left, sessions.map(|sessions| (sessions, now)), &mut said, &mut edit);
    }
    Ok(Some((edit.finish(), said)))
}

impl Manager {
    /// Ends sessions that were drained when a reload took their entry away, where their time is up. To be called often.
    pub fn look_at_departures(&self) {
        // A reload that is under way looks for itself.
        let Ok(mut file) = self.file.try_lock() else { return };
        let next = file.departures.expire(|| self.current(), || self.entries_with_sessions());
        let Some(next) = next else { return };
        let directory = (*self.view().directory).clone();
        if let Err(fault) = self.publish(next, None::<Model>, directory) {
            log::error!("ending drained sessions: {fault}");
        }
    }
}
