//! Kernel, clock, cores and limits.

use std::collections::BTreeSet;

use super::facts::Facts;
use super::plan::Plan;
use super::{Finding, Severity};

/// The oldest kernel that the back ends work on.
const KERNEL: (u32, u32) = (5, 10);
/// Clock sources that are read without a system call.
const CLOCKS: [&str; 5] =
    ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter", "riscv_clocksource"];
/// Open files besides those of queues: connections of the API and of management, the store, logs.
const FILES: u64 = 512;

pub(super) fn judge(facts: &Facts, plan: &Plan) -> Vec<Finding> {
    let mut findings = vec![kernel(facts), clock(facts), workers(facts, plan)];
    if let Some(cores) = plan.cores.as_deref() {
        findings.push(isolation(facts, cores));
        findings.push(siblings(facts, cores));
    }
    findings.push(governor(facts, plan));
    findings.push(files(facts, plan));
    findings
}

fn kernel(facts: &Facts) -> Finding {
    let Some(release) = &facts.kernel else {
        return Finding::unknown("kernel", "the kernel's release cannot be read");
    };
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) < KERNEL => {
            Finding::error("kernel", format!("Linux {release}"))
                .why("packet and XDP sockets are used as Linux 5.10 has them")
                .fix("install a kernel of 5.10 or later")
        }
        (Some(_), Some(_)) => Finding::ok("kernel", format!("Linux {release}")),
        _ => Finding::unknown("kernel", format!("release {release}")),
    }
}

fn clock(facts: &Facts) -> Finding {
    let Some(clock) = &facts.clock else {
        return Finding::unknown("clock", "the clock source cannot be read");
    };
    if CLOCKS.contains(&clock.as_str()) {
        return Finding::ok("clock", format!("clock source {clock}"));
    }
    let finding = Finding::warning("clock", format!("clock source {clock}")).why(
        "a worker reads the time in every turn: with this source that is a system call, or a slow device",
    );
    match facts.clocks.iter().find(|other| CLOCKS.contains(&other.as_str())) {
        Some(better) => finding
            .fix(format!("echo {better} > /sys/devices/system/clocksource/clocksource0/current_clocksource")),
        None => finding.fix("dmesg | grep -i tsc    # why the kernel does not trust the processor's clock"),
    }
}

fn workers(facts: &Facts, plan: &Plan) -> Finding {
    let online = facts.cores.len();
    if online == 0 {
        return Finding::unknown("workers", "the cores of the machine cannot be read");
    }
    let Some(cores) = &plan.cores else {
        if plan.workers > online {
            return Finding::error("workers", format!("{} workers for {online} cores", plan.workers))
                .why("workers that share a core wait for each other, and packets are lost meanwhile")
                .fix(format!("system.workers = {}", online.saturating_sub(1).max(1)));
        }
        return Finding::warning("workers", format!("{} workers that are not pinned to cores", plan.workers))
            .why("a worker that is moved to another core finds its tables in no cache, and may have to share it")
            .fix(format!("system.cores = {:?}", suggestion(facts, plan.workers)));
    };
    let missing: Vec<_> = cores.iter().filter(|core| !facts.cores.contains_key(core)).collect();
    if !missing.is_empty() {
        return Finding::error("workers", format!("cores {missing:?} are not there"))
            .why("a worker that cannot be pinned to its core does not start")
            .fix(format!("system.cores = {:?}", suggestion(facts, plan.workers)));
    }
    if cores.len() == online {
        return Finding::warning("workers", format!("workers on all {online} cores"))
            .why("everything else that runs takes time from them, interrupts of the NICs too")
            .fix("leave a core to the system (system.cores)");
    }
    Finding::ok("workers", format!("{} workers on cores {cores:?}", cores.len()))
}

fn isolation(facts: &Facts, cores: &[usize]) -> Finding {
    let open: Vec<usize> = cores.iter().copied().filter(|core| !facts.isolated.contains(core)).collect();
    if open.is_empty() {
        return Finding::ok("isolation", "the scheduler leaves the workers' cores alone");
    }
    let list = open.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    Finding::warning("isolation", format!("cores {list} are not isolated"))
        .why("other processes, ticks and interrupts stop a worker for a while, and its queues may overflow")
        .fix(format!(
            "on the kernel's command line: isolcpus=managed_irq,domain,{list} nohz_full={list} rcu_nocbs={list}"
        ))
}

fn siblings(facts: &Facts, cores: &[usize]) -> Finding {
    let siblings = |core: &usize| facts.cores.get(core).map(|core| &core.siblings);
    if cores.iter().any(|core| siblings(core).is_none_or(BTreeSet::is_empty)) {
        return Finding::unknown("hyperthreads", "which cores share execution units cannot be read");
    }
    for (n, core) in cores.iter().enumerate() {
        if let Some(other) =
            cores[n + 1..].iter().find(|other| siblings(core).is_some_and(|all| all.contains(other)))
        {
            return Finding::warning(
                "hyperthreads",
                format!("cores {core} and {other} are one core's two threads"),
            )
            .why("two workers on them carry little more than one: they share execution units and caches")
            .fix(format!("system.cores = {:?}", suggestion(facts, cores.len())));
        }
    }
    let of_others: BTreeSet<usize> =
        cores.iter().flat_map(|core| siblings(core).into_iter().flatten()).copied().collect();
    let idle: Vec<usize> = of_others.into_iter().filter(|core| !cores.contains(core)).collect();
    if idle.is_empty() {
        return Finding::ok("hyperthreads", "no worker shares a core");
    }
    let open: Vec<usize> = idle.iter().copied().filter(|core| !facts.isolated.contains(core)).collect();
    if open.is_empty() {
        return Finding::ok(
            "hyperthreads",
            format!("the other threads {idle:?} of the workers' cores are isolated"),
        );
    }
    let off = open.iter().map(|core| format!("echo 0 > /sys/devices/system/cpu/cpu{core}/online"));
    Finding::warning(
        "hyperthreads",
        format!("the other threads {open:?} of the workers' cores serve everybody"),
    )
    .why("what runs there takes execution units and cache from the worker beside it")
    .fix(off.collect::<Vec<_>>().join("; "))
}

fn governor(facts: &Facts, plan: &Plan) -> Finding {
    let all: Vec<usize> = plan.cores.clone().unwrap_or_else(|| facts.cores.keys().copied().collect());
    let governors = all.iter().filter_map(|core| facts.cores.get(core)?.governor.as_deref());
    let slow: BTreeSet<&str> = governors.filter(|governor| *governor != "performance").collect();
    if slow.is_empty() {
        let known = all.iter().any(|core| facts.cores.get(core).is_some_and(|core| core.governor.is_some()));
        let found = if known { "performance" } else { "the kernel does not change the frequency" };
        return Finding::ok("governor", found);
    }
    let slow = slow.into_iter().collect::<Vec<_>>().join(", ");
    Finding::warning("governor", format!("frequency governor {slow}"))
        .why("a core that has to speed up first lets its queue grow meanwhile")
        .fix("echo performance | tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor")
}

fn files(facts: &Facts, plan: &Plan) -> Finding {
    let need = FILES + (plan.ports.len() * plan.workers * 2) as u64;
    match facts.files {
        None => Finding::unknown("open-files", "the limit on open files cannot be read"),
        Some(limit) if limit < need => Finding::new(
            "open-files",
            Severity::Warning,
            format!("at most {limit} open files"),
        )
        .why(format!(
            "queues, connections and logs can take {need}; the limit is this shell's, a service has its own"
        ))
        .fix(format!("ulimit -n {n}, or LimitNOFILE={n} in the unit", n = need.next_power_of_two())),
        Some(u64::MAX) => Finding::ok("open-files", "no limit on open files"),
        Some(limit) => Finding::ok("open-files", format!("up to {limit} open files")),
    }
}

/// Cores for so many workers: isolated ones first, none that shares with another one or is the machine's first.
fn suggestion(facts: &Facts, workers: usize) -> Vec<usize> {
    let mut all: Vec<usize> = facts.cores.keys().copied().skip(usize::from(facts.cores.len() > 1)).collect();
    all.sort_by_key(|core| (!facts.isolated.contains(core), *core));
    let mut taken = BTreeSet::new();
    let mut chosen = Vec::new();
    for core in all {
        if chosen.len() < workers && taken.insert(core) {
            taken.extend(facts.cores.get(&core).into_iter().flat_map(|core| core.siblings.iter().copied()));
            chosen.push(core);
        }
    }
    chosen.sort_unstable();
    chosen
}
