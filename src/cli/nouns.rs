//! Commands of resources: `natgate NOUN create|list|show|update|delete`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use serde_json::{Value, json};

use super::ask::{Failed, ask};
use super::output::Table;
use super::{Console, args::ClientArgs};
use crate::config::units;
use crate::control::protocol::{
    Answer, ChangeAction, ChangeRequest, Changed, LiveSessions, Request, ResourcesRequest, SessionPolicy,
};

/// What is done to a resource; `V` are the values that its kind has.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb<V: Args> {
    /// Create one. Returns when it is stored and in force on all workers.
    Create(CreateArgs<V>),
    /// List all, or a page of them.
    List(ListArgs),
    /// Show one.
    Show(ShowArgs),
    /// Change some values of one.
    Update(UpdateArgs<V>),
    /// Delete one.
    Delete(DeleteArgs),
}

/// How to reach the gateway, and how to print.
#[derive(Clone, Debug, Args)]
pub struct AskArgs {
    /// The management socket of the gateway.
    #[arg(long, value_name = "PATH", env = "NATGATE_SOCKET", default_value = "/run/natgate/natgate.sock")]
    pub socket: PathBuf,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

impl AskArgs {
    pub(super) fn client(&self) -> ClientArgs {
        ClientArgs { socket: self.socket.clone(), json: self.output == Format::Json }
    }
}

/// Arguments of `create`.
#[derive(Clone, Debug, Args)]
pub struct CreateArgs<V: Args> {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub values: V,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: CommonValues,
    /// A repetition with the same key is answered, and not made again.
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub ask: AskArgs,
}

/// Arguments of `list`.
#[derive(Clone, Debug, Args)]
pub struct ListArgs {
    /// At most so many.
    #[arg(long, value_name = "NUMBER")]
    pub limit: Option<u64>,
    /// Those behind this identifier.
    #[arg(long, value_name = "ID")]
    pub after: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub ask: AskArgs,
}

/// Arguments of `show`.
#[derive(Clone, Debug, Args)]
pub struct ShowArgs {
    /// Its identifier, its name if no other has it, or an EIP's address.
    pub id: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub ask: AskArgs,
}

/// Arguments of `update`.
#[derive(Clone, Debug, Args)]
pub struct UpdateArgs<V: Args> {
    /// Its identifier, its name if no other has it, or an EIP's address.
    pub id: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub values: V,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: CommonValues,
    /// Take this value away, such as the gateway of an EIP; several with commas.
    #[arg(long, value_name = "KEY", value_delimiter = ',')]
    pub unset: Vec<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub sessions: SessionArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub ask: AskArgs,
}

/// Arguments of `delete`.
#[derive(Clone, Debug, Args)]
pub struct DeleteArgs {
    /// Its identifier, its name if no other has it, or an EIP's address.
    pub id: String,
    /// Delete what uses it, too: entries go, EIPs of a gateway are unbound, an EIP leaves its pools.
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub sessions: SessionArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub ask: AskArgs,
}

/// What becomes of the sessions of an entry.
#[derive(Clone, Copy, Debug, Args)]
pub struct SessionArgs {
    /// Of a DNAT or SNAT entry: what becomes of live sessions that it does not stand behind any more. Otherwise they are killed.
    #[arg(long, value_enum, value_name = "POLICY")]
    pub live_sessions: Option<SessionPolicy>,
    /// With --live-sessions drain: how long, such as 30s or 2h; otherwise 5m.
    #[arg(long, value_name = "TIME", requires = "live_sessions", value_parser = drain_time)]
    pub drain: Option<u64>,
    /// With --live-sessions drain or kill: send TCP resets to both ends.
    #[arg(long, requires = "live_sessions")]
    pub reset: bool,
}

impl SessionArgs {
    pub(super) fn request(self) -> Option<LiveSessions> {
        let Self { live_sessions, drain, reset } = self;
        live_sessions.map(|policy| LiveSessions { policy, drain_seconds: drain, reset })
    }
}

/// A time in whole seconds.
fn drain_time(text: &str) -> Result<u64, String> {
    let time = units::duration(text).filter(|time| time.subsec_nanos() == 0);
    let rule = || "not a time from 1s to 30d in whole seconds, such as 30s or 2h".to_owned();
    time.map(|time| time.as_secs()).filter(|seconds| (1..=30 * 86_400).contains(seconds)).ok_or_else(rule)
}

/// Values that every resource may have.
#[derive(Clone, Debug, Args, Serialize)]
pub struct CommonValues {
    /// A name; it need not be unique.
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A text for people.
    #[arg(long, value_name = "TEXT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// A key with its value for programs; may be given several times.
    #[arg(long, value_name = "KEY=VALUE", value_parser = tag)]
    #[serde(serialize_with = "tags", skip_serializing_if = "Vec::is_empty", rename = "tags")]
    pub tag: Vec<(String, String)>,
}

fn tag(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("not KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn tags<S: serde::Serializer>(tags: &[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(tags.iter().map(|(key, value)| (key, value)))
}

macro_rules! values {
    ($(#[$doc:meta])* $name:ident { $($(#[$meta:meta])* $field:ident: $type:ty = $value:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Args, Serialize)]
        pub struct $name {
            $(
                $(#[$meta])*
                #[arg(long, value_name = $value)]
                #[serde(skip_serializing_if = "Option::is_none")]
                pub $field: Option<$type>,
            )*
        }
    };
}

values! {
    /// Values of a VPC.
    VpcValues {
        /// Its addresses, such as 10.0.0.0/16.
        cidr: String = "PREFIX",
    }
}

values! {
    /// Values of a vSwitch.
    VSwitchValues {
        /// The VPC: identifier or name.
        vpc: String = "VPC",
        /// Its addresses, inside the VPC's.
        cidr: String = "PREFIX",
        /// The port of the configuration file that it is attached to.
        port: String = "NAME",
        /// The VLAN on that port.
        vlan: u16 = "1-4094",
        /// The gateway's own address in it.
        address: String = "ADDRESS",
        /// Largest IP packet in bytes.
        mtu: u16 = "BYTES",
    }
}

values! {
    /// Values of a gateway.
    GatewayValues {
        /// The VPC: identifier or name.
        vpc: String = "VPC",
        /// The vSwitch in that VPC: identifier or name.
        vswitch: String = "VSWITCH",
        /// Unlimited, Small, Middle, Large, XLarge.1 or PayByLcu.
        specification: String = "WORD",
        /// With PayByLcu: SNAT sessions.
        sessions: String = "COUNT",
        /// With PayByLcu: new SNAT sessions a second.
        new_sessions_per_second: String = "COUNT",
        /// SNAT sessions of one private host, or unlimited.
        host_sessions: String = "COUNT",
        /// Whether it is safe from deletion, even by force.
        deletion_protection: bool = "true|false",
    }
}

values! {
    /// Values of a bandwidth plan.
    PlanValues {
        /// What passes by all of its EIPs together in each direction, such as 100Mbps; bursts of 0.1 s are let through.
        bandwidth: String = "RATE",
    }
}

values! {
    /// Values of an EIP.
    EipValues {
        /// Its address; a free one if not given.
        address: String = "ADDRESS",
        /// The gateway that it is bound to: identifier or name.
        gateway: String = "GATEWAY",
        /// Whether the gateway answers echo requests to it.
        ping: bool = "true|false",
        /// What passes by it in each direction, such as 100Mbps; bursts of 0.1 s are let through.
        bandwidth: String = "RATE",
        /// Instead of a limit of its own: the plan whose limit it shares, by identifier or name.
        plan: String = "PLAN",
    }
}

values! {
    /// Values of a DNAT entry.
    DnatValues {
        /// The gateway: identifier or name.
        gateway: String = "GATEWAY",
        /// The EIP: identifier, address or name.
        eip: String = "EIP",
        /// Any, a port, or a range FIRST/LAST.
        public_port: String = "PORT",
        /// The private host.
        private_ip: String = "ADDRESS",
        /// Any, a port, or a range of the same length.
        private_port: String = "PORT",
        /// TCP, UDP, or Any with any port.
        protocol: String = "PROTOCOL",
    }
}

/// Values of a SNAT entry.
#[derive(Clone, Debug, Args, Serialize)]
pub struct SnatValues {
    /// The gateway: identifier or name.
    #[arg(long, value_name = "GATEWAY")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// Whom it translates: an address, a prefix, vswitch:ID-OR-NAME, or vpc for all.
    #[arg(long, value_name = "SOURCE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Its EIPs: identifiers, addresses or names, several with commas.
    #[arg(long, value_name = "EIP", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub eips: Vec<String>,
    /// endpoint-independent or endpoint-dependent.
    #[arg(long, value_name = "WORD")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mapping: Option<String>,
    /// endpoint-independent, address-dependent or address-and-port-dependent.
    #[arg(long, value_name = "WORD")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filtering: Option<String>,
    /// External ports that it may use: FIRST/LAST.
    #[arg(long, value_name = "PORTS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<String>,
    /// Ports of a block, where each private host gets blocks of neighbouring ports.
    #[arg(long, value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port_blocks: Option<String>,
    /// Blocks that one private host may have.
    #[arg(long, value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocks_per_host: Option<String>,
    /// Whether each address of the source has one block, computed from the address: true or false.
    #[arg(long, value_name = "BOOLEAN")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deterministic: Option<bool>,
    /// Whether it is an application-level gateway for FTP in active mode: true or false.
    #[arg(long, value_name = "BOOLEAN")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ftp: Option<bool>,
    /// Destinations that it does not translate, several with commas.
    #[arg(long, value_name = "PREFIX", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub untranslated: Vec<String>,
}

/// The columns of a kind's table.
fn columns(kind: &str) -> &'static [&'static str] {
    match kind {
        "vpc" => &["id", "name", "cidr", "status"],
        "vswitch" => &["id", "name", "vpc", "cidr", "port", "vlan", "address", "status"],
        "gateway" => &["id", "name", "vpc", "vswitch", "specification", "deletion_protection", "status"],
        "plan" => &["id", "name", "bandwidth", "status"],
        "eip" => &["id", "name", "address", "gateway", "bandwidth", "plan", "status"],
        "dnat" => {
            &["id", "name", "public_ip", "public_port", "private_ip", "private_port", "protocol", "status"]
        }
        _ => &["id", "name", "gateway", "source", "public_ips", "status"],
    }
}

/// Carries a verb out on a kind; also whether errors are to be JSON.
pub(super) fn execute<V: Args + Serialize>(
    kind: &str,
    verb: &Verb<V>,
    console: &mut Console<'_>,
) -> (Result<(), Failed>, bool) {
    let (result, ask) = match verb {
        Verb::Create(args) => {
            let request = ChangeRequest {
                body: body(&args.values, &args.common, &[]),
                idempotency_key: args.idempotency_key.clone(),
                ..change(ChangeAction::Create, kind)
            };
            (made(&args.ask, request, console), &args.ask)
        }
        Verb::Update(args) => {
            let request = ChangeRequest {
                id: Some(args.id.clone()),
                body: body(&args.values, &args.common, &args.unset),
                sessions: args.sessions.request(),
                ..change(ChangeAction::Update, kind)
            };
            (made(&args.ask, request, console), &args.ask)
        }
        Verb::Delete(args) => {
            let request = ChangeRequest {
                id: Some(args.id.clone()),
                force: args.force,
                sessions: args.sessions.request(),
                ..change(ChangeAction::Delete, kind)
            };
            (made(&args.ask, request, console), &args.ask)
        }
        Verb::Show(args) => {
            let request = ResourcesRequest {
                kind: kind.into(),
                id: Some(args.id.clone()),
                ..ResourcesRequest::default()
            };
            (show(&args.ask, request, console), &args.ask)
        }
        Verb::List(args) => {
            let ListArgs { limit, after, .. } = args.clone();
            let request = ResourcesRequest { kind: kind.into(), id: None, after, limit };
            (list(&args.ask, request, console), &args.ask)
        }
    };
    (result, ask.output == Format::Json)
}

fn change(action: ChangeAction, kind: &str) -> ChangeRequest {
    ChangeRequest {
        action,
        kind: kind.into(),
        id: None,
        body: Value::Null,
        force: false,
        idempotency_key: None,
        sessions: None,
    }
}

/// The values that are given, and null for those that go.
fn body(values: &impl Serialize, common: &CommonValues, unset: &[String]) -> Value {
    let mut body = serde_json::Map::new();
    for part in [serde_json::to_value(values), serde_json::to_value(common)] {
        if let Ok(Value::Object(part)) = part {
            body.extend(part);
        }
    }
    body.extend(unset.iter().map(|key| (key.replace('-', "_"), Value::Null)));
    Value::Object(body)
}

fn made(args: &AskArgs, request: ChangeRequest, console: &mut Console<'_>) -> Result<(), Failed> {
    let kind = request.kind.clone();
    ask(&args.client(), Request::Change(Box::new(request)), |answer| {
        let Answer::Changed(changed) = answer else { return Ok(()) };
        let Changed { resource, deleted, .. } = &*changed;
        match (args.output, resource) {
            (Format::Json, Some(resource)) => pretty(console, &resource.value()),
            (Format::Json, None) => pretty(console, &json!({ "deleted": deleted })),
            (Format::Table, Some(resource)) => {
                write!(console.out, "{}", details(&kind, &resource.value()))
            }
            (Format::Table, None) => deleted.iter().try_for_each(|id| writeln!(console.out, "deleted {id}")),
        }
    })?;
    Ok(())
}

fn show(args: &AskArgs, request: ResourcesRequest, console: &mut Console<'_>) -> Result<(), Failed> {
    let kind = request.kind.clone();
    ask(&args.client(), Request::Resources(request), |answer| {
        let Answer::Resource(resource) = answer else { return Ok(()) };
        match args.output {
            Format::Json => pretty(console, &resource),
            Format::Table => write!(console.out, "{}", details(&kind, &resource)),
        }
    })?;
    Ok(())
}

fn list(args: &AskArgs, request: ResourcesRequest, console: &mut Console<'_>) -> Result<(), Failed> {
    let columns = columns(&request.kind);
    let headings: Vec<String> =
        columns.iter().map(|column| column.replace('_', " ").to_uppercase()).collect();
    let mut table = Table::new(headings.iter().map(String::as_str));
    let end = ask(&args.client(), Request::Resources(request), |answer| {
        let Answer::Resource(resource) = answer else { return Ok(()) };
        if args.output == Format::Json {
            // One a line, as all lists.
            serde_json::to_writer(&mut *console.out, &resource)?;
            return writeln!(console.out);
        }
        table.row(columns.iter().map(|column| cell(resource.get(column))));
        Ok(())
    })?;
    if args.output == Format::Table {
        write!(console.out, "{table}")?;
    }
    if end.truncated {
        console.note(format_args!("there are more than these {}; go on with --after", end.count));
    }
    Ok(())
}

pub(super) fn pretty(console: &mut Console<'_>, value: &Value) -> std::io::Result<()> {
    serde_json::to_writer_pretty(&mut *console.out, value)?;
    writeln!(console.out)
}

pub(super) fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => items.iter().map(|item| cell(Some(item))).collect::<Vec<_>>().join(", "),
        Some(Value::Object(fields)) => {
            let fields: BTreeMap<_, _> = fields.iter().collect();
            let fields = fields.iter().map(|(key, value)| format!("{key}={}", cell(Some(value))));
            fields.collect::<Vec<_>>().join(", ")
        }
        Some(other) => other.to_string(),
    }
}

/// All values of one resource, those of its table's columns first.
fn details(kind: &str, resource: &Value) -> String {
    let mut lines = String::new();
    let Some(fields) = resource.as_object() else { return lines };
    let first = columns(kind).iter().copied().filter(|column| fields.contains_key(*column));
    let rest = fields.keys().map(String::as_str).filter(|key| !columns(kind).contains(key));
    let keys: Vec<&str> = first.chain(rest).collect();
    let width = keys.iter().map(|key| key.len()).max().unwrap_or(0);
    for key in keys {
        let label = key.replace('_', " ");
        // Writing to a String cannot fail.
        let _ = std::fmt::Write::write_fmt(
            &mut lines,
            format_args!("{label:<width$}  {}\n", cell(fields.get(key))),
        );
    }
    lines
}
