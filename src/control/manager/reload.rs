//! Applying a changed configuration file.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::config::{self, Action, Errors};
use crate::control::manager::{Filed, Manager, View, leaving};
use crate::control::protocol::{Change, ChangeKind, Fault, FaultCode, Finding, ReloadRequest, Reloaded};

/// Time that workers have to take a new configuration over. They do it at their next batch, so this is ample.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

impl Manager {
    /// Makes the gateway what its configuration file says, as one step: all of it or nothing. Returns when all workers work
    /// with it. Reloads at the same time come one after the other. The request may say what becomes of the live sessions of entries
    /// that the file changes or does not have any more; otherwise they end.
    ///
    /// # Errors
    /// All errors of the file, or what a running gateway cannot change; nothing has changed then. A worker that does not
    /// take the configuration over in time is named; it will as soon as it can.
    pub fn reload(&self, request: &ReloadRequest) -> Result<Reloaded, Fault> {
        // One after the other.
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if request.dry_run {
            return self.apply(&mut file, request);
        }
        self.observer.reloading();
        let applied = self.apply(&mut file, request);
        self.observer.reloaded();
        applied
    }

    fn apply(&self, file: &mut Filed, request: &ReloadRequest) -> Result<Reloaded, Fault> {
        if self.desk.get().is_some() {
            return Err(Fault::new(
                FaultCode::NeedsRestart,
                "resources live in a store, and what the configuration file says beside it needs a restart",
            )
            .hint("restart natgate to apply the changed file"));
        }
        let view = self.view();
        let model =
            config::load(&self.facts.config).map_err(|errors| refused(FaultCode::Configuration, &errors))?;
        config::check_reload(&view.model, &model)
            .map_err(|errors| refused(FaultCode::NeedsRestart, &errors))?;
        let changes: Vec<_> = config::diff(&view.model, &model).iter().map(Change::from).collect();
        let current = self.running.snapshot();
        // On a copy: numbers that it gives are given when it is published.
        let mut compiler = file.compiler.clone();
        let snapshot = compiler
            .compile(&model, &self.facts.ports, &current)
            .map_err(|errors| refused(FaultCode::Configuration, &errors))?;
        let left = leaving::note(&file.departures, request.sessions, (&current, &snapshot))?;
        if request.dry_run || changes.is_empty() {
            return Ok(Reloaded { generation: current.generation().0, dry_run: request.dry_run, changes });
        }
        file.compiler = compiler;
        let snapshot = left.map_or(snapshot, |(snapshot, said)| {
            file.departures.adopt(said);
            snapshot
        });
        let generation = snapshot.generation().0;
        let level = model.system().log;
        // Names first: what workers speak of must have one.
        let next = View { model: Arc::new(model), directory: file.compiler.directory() };
        let next = Arc::new(next);
        self.view.replace(Arc::clone(&next));
        log::set_max_level(level);
        self.running.publish(Arc::clone(&snapshot), PATIENCE).map_err(|lagging| {
            Fault::new(FaultCode::NotInForce, format!("{lagging}, although it is published"))
                .hint("they take it as soon as they can; natgate status shows when")
        })?;
        self.observer.in_force(&next.model, &snapshot).map_err(|reason| {
            Fault::new(FaultCode::NotInForce, format!("all workers work with it, but {reason}"))
                .hint("reload again when that is mended")
        })?;
        log::info!(
            "configuration {} is in force as generation {generation}: {} changes",
            self.facts.config.display(),
            changes.len()
        );
        Ok(Reloaded { generation, dry_run: false, changes })
    }
}

/// The refusal of a configuration file.
fn refused(code: FaultCode, errors: &Errors) -> Fault {
    let findings: Vec<_> = errors.iter().map(Finding::from).collect();
    let count = match findings.len() {
        1 => "1 error".to_owned(),
        count => format!("{count} errors"),
    };
    let file = findings.first().map_or("the configuration", |finding| &finding.file);
    let message = format!("{file} has {count}; nothing was changed");
    Fault { findings, ..Fault::new(code, message) }
}

impl From<&config::Error> for Finding {
    fn from(error: &config::Error) -> Self {
        let config::Error { code, file, line, key, value, rule, conflict, hint } = error.clone();
        let conflict = conflict.map(|config::Conflict { key, line, name }| {
            let name = name.map_or_else(String::new, |name| format!(" \"{name}\""));
            let line = line.map_or_else(String::new, |line| format!(" at line {line}"));
            format!("{key}{name}{line}")
        });
        Self { code: code.name().to_owned(), file, line, key, value, rule, conflict, hint }
    }
}

impl From<&config::Change> for Change {
    fn from(change: &config::Change) -> Self {
        let kind = match change.action {
            Action::Added => ChangeKind::Added,
            Action::Changed => ChangeKind::Changed,
            Action::Removed => ChangeKind::Removed,
        };
        let detail = match change.action {
            Action::Changed => {
                let none = || "none".to_owned();
                let differences = change.differences.iter().map(|difference| {
                    let old = difference.old.clone().unwrap_or_else(none);
                    let new = difference.new.clone().unwrap_or_else(none);
                    format!("{} {old} -> {new}", difference.key)
                });
                differences.collect::<Vec<_>>().join("; ")
            }
            Action::Added | Action::Removed => change.summary.clone(),
        };
        Self { change: kind, resource: change.kind.to_owned(), name: change.name.clone(), detail }
    }
}
