//! What a reload may not do.

use super::error::{Code, Error, Errors};
use super::model::{Model, Port};
use super::settings::System;

/// Whether a running gateway can become what another file says. Ports, workers, memory and the management socket are
/// taken at start and cannot change; a gateway with deletion protection cannot go.
///
/// # Errors
/// Each key that stands in the way.
pub fn check_reload(running: &Model, next: &Model) -> Result<(), Errors> {
    let mut errors = Vec::new();
    system(running, next, &mut errors);
    ports(running, next, &mut errors);
    if running.store() != next.store() {
        errors.push(next.fault(Code::RestartNeeded, "store.path".to_owned(), None, RESTART));
    }
    if running.api() != next.api() {
        errors.push(next.fault(Code::RestartNeeded, "api".to_owned(), None, RESTART));
    }
    if running.session_log() != next.session_log() {
        errors.push(next.fault(Code::RestartNeeded, "session_log".to_owned(), None, RESTART));
    }
    if running.metering() != next.metering() {
        errors.push(next.fault(Code::RestartNeeded, "metering".to_owned(), None, RESTART));
    }
    if running.dpdk() != next.dpdk() {
        errors.push(next.fault(Code::RestartNeeded, "dpdk".to_owned(), None, RESTART));
    }
    for gateway in running.gateways().iter().filter(|gateway| gateway.deletion_protection) {
        if !next.gateways().iter().any(|other| other.name == gateway.name) {
            errors.push(next.fault(
                Code::DeletionProtected,
                format!("gateway \"{}\"", gateway.name),
                None,
                "keep it; or reload with deletion_protection = false first, then remove it",
            ));
        }
    }
    Errors::of(errors)
}

const RESTART: &str = "restart natgate to change it";

impl Model {
    /// An error about a key of this file.
    pub(super) fn fault(&self, code: Code, key: String, value: Option<String>, hint: &str) -> Error {
        // A key that is not there is spoken of at its table.
        let lines = &self.places.lines;
        let line = lines.get(&key).or_else(|| lines.get(key.rsplit_once('.')?.0)).copied();
        Error {
            code,
            file: self.file().to_owned(),
            line,
            key,
            value,
            rule: code.rule().to_owned(),
            conflict: None,
            hint: Some(hint.to_owned()),
        }
    }
}

fn system(running: &Model, next: &Model, errors: &mut Vec<Error>) {
    let (old, new) = (running.system(), next.system());
    let mut refuse = |key: &str, old: String, new: String| {
        let hint = format!("it is {old} now; {RESTART}");
        errors.push(next.fault(Code::RestartNeeded, format!("system.{key}"), Some(new), &hint));
    };
    let System {
        workers,
        sessions,
        neighbours,
        snat_eips,
        buffers,
        buffer_size,
        idle,
        worker_failure,
        control,
        log: _,
    } = old;
    if *workers != new.workers {
        let key = if next.places.lines.contains_key("system.cores") { "cores" } else { "workers" };
        refuse(key, super::diff::workers(workers), super::diff::workers(&new.workers));
    }
    if *sessions != new.sessions {
        refuse("sessions", sessions.to_string(), new.sessions.to_string());
    }
    if *neighbours != new.neighbours {
        refuse("neighbours", neighbours.to_string(), new.neighbours.to_string());
    }
    if *snat_eips != new.snat_eips {
        refuse("snat_eips", snat_eips.to_string(), new.snat_eips.to_string());
    }
    if *buffers != new.buffers {
        let text = |buffers: Option<usize>| buffers.map_or("as the ports need".to_owned(), |b| b.to_string());
        refuse("buffers", text(*buffers), text(new.buffers));
    }
    if *buffer_size != new.buffer_size {
        refuse("buffer_size", buffer_size.to_string(), new.buffer_size.to_string());
    }
    if *idle != new.idle {
        refuse("idle", super::diff::idle(*idle), super::diff::idle(new.idle));
    }
    if *worker_failure != new.worker_failure {
        let text = super::diff::worker_failure;
        refuse("worker_failure", text(*worker_failure), text(new.worker_failure));
    }
    if *control != new.control {
        refuse("control", control.display().to_string(), new.control.display().to_string());
    }
}

fn ports(running: &Model, next: &Model, errors: &mut Vec<Error>) {
    let (old, new) = (running.ports(), next.ports());
    for i in 0..old.len().max(new.len()) {
        let text = |port: &Port| format!("\"{}\" ({})", port.name, super::diff::backend(&port.backend));
        let hint = match (old.get(i), new.get(i)) {
            (Some(old), Some(new)) if old == new => continue,
            (Some(old), Some(_)) => format!("it is {} now; {RESTART}", text(old)),
            (Some(old), None) => format!("{} is in use; {RESTART}", text(old)),
            (None, _) => format!("there is no such port now; {RESTART}"),
        };
        errors.push(next.fault(Code::RestartNeeded, format!("port[{i}]"), new.get(i).map(text), &hint));
    }
}
