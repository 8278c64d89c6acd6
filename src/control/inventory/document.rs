//! All resources as one file: what `natgate export` writes and `natgate apply` reads, in TOML or JSON.

use serde::{Deserialize, Serialize};

use super::id::Kind;
use super::spec::{DnatSpec, EipSpec, GatewaySpec, PlanSpec, SnatSpec, Spec, VSwitchSpec, VpcSpec};

/// All resources by kind, in an order in which none comes before what it refers to.
///
/// It is the whole truth: what it does not name is not to be. It holds what people decide, and the identifiers and times of
/// creation, so that a resource stays the one that it is; what follows from these (status, tables, public addresses of entries)
/// is left out. References are identifiers, names that one resource of the file has alone, or addresses of EIPs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// The version of the format: 1.
    #[schema(minimum = 1, maximum = 1)]
    pub version: u32,
    /// Private networks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vpc: Vec<VpcSpec>,
    /// Their parts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vswitch: Vec<VSwitchSpec>,
    /// NAT gateways.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateway: Vec<GatewaySpec>,
    /// Bandwidth plans.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plan: Vec<PlanSpec>,
    /// Elastic IPs, each with its address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub eip: Vec<EipSpec>,
    /// DNAT entries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dnat: Vec<DnatSpec>,
    /// SNAT entries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snat: Vec<SnatSpec>,
}

impl Document {
    /// The version of the format that is written, and the only one that is read.
    pub const VERSION: u32 = 1;

    /// One without resources.
    pub fn new() -> Self {
        Self { version: Self::VERSION, ..Self::default() }
    }

    /// Takes a resource in, without what follows from the rest of it.
    pub fn push(&mut self, spec: Spec) {
        match spec {
            Spec::Vpc(spec) => self.vpc.push(VpcSpec { status: None, ..spec }),
            Spec::VSwitch(spec) => self.vswitch.push(VSwitchSpec { status: None, ..spec }),
            Spec::Gateway(spec) => {
                let given = GatewaySpec { status: None, dnat_table: None, snat_table: None, ..spec };
                self.gateway.push(given);
            }
            Spec::Plan(spec) => self.plan.push(PlanSpec { status: None, ..spec }),
            Spec::Eip(spec) => self.eip.push(EipSpec { status: None, ..spec }),
            Spec::Dnat(spec) => self.dnat.push(DnatSpec { status: None, public_ip: None, ..spec }),
            Spec::Snat(spec) => self.snat.push(SnatSpec { status: None, public_ips: None, ..spec }),
        }
    }

    /// What a resource says although it follows from the rest of a file.
    pub(super) fn superfluous(spec: &Spec) -> Option<&'static str> {
        let (status, others) = match spec {
            Spec::Vpc(spec) => (&spec.status, None),
            Spec::VSwitch(spec) => (&spec.status, None),
            Spec::Plan(spec) => (&spec.status, None),
            Spec::Eip(spec) => (&spec.status, None),
            Spec::Gateway(spec) => {
                let dnat = spec.dnat_table.as_ref().map(|_| "dnat_table");
                (&spec.status, dnat.or(spec.snat_table.as_ref().map(|_| "snat_table")))
            }
            Spec::Dnat(spec) => (&spec.status, spec.public_ip.as_ref().map(|_| "public_ip")),
            Spec::Snat(spec) => (&spec.status, spec.public_ips.as_ref().map(|_| "public_ips")),
        };
        status.as_ref().map(|_| "status").or(others)
    }

    /// How many resources it has.
    pub fn len(&self) -> usize {
        let entries = self.dnat.len() + self.snat.len();
        self.vpc.len() + self.vswitch.len() + self.gateway.len() + self.plan.len() + self.eip.len() + entries
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The resources of a kind.
    pub(super) fn of(&self, kind: Kind) -> Vec<Spec> {
        match kind {
            Kind::Vpc => self.vpc.iter().cloned().map(Spec::Vpc).collect(),
            Kind::VSwitch => self.vswitch.iter().cloned().map(Spec::VSwitch).collect(),
            Kind::Gateway => self.gateway.iter().cloned().map(Spec::Gateway).collect(),
            Kind::Plan => self.plan.iter().cloned().map(Spec::Plan).collect(),
            Kind::Eip => self.eip.iter().cloned().map(Spec::Eip).collect(),
            Kind::Dnat => self.dnat.iter().cloned().map(Spec::Dnat).collect(),
            Kind::Snat => self.snat.iter().cloned().map(Spec::Snat).collect(),
        }
    }
}
