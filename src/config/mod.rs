//! The configuration: a TOML file becomes a validated [`Model`], and a model becomes the snapshot that workers read.
//!
//! ```text
//! text --document, file--> tables with places --validate--> Model --Compiler--> Snapshot
//! ```
//!
//! Every fault of a file is reported at once ([`Errors`]), each with its line, key, value, rule and a hint. The file is
//! the whole truth: a reload adds, changes and removes until the gateway is what the file says ([`diff`] tells what that
//! is). What only a restart can change is refused by [`check_reload`].

pub(crate) mod allocation;
mod compile;
mod diff;
mod directory;
mod document;
mod error;
mod file;
mod model;
pub mod reference;
mod reload;
mod settings;
pub mod units;
pub(crate) mod validate;
pub(crate) mod values;
mod words;

#[cfg(test)]
mod tests;

use std::path::Path;

pub use compile::{Compiler, PortFacts, host_of};
pub use diff::{Action, Change, Difference, diff};
pub use directory::{Directory, EntryInfo, EntryKind};
pub use document::Problem;
pub use error::{Code, Conflict, Error, Errors};
pub use model::{
    Backend, Dnat, Effect, Eip, Forward, Gateway, Link, Model, Outside, Plan, Port, SegmentSize, Snat,
    Source, Specification, StaticRoute, Transport, VSwitch, Vpc,
};
pub use reload::check_reload;
pub use settings::{
    Api, Collector, Dpdk, Hugepages, Idle, Metering, Quotas, Rss, SessionLog, System, TimeoutOverrides,
    WorkerFailure, Workers,
};
pub use words::{Description, Name, Vlan};

use document::{Document, Table};

/// Reads and validates a file.
///
/// # Errors
/// All that is wrong with it.
pub fn load(path: &Path) -> Result<Model, Errors> {
    let file = path.display().to_string();
    let unreadable = |hint: String| Error {
        code: Code::Unreadable,
        file: file.clone(),
        line: None,
        key: String::new(),
        value: None,
        rule: Code::Unreadable.rule().to_owned(),
        conflict: None,
        hint: Some(hint),
    };
    let bytes = std::fs::read(path).map_err(|error| unreadable(error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|error| unreadable(error.to_string()))?;
    parse(&text, &file)
}

/// Validates the text of a file. `file` is what errors call it.
///
/// # Errors
/// All that is wrong with it.
pub fn parse(text: &str, file: &str) -> Result<Model, Errors> {
    let document = Document::new(text, file);
    let model = read(&document);
    document.finish()?;
    // Without an error there is a model; the type does not say so.
    model.ok_or_else(|| {
        Error {
            code: Code::Unreadable,
            file: file.to_owned(),
            line: None,
            key: String::new(),
            value: None,
            rule: "internal fault: the file was refused without a reason".to_owned(),
            conflict: None,
            hint: None,
        }
        .into()
    })
}

fn read(document: &Document<'_>) -> Option<Model> {
    let tree = document.tree()?;
    let root = Table::root(document, tree.get_ref(), &reference::ROOT);
    validate::validate(document, &file::File::read(root))
}
