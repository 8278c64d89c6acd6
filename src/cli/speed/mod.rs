//! `natgate speed`: what is to be measured, one after the other. The measuring is [`crate::speed`]'s, the look of its
//! results [`render`]'s.

mod render;

use std::io;

use super::args::SpeedArgs;
use super::{Console, Exit};
use crate::speed::{Outcome, Plan, Scenario, floor, reference, run};

/// What measures.
type Measure<'a> = &'a mut dyn FnMut(&Plan) -> io::Result<Outcome>;
/// What measures the floor: for a number of lines and of seconds.
type MeasureFloor<'a> = &'a mut dyn FnMut(usize, f64) -> io::Result<f64>;

/// Why it did not end well.
enum Failed {
    Measure(io::Error),
    Print(io::Error),
}

/// Measures what is asked for and prints it.
pub fn execute(args: &SpeedArgs, console: &mut Console<'_>) -> Exit {
    execute_with(args, console, &mut run, &mut floor::run)
}

fn execute_with(
    args: &SpeedArgs,
    console: &mut Console<'_>,
    measure: Measure<'_>,
    floor: MeasureFloor<'_>,
) -> Exit {
    let result = if args.table { table(args, console, measure, floor) } else { list(args, console, measure) };
    match result.and_then(|()| console.out.flush().map_err(Failed::Print)) {
        Ok(()) => Exit::Success,
        Err(Failed::Print(error)) => console.broken(&error),
        Err(Failed::Measure(error)) => {
            console.error(&error, None);
            if error.kind() == io::ErrorKind::InvalidInput { Exit::Input } else { Exit::Failure }
        }
    }
}

fn scenarios(args: &SpeedArgs) -> Vec<Scenario> {
    if args.scenario.is_empty() { Scenario::ALL.to_vec() } else { args.scenario.clone() }
}

fn plan(args: &SpeedArgs, scenario: Scenario) -> Plan {
    Plan {
        scenario,
        sessions: args.sessions as usize,
        entries: args.entries as usize,
        packet_bytes: usize::from(args.packet_size),
        batch: usize::from(args.batch),
        workers: usize::from(args.workers),
        seconds: args.seconds,
        stages: args.stages,
        ..Plan::default()
    }
}

/// A line a scenario; with several workers, one worker's line before theirs, for the scaling.
fn list(args: &SpeedArgs, console: &mut Console<'_>, measure: Measure<'_>) -> Result<(), Failed> {
    let mut misses = true;
    if !args.json {
        console.out.write_all(render::heading(args.stages).as_bytes()).map_err(Failed::Print)?;
    }
    for scenario in scenarios(args) {
        let plan = plan(args, scenario);
        if args.json {
            let outcome = measure(&plan).map_err(Failed::Measure)?;
            json(console, &outcome)?;
            continue;
        }
        let mut alone = None;
        if plan.workers > 1 {
            let outcome = measure(&Plan { workers: 1, ..plan.clone() }).map_err(Failed::Measure)?;
            show(console, &render::line(&outcome, None))?;
            alone = Some(outcome.measured.mpps);
        }
        let outcome = measure(&plan).map_err(Failed::Measure)?;
        misses &= outcome.misses.is_some();
        show(console, &render::line(&outcome, alone))?;
    }
    if !args.json {
        show(console, render::notes(misses))?;
    }
    Ok(())
}

/// The table of the project's aims, with this machine's numbers.
fn table(
    args: &SpeedArgs,
    console: &mut Console<'_>,
    measure: Measure<'_>,
    floor: MeasureFloor<'_>,
) -> Result<(), Failed> {
    if !args.json {
        show(console, &render::table_heading())?;
    }
    let mut largest = None;
    for row in &reference::ROWS {
        let mut outcomes = Vec::new();
        for &scenario in row.scenarios() {
            let plan = Plan {
                scenario,
                sessions: row.sessions,
                batch: row.batch,
                seconds: args.seconds,
                ..Plan::default()
            };
            let outcome = match measure(&plan) {
                // A machine without memory for the largest tables has the other rows all the same.
                Err(error) if error.kind() == io::ErrorKind::OutOfMemory => {
                    console.note(format_args!("{}: {}: {error}", row.name, scenario.name()));
                    None
                }
                outcome => Some(outcome.map_err(Failed::Measure)?),
            };
            if args.json {
                outcome.iter().try_for_each(|outcome| json(console, outcome))?;
            }
            outcomes.push(outcome.map(|outcome| outcome.measured));
        }
        if let (false, Some(Some(measured))) = (row.is_new, outcomes.first())
            && row.sessions >= 1_000_000
        {
            largest = Some(measured.bytes_per_session);
        }
        if !args.json {
            let floor = row.floor.map(|_| floor(row.sessions, args.seconds)).transpose();
            show(console, &render::table_row(row, &outcomes, floor.map_err(Failed::Measure)?))?;
        }
    }
    if !args.json {
        show(console, &render::table_end(largest))?;
    }
    Ok(())
}

fn json(console: &mut Console<'_>, outcome: &Outcome) -> Result<(), Failed> {
    let line = serde_json::to_string(&outcome.measured).map_err(|error| Failed::Print(error.into()))?;
    show(console, &(line + "\n"))
}

/// Prints what was measured as soon as it is known.
fn show(console: &mut Console<'_>, text: &str) -> Result<(), Failed> {
    console.out.write_all(text.as_bytes()).and_then(|()| console.out.flush()).map_err(Failed::Print)
}

#[cfg(test)]
mod tests;
