//! The rules: from a specification to the resource that it becomes in this inventory.
//!
//! | module | whose rules |
//! | --- | --- |
//! | `network` | VPCs, vSwitches and gateways |
//! | `eip` | EIPs and bandwidth plans |
//! | `dnat` | DNAT entries |
//! | `snat` | SNAT entries |

mod dnat;
mod eip;
mod network;
mod snat;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::id::{Id, Kind};
use super::resource::{Eip, Gateway, Meta, Resource};
use super::spec::{Scalar, Spec, TimeoutSpec};
use super::{Inventory, Refusal};
use crate::config::values;
use crate::config::{Code, Problem, TimeoutOverrides};

/// What a judgement starts from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case<'a> {
    /// The identifier that the resource has or will have.
    pub(super) id: Id,
    /// When it was created.
    pub(super) created: u64,
    /// What it is now, if it is there already.
    pub(super) before: Option<&'a Resource>,
    /// What of the inventory the judgement may rely on.
    pub(super) beside: Beside,
}

/// What stands beside a resource while it is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beside {
    /// All others, and they stay as they are: a request.
    Others,
    /// Only what it may refer to, others come after it. Rules that ask for those, and quotas, are left out: it comes out of the
    /// store, or is judged once more with all others.
    Earlier,
    /// It is there already, and so are all others: all of them change together.
    All,
}

type Judged<T> = Result<T, Refusal>;

/// Reads a value that is there.
fn read<T>(
    parameter: &str,
    text: &str,
    reader: impl Fn(&toml::de::DeValue<'_>) -> Result<T, Problem>,
) -> Judged<T> {
    values::read(text, reader).map_err(|problem| Refusal::of(problem, parameter, text))
}

/// Reads a value that may be there.
fn optional<T>(
    parameter: &str,
    text: Option<&str>,
    reader: impl Fn(&toml::de::DeValue<'_>) -> Result<T, Problem>,
) -> Judged<Option<T>> {
    text.map(|text| read(parameter, text, reader)).transpose()
}

/// A parameter that must be there.
fn required<'s>(parameter: &str, text: Option<&'s str>) -> Judged<&'s str> {
    text.ok_or_else(|| Refusal::new(Code::MissingKey, parameter))
}

fn scalar(scalar: Option<&Scalar>) -> Option<&str> {
    scalar.map(|scalar| scalar.0.as_str())
}

/// What the value was must be what it is.
fn unchanged<T: PartialEq>(parameter: &str, value: &str, before: Option<&T>, after: &T) -> Judged<()> {
    match before {
        Some(before) if before != after => Err(Refusal::new(Code::ReadOnly, parameter)
            .value(value)
            .hint("create another resource and delete this one")),
        _ => Ok(()),
    }
}

fn meta_of(
    case: Case<'_>,
    name: Option<&str>,
    description: Option<&str>,
    tags: Option<&BTreeMap<String, String>>,
) -> Judged<Meta> {
    let tags = tags.cloned().unwrap_or_default();
    let within = |text: &str, least, most| (least..=most).contains(&text.chars().count());
    if let Some((key, value)) =
        tags.iter().find(|(key, value)| !within(key, 1, 128) || !within(value, 0, 256))
    {
        return Err(Refusal::new(Code::InvalidTag, format!("tags.{key}")).value(value));
    }
    if tags.len() > 20 {
        return Err(Refusal::new(Code::InvalidTag, "tags").hint(format!("these are {}", tags.len())));
    }
    Ok(Meta {
        id: case.id,
        name: optional("name", name, values::name)?,
        description: optional("description", description, values::description)?,
        tags,
        created: case.created,
    })
}

/// The meta of any specification.
macro_rules! meta {
    ($case:expr, $spec:expr) => {
        $crate::control::inventory::judge::meta_of(
            $case,
            $spec.name.as_deref(),
            $spec.description.as_deref(),
            $spec.tags.as_ref(),
        )
    };
}
use meta;

impl Inventory {
    /// The resource that a specification becomes, if no rule is broken.
    pub(super) fn judge(&self, spec: &Spec, case: Case<'_>) -> Judged<Resource> {
        Ok(match spec {
            Spec::Vpc(spec) => Resource::Vpc(self.judge_vpc(spec, case)?),
            Spec::VSwitch(spec) => Resource::VSwitch(self.judge_vswitch(spec, case)?),
            Spec::Gateway(spec) => Resource::Gateway(self.judge_gateway(spec, case)?),
            Spec::Plan(spec) => Resource::Plan(self.judge_plan(spec, case)?),
            Spec::Eip(spec) => Resource::Eip(self.judge_eip(spec, case)?),
            Spec::Dnat(spec) => Resource::Dnat(self.judge_dnat(spec, case)?),
            Spec::Snat(spec) => Resource::Snat(self.judge_snat(spec, case)?),
        })
    }

    /// The resource that a text stands for: its identifier, the address of an EIP, or a name that only one has.
    pub fn resolve(&self, kind: Kind, parameter: &str, text: &str) -> Judged<Id> {
        self.resolve_among(kind, parameter, text, |_| true)
    }

    /// The same among some of the resources.
    fn resolve_among(
        &self,
        kind: Kind,
        parameter: &str,
        text: &str,
        among: impl Fn(Id) -> bool,
    ) -> Judged<Id> {
        let missing = || Refusal::new(Code::NotFound, parameter).value(text);
        if let Ok(id) = text.parse::<Id>() {
            return if id.kind() == kind && self.resources.contains_key(&id) {
                Ok(id)
            } else {
                Err(missing().hint(format!("there is no {kind} with this identifier")))
            };
        }
        if kind == Kind::Eip
            && let Ok(address) = text.parse::<Ipv4Addr>()
        {
            return self
                .addresses
                .get(&address)
                .copied()
                .ok_or_else(|| missing().hint("no EIP has this address"));
        }
        let mut named = self.named(kind, text).filter(|id| among(*id));
        match (named.next(), named.next()) {
            (Some(id), None) => Ok(id),
            (Some(first), Some(second)) => Err(Refusal::new(Code::AmbiguousName, parameter)
                .value(text)
                .conflict(first)
                .conflict(second)
                .hint("say which by its identifier")),
            (None, _) => Err(missing().hint(format!("there is no {kind} of this name"))),
        }
    }

    fn within_quota(
        &self,
        case: Case<'_>,
        target: Id,
        code: Code,
        parameter: &str,
        quota: u32,
        key: &str,
    ) -> Judged<()> {
        // What stood there before stays there, even where the quota has shrunk.
        let stood = case.before.is_some_and(|before| before.references().contains(&target));
        if stood || case.beside == Beside::Earlier {
            return Ok(());
        }
        let itself = u32::from(self.references.contains(&(target, case.id.kind()), case.id));
        if self.count(target, case.id.kind()) - itself < quota {
            return Ok(());
        }
        let hint = format!(
            "it has {quota} already; delete one, or raise {key} in [quotas] of the configuration file"
        );
        Err(Refusal::new(code, parameter).value(target).hint(hint))
    }

    /// The gateway of an entry, which does not change.
    fn entry_gateway(&self, text: Option<&str>, before: Option<&Id>) -> Judged<&Gateway> {
        let text = required("gateway", text)?;
        let id = self.resolve(Kind::Gateway, "gateway", text)?;
        unchanged("gateway", text, before, &id)?;
        self.gateway(id).ok_or_else(|| Refusal::new(Code::NotFound, "gateway").value(text))
    }

    /// An EIP that a gateway's entry may use.
    fn entry_eip(&self, parameter: &str, text: &str, gateway: Id) -> Judged<&Eip> {
        let id = self.resolve(Kind::Eip, parameter, text)?;
        let eip = self.eip(id).ok_or_else(|| Refusal::new(Code::NotFound, parameter).value(text))?;
        if eip.gateway == Some(gateway) {
            return Ok(eip);
        }
        let hint = match eip.gateway {
            Some(other) => format!("the EIP is bound to {other}"),
            None => "bind the EIP to the gateway first".to_owned(),
        };
        Err(Refusal::new(Code::EipNotBound, parameter).value(text).conflict(id).hint(hint))
    }

    fn judge_timeouts(&self, spec: Option<&TimeoutSpec>) -> Judged<TimeoutOverrides> {
        let Some(spec) = spec else { return Ok(TimeoutOverrides::default()) };
        let value = |key: &str, text: &Option<String>| {
            optional(&format!("timeouts.{key}"), text.as_deref(), values::timeout)
        };
        let own = TimeoutOverrides {
            tcp_established: value("tcp_established", &spec.tcp_established)?,
            tcp_transitory: value("tcp_transitory", &spec.tcp_transitory)?,
            udp: value("udp", &spec.udp)?,
            icmp: value("icmp", &spec.icmp)?,
            other: value("other", &spec.other)?,
            tcp_reset: spec.tcp_reset,
        };
        let profile =
            optional("timeouts.profile", spec.profile.as_deref(), values::choice(&values::PROFILES))?;
        let own = profile.map_or(own, |profile| own.or(TimeoutOverrides::all(profile)));
        let all = own.over(self.settings.timeouts());
        if all.tcp_established < all.tcp_transitory {
            return Err(Refusal::new(Code::TimeoutOrder, "timeouts"));
        }
        Ok(own)
    }
}
