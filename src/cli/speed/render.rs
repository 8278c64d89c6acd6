//! What was measured, as lines and tables. Lines are printed one by one as they become known, so columns have fixed widths.

use std::fmt::Write as _;

use crate::cli::output::{Align, line as columns};
use crate::nat::stage::Stage;
use crate::speed::reference::{BYTES_PER_SESSION, Row, SOURCE};
use crate::speed::{Measured, Outcome};

const HEADINGS: [&str; 11] = [
    "SCENARIO",
    "SESSIONS",
    "BYTES",
    "BATCH",
    "WORKERS",
    "MPPS",
    "GBIT/S",
    "CYCLES/PKT",
    "NS/PKT",
    "BYTES/SESSION",
    "MISSES/PKT",
];
const WIDTHS: [usize; 11] = [11, 10, 5, 5, 7, 8, 8, 10, 8, 13, 10];

/// One line of cells: the first to the left, the numbers to the right.
fn cells(cells: &[String], widths: &[usize]) -> String {
    let mut align = vec![Align::Right; cells.len()];
    align[0] = Align::Left;
    columns(cells.iter().map(String::as_str), widths, &align) + "\n"
}

/// The headings over [`line`].
pub fn heading(stages: bool) -> String {
    let mut names: Vec<String> = HEADINGS.map(String::from).to_vec();
    let mut widths = WIDTHS.to_vec();
    if stages {
        names.extend(Stage::ALL.map(|stage| stage.name().to_uppercase()));
        widths.extend([8; Stage::ALL.len()]);
    }
    cells(&names, &widths)
}

/// One measurement; `alone` is what one worker carries, if there are several.
pub fn line(outcome: &Outcome, alone: Option<f64>) -> String {
    let m = &outcome.measured;
    let mut values = vec![
        m.scenario.to_owned(),
        m.sessions.to_string(),
        m.packet_bytes.to_string(),
        m.batch.to_string(),
        m.workers.to_string(),
        format!("{:.2}", m.mpps),
        format!("{:.2}", m.gbps),
        cycles(m),
        format!("{:.1}", m.ns_per_packet),
        format!("{:.0}", m.bytes_per_session),
        outcome.misses.map_or_else(|| "-".into(), |misses| format!("{misses:.2}")),
    ];
    let mut widths = WIDTHS.to_vec();
    if let Some(stages) = outcome.stages {
        // In the unit of the whole: cycles, or nanoseconds where the counter's rate is not known.
        let unit = if m.cycles_per_packet > 0.0 { m.cycles_per_packet / m.ns_per_packet } else { 1.0 };
        values.extend(stages.map(|nanos| format!("{:.1}", nanos * unit)));
        widths.extend([8; Stage::ALL.len()]);
    }
    let mut text = cells(&values, &widths);
    if let Some(alone) = alone.filter(|alone| *alone > 0.0) {
        let factor = m.mpps / alone;
        let _ = writeln!(text, "{:11}  {} workers carry {factor:.2} times what one does", "", m.workers);
    }
    text
}

/// What is to be said under the lines.
pub fn notes(misses_were_counted: bool) -> &'static str {
    if misses_were_counted {
        "Cycles are those of the time stamp counter.\n"
    } else {
        "Cycles are those of the time stamp counter. Cache misses are not counted here: the machine has no counter for \
         them, or the kernel (kernel.perf_event_paranoid) keeps it to itself.\n"
    }
}

fn cycles(m: &Measured) -> String {
    if m.cycles_per_packet > 0.0 { format!("{:.1}", m.cycles_per_packet) } else { "-".into() }
}

const TABLE: [&str; 9] = [
    "CYCLES A PACKET",
    "SNAT HERE",
    "DNAT HERE",
    "FLOOR HERE",
    "VPP SNAT*",
    "VPP DNAT*",
    "VPP ROUTE*",
    "FLOOR*",
    "WANTED/AIM",
];
const TABLE_WIDTHS: [usize; 9] = [34, 10, 10, 10, 10, 10, 10, 10, 10];

/// The headings of the table.
pub fn table_heading() -> String {
    cells(&TABLE.map(String::from), &TABLE_WIDTHS)
}

/// One row: what was measured in the order of the row's scenarios, and the floor.
pub fn table_row(row: &Row, measured: &[Option<Measured>], floor: Option<f64>) -> String {
    let here = |n: usize| match measured.get(n) {
        Some(Some(measured)) => cycles(measured),
        _ => "-".into(),
    };
    let vpp = row.vpp.map(|cycles| cycles.map_or_else(|| "-".into(), |cycles| cycles.to_string()));
    let [snat, dnat, route] = vpp;
    let decimal = |cycles: Option<f64>| cycles.map_or_else(|| "-".into(), |cycles| format!("{cycles:.1}"));
    let wanted = format!("{} / {}", row.wanted.0, row.wanted.1);
    let floors = (decimal(floor), decimal(row.floor));
    cells(&[row.name.into(), here(0), here(1), floors.0, snat, dnat, route, floors.1, wanted], &TABLE_WIDTHS)
}

/// What ends the table; `bytes` is the memory of a session in a large table.
pub fn table_end(bytes: Option<f64>) -> String {
    let (vpp, (wanted, aim)) = BYTES_PER_SESSION;
    let here = bytes.map_or_else(|| "-".into(), |bytes| format!("{bytes:.0}"));
    let none = || "-".to_owned();
    let memory = [
        "bytes a session, all included".into(),
        here,
        none(),
        none(),
        format!("~{vpp}"),
        none(),
        none(),
        none(),
        format!("{wanted} / {aim}"),
    ];
    format!("{}* {SOURCE}.\n", cells(&memory, &TABLE_WIDTHS))
}
