//! How many sessions there may be, and what gives way to a new one.

use std::net::Ipv4Addr;

use natgate::base::DropReason as R;
use natgate::base::owner::owner_of_host;

use super::Reference;
use super::session::{Endpoint, Flow, Kind, Session};
use crate::support::Snat;
use crate::support::packet::TCP;

impl Reference {
    /// Why a session more is too many, if it is.
    pub(super) fn limit(&self, flow: &Flow, entry: &Snat) -> Option<Vec<R>> {
        let dynamic = || self.sessions.iter().filter(|s| s.kind != Kind::Static && s.flow.vpc == flow.vpc);
        let mut reasons = vec![];
        if dynamic().count() as u64 >= self.config.vpcs[flow.vpc].limits.sessions {
            reasons.push(R::SessionLimit);
        }
        // RFC 6888 REQ-4.
        if dynamic().filter(|s| s.flow.inside.0 == flow.inside.0).count() as u64
            >= u64::from(entry.host_quota)
        {
            reasons.push(R::HostQuota);
        }
        (!reasons.is_empty()).then_some(reasons)
    }

    /// For a new connection one gives way of which only one side's SYN was seen: the oldest of the same host, or of the gateway, at the
    /// same worker, and none of the mapping that is to be used. Says why it is still too many, if it is.
    pub(super) fn make_room(
        &mut self,
        flow: &Flow,
        entry: &Snat,
        limit: &[R],
        mapping: Option<Endpoint>,
    ) -> Option<Vec<R>> {
        let worker = |host: Ipv4Addr| owner_of_host(host.into(), self.workers);
        let may_go = |s: &&Session| {
            flow.protocol == TCP
                && s.kind != Kind::Static
                && !(s.kind == Kind::Independent && Some(s.external) == mapping)
                && s.flow.vpc == flow.vpc
                && worker(s.flow.inside.0) == worker(flow.inside.0)
                && (!limit.contains(&R::HostQuota) || s.flow.inside.0 == flow.inside.0)
        };
        let oldest = self.sessions.iter().filter(may_go).filter_map(|s| Some((s.half_open?, s.flow))).min();
        let Some((_, gone)) = oldest else { return Some(limit.to_vec()) };
        let before = self.sessions.clone();
        self.sessions.retain(|s| s.flow != gone);
        let still = self.limit(flow, entry);
        if still.is_some() {
            // Nothing gives way in vain.
            self.sessions = before;
        }
        still
    }
}
