//! The rules and the dashboard in `scripts/monitoring` speak of metrics that there are.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::common;
use natgate::control::metrics::{self, Metric};

/// Names of natgate's metrics in a text.
fn names(text: &str) -> BTreeSet<&str> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !word(c)).filter(|part| part.starts_with("natgate_")).collect()
}

#[test]
fn rules_and_dashboard_name_metrics_that_exist() {
    let table = metrics::table();
    let known: BTreeSet<_> = table.iter().map(|metric| metric.name).collect();
    for file in ["alerts.yml", "grafana-dashboard.json"] {
        let text = common::read(&format!("scripts/monitoring/{file}"));
        let used = names(&text);
        assert!(used.len() > 5, "{file}: {used:?}");
        let unknown: Vec<_> = used.difference(&known).collect();
        assert!(unknown.is_empty(), "{file} names {unknown:?}");
    }
}

#[test]
fn the_table_of_metrics_is_the_codes() {
    let mut text = String::from("| metric | kind | labels | meaning |\n| --- | --- | --- | --- |\n");
    for Metric { name, kind, labels, help } in metrics::table() {
        let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
        let _ = writeln!(text, "| `{name}` | {kind} | {} | {help} |", labels.join(", "));
    }
    common::assert_generated("scripts/monitoring/README.md", "metrics", &text);
}
