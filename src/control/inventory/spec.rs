//! Resources as they are written: in requests, in answers, in the store and in files of `natgate apply`. A part that is not
//! given is not there; the rules are judged when a specification becomes a [resource](super::resource).

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::openapi::{ObjectBuilder, OneOfBuilder, Type};

/// A number or a text, such as a port, a range of ports or a count with its unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scalar(pub String);

impl utoipa::PartialSchema for Scalar {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        let of = |kind| ObjectBuilder::new().schema_type(kind);
        OneOfBuilder::new().item(of(Type::Integer)).item(of(Type::String)).into()
    }
}

impl utoipa::ToSchema for Scalar {}

impl Serialize for Scalar {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.parse::<u64>() {
            Ok(number) => serializer.serialize_u64(number),
            Err(_) => serializer.serialize_str(&self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Scalar;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number or a string")
            }

            fn visit_u64<E>(self, value: u64) -> Result<Scalar, E> {
                Ok(Scalar(value.to_string()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Scalar, E> {
                Ok(Scalar(value.to_string()))
            }

            fn visit_str<E>(self, value: &str) -> Result<Scalar, E> {
                Ok(Scalar(value.to_owned()))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

macro_rules! specification {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            /// Its identifier. Given by natgate.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub id: Option<String>,
            /// A name of 2-128 characters (letters, digits, `.`, `_`, `-`) that starts with a letter. It need not be unique.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub name: Option<String>,
            /// A text of 2-256 characters that does not start with `http://` or `https://`.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub description: Option<String>,
            $($(#[$field_doc])* #[serde(skip_serializing_if = "Option::is_none")] pub $field: Option<$type>,)*
            /// Up to 20 keys with their values.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub tags: Option<BTreeMap<String, String>>,
            /// `Available`, or `InUse` of an EIP that is bound to a gateway. Given by natgate.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub status: Option<String>,
            /// When it was created, in UTC. Given by natgate.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub created_at: Option<String>,
        }
    };
}

/// A route of a VPC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteSpec {
    /// The destinations, a prefix.
    pub to: String,
    /// The next hop, on the link of an attached vSwitch.
    pub via: String,
}

/// How long sessions of an entry live without traffic: durations such as `5m`. A profile replaces all values, a single key
/// one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TimeoutSpec {
    /// `rfc` or `alibaba`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Established TCP connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_established: Option<String>,
    /// TCP connections that are opening, closing or were reset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_transitory: Option<String>,
    /// UDP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udp: Option<String>,
    /// ICMP queries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp: Option<String>,
    /// Other protocols.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other: Option<String>,
    /// Whether both hosts are sent a reset when an established TCP connection expires.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_reset: Option<bool>,
}

specification! {
    /// A private network.
    VpcSpec {
        /// Its addresses, a prefix. Two VPCs may have the same.
        cidr: String,
        /// Networks behind routers of its own.
        routes: Vec<RouteSpec>,
    }
}

specification! {
    /// A part of a VPC.
    VSwitchSpec {
        /// The VPC: its id, or its name if no other has it.
        vpc: String,
        /// Its addresses, a prefix of the VPC's.
        cidr: String,
        /// The port that it is attached to, by the name in the configuration file.
        port: String,
        /// The VLAN on that port, 1-4094; none for untagged frames.
        vlan: Scalar,
        /// The gateway's own address in it: the default gateway of its hosts.
        address: String,
        /// Largest IP packet in bytes; as the port if not given.
        mtu: Scalar,
    }
}

specification! {
    /// A NAT gateway.
    GatewaySpec {
        /// The VPC: its id, or its name if no other has it.
        vpc: String,
        /// The vSwitch of that VPC: id or name.
        vswitch: String,
        /// `Unlimited`, `Small`, `Middle`, `Large`, `XLarge.1` or `PayByLcu`.
        specification: String,
        /// With `PayByLcu`: SNAT sessions.
        sessions: Scalar,
        /// With `PayByLcu`: new SNAT sessions a second.
        new_sessions_per_second: Scalar,
        /// SNAT sessions that one private host may have, or `unlimited`.
        host_sessions: Scalar,
        /// Whether it is safe from deletion, even by force.
        deletion_protection: bool,
        /// The id of its table of DNAT entries. Given by natgate.
        dnat_table: String,
        /// The id of its table of SNAT entries. Given by natgate.
        snat_table: String,
    }
}

specification! {
    /// A bandwidth plan: a limit that several EIPs share.
    PlanSpec {
        /// What passes by all of its EIPs together in each direction, over all workers, such as `100Mbps`.
        bandwidth: String,
    }
}

specification! {
    /// An elastic IP.
    EipSpec {
        /// Its address, out of a public range of the configuration file; a free one is chosen if none is given.
        address: String,
        /// The gateway that it is bound to: id or name.
        gateway: String,
        /// Whether the gateway answers echo requests to it.
        ping: bool,
        /// What passes by it in each direction, over all workers, such as `100Mbps`.
        bandwidth: String,
        /// Instead of `bandwidth`: the plan whose limit it shares, by id or name.
        plan: String,
    }
}

specification! {
    /// A DNAT entry.
    DnatSpec {
        /// The gateway: id or name.
        gateway: String,
        /// The EIP, bound to that gateway: id, address or name.
        eip: String,
        /// `Any`, a port or a range `first/last`.
        public_port: Scalar,
        /// The private host, in the VPC of the gateway.
        private_ip: String,
        /// `Any`, a port or a range of the same length.
        private_port: Scalar,
        /// `TCP`, `UDP`, or `Any` with any port.
        protocol: String,
        /// Timeouts of its own.
        timeouts: TimeoutSpec,
        /// The address of its EIP. Given by natgate.
        public_ip: String,
    }
}

specification! {
    /// A SNAT entry.
    SnatSpec {
        /// The gateway: id or name.
        gateway: String,
        /// Whom it translates: an address, a prefix, `vswitch:ID-OR-NAME`, or `vpc` for all.
        source: String,
        /// 1 to 64 EIPs, bound to that gateway: ids, addresses or names.
        eips: Vec<String>,
        /// `endpoint-independent` or `endpoint-dependent`.
        mapping: String,
        /// `endpoint-independent`, `address-dependent` or `address-and-port-dependent`.
        filtering: String,
        /// External ports that it may use, a range `first/last`.
        ports: Scalar,
        /// Ports of a block, where each private host gets blocks of neighbouring ports.
        port_blocks: Scalar,
        /// Blocks that one private host may have.
        blocks_per_host: Scalar,
        /// Whether each address of the source has one block, computed from the address.
        deterministic: bool,
        /// Whether it is an application-level gateway for FTP: what private clients announce in active mode is translated.
        ftp: bool,
        /// Destinations that it does not translate.
        untranslated: Vec<String>,
        /// Timeouts of its own.
        timeouts: TimeoutSpec,
        /// The addresses of its EIPs. Given by natgate.
        public_ips: Vec<String>,
    }
}

/// A resource as it is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Spec {
    /// A private network.
    Vpc(VpcSpec),
    /// A part of a private network.
    VSwitch(VSwitchSpec),
    /// A NAT gateway.
    Gateway(GatewaySpec),
    /// A bandwidth plan.
    Plan(PlanSpec),
    /// An elastic IP.
    Eip(EipSpec),
    /// A DNAT entry.
    Dnat(DnatSpec),
    /// A SNAT entry.
    Snat(SnatSpec),
}
