//! Creating, updating and deleting, each whole or not at all, and undoing it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::id::{Id, Kind};
use super::judge::{Beside, Case};
use super::resource::Resource;
use super::spec::Spec;
use super::{Inventory, Refusal};
use crate::config::Code;
use crate::control::protocol::Json;
use crate::control::time;

/// One resource that changed. Neither side is there in vain: a creation has no `before`, a deletion no `after`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which one.
    pub id: Id,
    /// What it was.
    pub before: Option<Arc<Resource>>,
    /// What it is.
    pub after: Option<Arc<Resource>>,
}

/// Reads a request body, or a line of the store; a fault names the parameter.
pub(super) fn parse(kind: Kind, value: Value) -> Result<Spec, Refusal> {
    fn read<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, Refusal> {
        // Where all is well nobody asks for the way to the fault.
        if let Ok(read) = T::deserialize(&value) {
            return Ok(read);
        }
        serde_path_to_error::deserialize(value).map_err(|error| {
            let path = error.path().to_string();
            let message = error.into_inner().to_string();
            let quoted = message.split('`').nth(1).unwrap_or_default().to_owned();
            let path = if path == "." { String::new() } else { path };
            let (code, parameter) = if message.starts_with("unknown field") {
                // The path ends in the unknown field already.
                (Code::UnknownKey, if path.is_empty() { quoted } else { path })
            } else if message.starts_with("missing field") {
                let parent = if path.is_empty() { path } else { format!("{path}.") };
                (Code::MissingKey, format!("{parent}{quoted}"))
            } else {
                (Code::WrongType, path)
            };
            Refusal::new(code, parameter).hint(message)
        })
    }
    // A list in the order of the parameters would be read, too.
    if !value.is_object() {
        return Err(Refusal::new(Code::WrongType, "").hint("a resource is a JSON object"));
    }
    Ok(match kind {
        Kind::Vpc => Spec::Vpc(read(value)?),
        Kind::VSwitch => Spec::VSwitch(read(value)?),
        Kind::Gateway => Spec::Gateway(read(value)?),
        Kind::Plan => Spec::Plan(read(value)?),
        Kind::Eip => Spec::Eip(read(value)?),
        Kind::Dnat => Spec::Dnat(read(value)?),
        Kind::Snat => Spec::Snat(read(value)?),
    })
}

/// Parameters that natgate alone gives.
const GIVEN: [&str; 7] =
    ["id", "status", "created_at", "dnat_table", "snat_table", "public_ip", "public_ips"];

/// The same of a specification, whatever its kind.
macro_rules! with_spec {
    ($of_any_kind:expr, $spec:ident => $value:expr) => {
        match $of_any_kind {
            Spec::Vpc($spec) => $value,
            Spec::VSwitch($spec) => $value,
            Spec::Gateway($spec) => $value,
            Spec::Plan($spec) => $value,
            Spec::Eip($spec) => $value,
            Spec::Dnat($spec) => $value,
            Spec::Snat($spec) => $value,
        }
    };
}

impl Spec {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Vpc(_) => Kind::Vpc,
            Self::VSwitch(_) => Kind::VSwitch,
            Self::Gateway(_) => Kind::Gateway,
            Self::Plan(_) => Kind::Plan,
            Self::Eip(_) => Kind::Eip,
            Self::Dnat(_) => Kind::Dnat,
            Self::Snat(_) => Kind::Snat,
        }
    }

    /// The specification of a kind in a JSON object; none if it is not one.
    fn read(kind: Kind, json: &[u8]) -> Option<Self> {
        // A list in the order of the parameters would be read, too.
        if json.first() != Some(&b'{') {
            return None;
        }
        match kind {
            Kind::Vpc => serde_json::from_slice(json).map(Self::Vpc),
            Kind::VSwitch => serde_json::from_slice(json).map(Self::VSwitch),
            Kind::Gateway => serde_json::from_slice(json).map(Self::Gateway),
            Kind::Plan => serde_json::from_slice(json).map(Self::Plan),
            Kind::Eip => serde_json::from_slice(json).map(Self::Eip),
            Kind::Dnat => serde_json::from_slice(json).map(Self::Dnat),
            Kind::Snat => serde_json::from_slice(json).map(Self::Snat),
        }
        .ok()
    }

    /// The specification without its kind.
    pub fn to_value(&self) -> Value {
        with_spec!(self, spec => serde_json::to_value(spec)).unwrap_or_default()
    }

    /// The same as text.
    pub fn to_json(&self) -> Json {
        with_spec!(self, spec => Json::of(spec))
    }

    /// Its name, where it has one.
    pub(super) fn name(&self) -> Option<&str> {
        with_spec!(self, spec => spec.name.as_deref())
    }

    /// Its identifier and its time of creation, where they are given.
    pub(super) fn identity(&self) -> (Option<&str>, Option<&str>) {
        with_spec!(self, spec => (spec.id.as_deref(), spec.created_at.as_deref()))
    }
}

impl Inventory {
    fn make(&mut self, id: Id, after: Option<Arc<Resource>>) -> Change {
        let before = self.set(id, after.as_ref());
        Change { id, before, after }
    }

    /// Creates a resource of the values in `body`. `id` is one that nobody has; `now` is in seconds since 1970.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn create(&mut self, body: Value, id: Id, now: u64) -> Result<Change, Refusal> {
        if let Some(given) = GIVEN.iter().find(|given| body.get(**given).is_some()) {
            return Err(
                Refusal::new(Code::ReadOnly, *given).rule("this is given by natgate, not by the request")
            );
        }
        let spec = parse(id.kind(), body)?;
        let case = Case { id, created: now, before: None, beside: Beside::Others };
        let resource = self.judge(&spec, case)?;
        if let Resource::Eip(eip) = &resource {
            self.next_address = u32::from(eip.address).wrapping_add(1);
        }
        Ok(self.make(id, Some(Arc::new(resource))))
    }

    /// Puts a resource back that was stored. What it refers to must be there.
    ///
    /// # Errors
    /// Why it cannot be what was stored: the store is damaged, or the configuration file no longer fits.
    pub fn restore(&mut self, kind: Kind, value: Value) -> Result<Id, Refusal> {
        self.restore_spec(kind, &parse(kind, value)?)
    }

    /// The same of what was stored as JSON.
    ///
    /// # Errors
    /// As [`restore`](Self::restore).
    pub fn restore_json(&mut self, kind: Kind, json: &[u8]) -> Result<Id, Refusal> {
        match Spec::read(kind, json) {
            Some(spec) => self.restore_spec(kind, &spec),
            // The slow way tells what is wrong, by its parameter.
            None => self.restore(kind, serde_json::from_slice(json).unwrap_or_default()),
        }
    }

    fn restore_spec(&mut self, kind: Kind, spec: &Spec) -> Result<Id, Refusal> {
        let (id, created) = spec.identity();
        let invalid = |parameter: &str, text: Option<&str>| {
            Refusal::new(Code::InvalidId, parameter).value(text.unwrap_or_default())
        };
        let parsed = id.and_then(|id| id.parse::<Id>().ok()).filter(|id| id.kind() == kind);
        let id = parsed.filter(|id| !self.resources.contains_key(id)).ok_or_else(|| invalid("id", id))?;
        let created = created
            .and_then(time::parse)
            .ok_or_else(|| invalid("created_at", created).rule("it is no time"))?;
        let case = Case { id, created, before: None, beside: Beside::Earlier };
        let resource = self.judge(spec, case)?;
        self.set(id, Some(&Arc::new(resource)));
        Ok(id)
    }

    /// Changes what a patch names (RFC 7396: a null takes a value away).
    ///
    /// # Errors
    /// The rule that the resource would break.
    pub fn update(&mut self, id: Id, patch: &Value) -> Result<Change, Refusal> {
        let before = self.get(id).cloned().ok_or_else(|| Refusal::new(Code::NotFound, "id").value(id))?;
        let Some(patch_of) = patch.as_object() else {
            return Err(
                Refusal::new(Code::WrongType, "").rule("a change is an object of the values to change")
            );
        };
        let current = self.specify(&before).to_value();
        for given in GIVEN {
            if let Some(wanted) = patch_of.get(given).filter(|wanted| current.get(given) != Some(*wanted)) {
                return Err(Refusal::new(Code::ReadOnly, given).value(wanted));
            }
        }
        let mut wanted = current;
        merge(&mut wanted, patch);
        // A profile stands for all values.
        if let Some(timeouts) = patch_of.get("timeouts").filter(|timeouts| timeouts.get("profile").is_some())
        {
            wanted["timeouts"] = timeouts.clone();
        }
        let spec = parse(id.kind(), wanted)?;
        // What belongs to a specification that is left goes with it, unless it is asked for.
        let spec = match spec {
            Spec::Gateway(mut gateway) if patch_of.contains_key("specification") => {
                let asked = |key| patch_of.get(key).is_some_and(|value| !value.is_null());
                gateway.sessions = gateway.sessions.filter(|_| asked("sessions"));
                gateway.new_sessions_per_second =
                    gateway.new_sessions_per_second.filter(|_| asked("new_sessions_per_second"));
                Spec::Gateway(gateway)
            }
            Spec::Snat(mut snat)
                if patch_of.contains_key("mapping") && !patch_of.contains_key("filtering") =>
            {
                snat.filtering = None;
                Spec::Snat(snat)
            }
            spec => spec,
        };
        let created = before.meta().created;
        let case = Case { id, created, before: Some(&before), beside: Beside::Others };
        let after = self.judge(&spec, case)?;
        Ok(self.make(id, Some(Arc::new(after))))
    }

    /// Deletes a resource. With `force` what uses it goes with it: entries are deleted, EIPs of a gateway are unbound, an EIP
    /// leaves the pools of SNAT entries, and an entry whose pool is empty goes.
    ///
    /// # Errors
    /// It is protected, or it is used (and by whom).
    pub fn delete(&mut self, id: Id, force: bool) -> Result<Vec<Change>, Refusal> {
        if !self.resources.contains_key(&id) {
            return Err(Refusal::new(Code::NotFound, "id").value(id));
        }
        let mut fall = Fall::default();
        self.fall(id, force, &mut fall)?;
        self.routes_survive(&fall)?;
        let mut changes = Vec::with_capacity(fall.gone.len() + fall.changed.len());
        for (id, after) in fall.changed {
            if !fall.gone.contains(&id) {
                changes.push(self.make(id, Some(Arc::new(after))));
            }
        }
        // Entries first, then what they refer to.
        for id in fall.gone.into_iter().rev() {
            changes.push(self.make(id, None));
        }
        Ok(changes)
    }

    /// What falls with a resource.
    fn fall(&self, id: Id, force: bool, fall: &mut Fall) -> Result<(), Refusal> {
        if !fall.gone.insert(id) {
            return Ok(());
        }
        if let Some(gateway) = self.gateway(id).filter(|gateway| gateway.deletion_protection) {
            return Err(Refusal::new(Code::DeletionProtected, "id")
                .value(gateway.meta.id)
                .conflict(id)
                .hint("set deletion_protection to false first"));
        }
        let users = Kind::ALL.into_iter().flat_map(|kind| self.referring(id, kind));
        if !force {
            let total: u32 = Kind::ALL.into_iter().map(|kind| self.count(id, kind)).sum();
            if total > 0 {
                let refusal = Refusal::new(Code::InUse, "id")
                    .value(id)
                    .hint(format!("{total} use it: delete them first, or delete it with force"));
                return Err(users.take(Refusal::SHOWN).fold(refusal, Refusal::conflict));
            }
            return Ok(());
        }
        for user in users {
            match (id.kind(), self.get(user).map(|resource| &**resource)) {
                (Kind::Gateway, Some(Resource::Eip(eip))) => {
                    let mut unbound = eip.clone();
                    unbound.gateway = None;
                    fall.changed.insert(user, Resource::Eip(unbound));
                }
                (Kind::Plan, Some(Resource::Eip(eip))) => {
                    let mut unlimited = eip.clone();
                    unlimited.plan = None;
                    fall.changed.insert(user, Resource::Eip(unlimited));
                }
                (Kind::Eip, Some(Resource::Snat(entry))) => {
                    let mut smaller = match fall.changed.remove(&user) {
                        Some(Resource::Snat(entry)) => entry,
                        _ => entry.clone(),
                    };
                    smaller.eips.retain(|(eip, _)| *eip != id);
                    if smaller.eips.is_empty() {
                        self.fall(user, force, fall)?;
                    } else {
                        fall.changed.insert(user, Resource::Snat(smaller));
                    }
                }
                _ => self.fall(user, force, fall)?,
            }
        }
        Ok(())
    }

    /// A vSwitch over which the VPC has a route does not go without it.
    fn routes_survive(&self, fall: &Fall) -> Result<(), Refusal> {
        for vswitch in fall.gone.iter().filter_map(|id| self.vswitch(*id)) {
            let vpc = self.vpc(vswitch.vpc).filter(|vpc| !fall.gone.contains(&vpc.meta.id));
            let route = vpc.and_then(|vpc| vpc.routes.iter().find(|r| vswitch.cidr.contains(r.via.into())));
            if let Some(route) = route {
                return Err(Refusal::new(Code::InUse, "id")
                    .value(vswitch.meta.id)
                    .conflict(vswitch.vpc)
                    .hint(format!("the VPC has a route by {}: remove it first", route.via)));
            }
        }
        Ok(())
    }

    /// Makes changes that another inventory of the same contents has made, one after the other.
    pub fn follow(&mut self, changes: &[Change]) {
        for change in changes {
            self.set(change.id, change.after.as_ref());
        }
    }

    /// Takes changes back, all at once.
    pub fn undo(&mut self, changes: &[Change]) {
        // A resource that changed several times becomes what it was before the first.
        let first = changes.iter().rev().map(|change| (change.id, &change.before));
        let first: BTreeMap<Id, _> = first.collect();
        self.set_all(first.iter().map(|(id, before)| (*id, before.as_ref())));
    }
}

/// What goes, and what stays otherwise than it was.
#[derive(Debug, Default)]
struct Fall {
    gone: BTreeSet<Id>,
    changed: BTreeMap<Id, Resource>,
}

/// JSON merge patch (RFC 7396).
fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Some(target) = target.as_object_mut() else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}
