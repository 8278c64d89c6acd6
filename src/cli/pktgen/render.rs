//! Trials as lines, printed one by one as they end, so columns have fixed widths.

use crate::cli::output::{Align, line};
use crate::pktgen::trial::Trial;
use crate::pktgen::{Found, Traffic};

const HEADINGS: [&str; 10] =
    ["OFFERED/S", "SENT/S", "RECEIVED/S", "GBIT/S", "LOST", "LOSS", "P50", "P99", "P99.9", "MAX"];
const WIDTHS: [usize; 10] = [11, 11, 11, 8, 10, 10, 8, 8, 8, 8];

fn row(cells: &[String; 10]) -> String {
    line(cells.iter().map(String::as_str), &WIDTHS, &[Align::Right; 10]) + "\n"
}

/// Between which ports, and the headings.
pub fn heading(modes: &[String; 2], traffic: &Traffic) -> String {
    let ways = if traffic.both_ways { " and back; latency is that of the round trip" } else { "" };
    format!(
        "{} flows from {} to {}{ways}\n{}",
        traffic.flows.flows,
        modes[0],
        modes[1],
        row(&HEADINGS.map(String::from))
    )
}

/// One trial.
pub fn trial(trial: &Trial) -> String {
    let latency = trial.round_trip_ns.as_ref().unwrap_or(&trial.latency_ns);
    let lost = (trial.sent + trial.returned).saturating_sub(trial.received + trial.back);
    row(&[
        trial.offered_pps.map_or_else(|| "max".into(), |rate| format!("{rate:.0}")),
        format!("{:.0}", trial.sent_pps),
        format!("{:.0}", trial.received_pps),
        format!("{:.3}", trial.gbps),
        lost.to_string(),
        format!("{:.4} %", trial.loss * 100.0),
        time(latency.p50),
        time(latency.p99),
        time(latency.p999),
        time(latency.max),
    ])
}

/// What must be known to judge a trial.
pub fn notes(trial: &Trial) -> String {
    let mut notes = String::new();
    if trial.missed > 0 {
        notes +=
            "note: the generator itself missed frames: not all that was lost was lost by the tested device\n";
    }
    if trial.offered_pps.is_some_and(|rate| trial.sent_pps < rate * 0.99) {
        notes += "note: the generator could not send as fast as it was asked to\n";
    }
    notes
}

/// The end of a search.
pub fn found(found: &Found, loss: f64) -> String {
    let allowed =
        if loss > 0.0 { format!("with a loss of at most {} %", loss * 100.0) } else { "without loss".into() };
    let Some(rate) = found.rate_pps else { return format!("no rate {allowed}\n") };
    let limit = if found.sender_was_the_limit { " (the generator was not faster)" } else { "" };
    format!("highest rate {allowed}: {rate:.0} packets a second{limit}\n")
}

/// A time with three digits.
fn time(nanos: u64) -> String {
    let (value, unit) = match nanos {
        0..1000 => return format!("{nanos} ns"),
        1000..1_000_000 => (nanos as f64 / 1e3, "us"),
        1_000_000..1_000_000_000 => (nanos as f64 / 1e6, "ms"),
        _ => (nanos as f64 / 1e9, "s"),
    };
    if value < 10.0 { format!("{value:.2} {unit}") } else { format!("{value:.0} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pktgen::trial::Latency;

    #[test]
    fn times_are_short() {
        let times = [0, 999, 1000, 12_345, 999_499, 5_000_000, 2_500_000_000].map(time);
        assert_eq!(times, ["0 ns", "999 ns", "1.00 us", "12 us", "999 us", "5.00 ms", "2.50 s"]);
    }

    #[test]
    fn a_trial_is_a_line_and_a_search_has_a_last_one() {
        let latency =
            Latency { min: 900, mean: 5e3, p50: 4000, p90: 8000, p99: 20_000, p999: 1_500_000, max: 7 };
        let result = Trial {
            offered_pps: Some(1e6),
            sent: 1_000_000,
            received: 999_000,
            loss: 0.001,
            sent_pps: 900_000.0,
            received_pps: 899_100.0,
            gbps: 0.46,
            missed: 1,
            latency_ns: latency,
            ..Trial::default()
        };
        let mut text = row(&HEADINGS.map(String::from)) + &trial(&result) + &notes(&result);
        let mut search = Found { rate_pps: Some(5e5), sender_was_the_limit: true, trials: Vec::new() };
        text += &found(&search, 0.0);
        search.sender_was_the_limit = false;
        text += &found(&search, 0.001);
        search.rate_pps = None;
        text += &found(&search, 0.0);
        insta::assert_snapshot!(text);
    }
}
