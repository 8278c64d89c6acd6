//! Huge pages and locked memory.

use std::collections::BTreeSet;

use super::Finding;
use super::facts::{Facts, PagePool};
use super::plan::Plan;
use crate::config::Backend;

/// Bytes of the huge pages that natgate's own tables lie on.
const PAGE: usize = 2 << 20;

pub(super) fn judge(facts: &Facts, plan: &Plan) -> Vec<Finding> {
    let mut findings = hugepages(facts, plan);
    if plan.ports.iter().any(|port| matches!(port.backend, Backend::AfXdp { .. } | Backend::Auto { .. })) {
        findings.push(locked(facts, plan));
    }
    findings
}

/// Huge pages against what is needed, in all and on the nodes of the workers.
fn hugepages(facts: &Facts, plan: &Plan) -> Vec<Finding> {
    let need = plan.buffers + plan.tables;
    let mib = |bytes: usize| bytes.div_ceil(1 << 20);
    if facts.pages.is_empty() {
        return vec![Finding::unknown("hugepages", "the kernel shows no huge pages").why(
            "without them a packet costs about twice the time in DPDK's buffers, and tables miss the TLB",
        )];
    }
    // A gateway at work has taken its share already.
    let have = |pool: &&PagePool| pool.size * if facts.is_running { pool.total } else { pool.free };
    // DPDK takes pages of any size, natgate's own memory those of 2 MiB.
    let is_dpdk = plan.ports.iter().any(|port| port.backend.dpdk_device().is_some());
    let usable = |pool: &&PagePool| is_dpdk || pool.size == PAGE;
    let word = if facts.is_running { "in all" } else { "free" };
    let nodes: BTreeSet<Option<usize>> = facts.pages.iter().map(|pool| pool.node).collect();
    let on = |node: Option<usize>| -> usize {
        facts.pages.iter().filter(|pool| pool.node == node).filter(usable).map(|pool| have(&pool)).sum()
    };
    let total: usize = nodes.iter().map(|node| on(*node)).sum();
    let mut findings = Vec::new();
    let fix = |mib: usize, node: Option<usize>| {
        let node = node.map_or_else(String::new, |node| format!(" --node {node}"));
        facts.setup(&format!("hugepages --mib {mib}{node}"))
    };
    let found = format!("{} MiB {word}, {} MiB needed", mib(total), mib(need));
    findings.push(if total >= need {
        Finding::ok("hugepages", found)
    } else if plan.needs_hugepages && total < plan.buffers {
        Finding::error("hugepages", found)
            .why("dpdk.hugepages is \"require\": natgate does not start without them")
            .fix(fix(mib(need), None))
    } else {
        let transparent = match facts.transparent.as_deref() {
            Some("never") => "; transparent huge pages, which would take their place in part, are off",
            _ => "; transparent huge pages take their place in part",
        };
        Finding::warning("hugepages", found)
            .why(format!(
                "on ordinary pages every look into a large table costs a TLB miss more{transparent}"
            ))
            .fix(fix(mib(need), None))
    });
    // Memory of another node is slower: each node with workers needs its workers' share.
    let nodes_of_workers: Vec<usize> =
        plan.cores.iter().flatten().filter_map(|core| facts.cores.get(core)?.node).collect();
    if nodes.len() > 1 && total >= need {
        for node in nodes_of_workers.iter().copied().collect::<BTreeSet<_>>() {
            let workers = nodes_of_workers.iter().filter(|of| **of == node).count();
            let share = need * workers / nodes_of_workers.len();
            let have = on(Some(node));
            let found = format!("{} MiB {word}, {} MiB needed by {workers} workers", mib(have), mib(share));
            let finding = if have >= share {
                Finding::ok("hugepages", found)
            } else {
                Finding::warning("hugepages", found)
                    .why("the memory of these workers would lie on another node, behind a slower way")
                    .fix(fix(mib(share), Some(node)))
            };
            findings.push(finding.of(format!("node {node}")));
        }
    }
    findings
}

fn locked(facts: &Facts, plan: &Plan) -> Finding {
    let need = plan.buffers as u64;
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    match (facts.locked, facts.may_lock) {
        (_, Some(true)) => Finding::ok("locked-memory", "no limit for this user (CAP_IPC_LOCK)"),
        (None, _) => Finding::unknown("locked-memory", "the limit on locked memory cannot be read"),
        (Some(u64::MAX), _) => Finding::ok("locked-memory", "no limit"),
        (Some(limit), _) if limit >= need => {
            Finding::ok("locked-memory", format!("up to {} MiB", mib(limit)))
        }
        (Some(limit), _) => {
            let found = format!("up to {} MiB, {} MiB needed", mib(limit), mib(need));
            Finding::warning("locked-memory", found)
                .why("packet buffers of XDP sockets are locked: without CAP_IPC_LOCK they do not open. The limit is this \
                      shell's, a service has its own")
                .fix("ulimit -l unlimited, or LimitMEMLOCK=infinity in the unit")
        }
    }
}
