//! `natgate top`: what happens at the moment, again and again on a terminal, or as plain text.

mod screen;
mod view;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::base::Moment;
use crate::base::time::Clock;
use crate::cli::Console;
use crate::cli::args::{ClientArgs, seconds};
use crate::cli::ask::{Failed, ask};
use crate::control::protocol::{Answer, Request, Stats, Status, Usage, UsageBy, UsageRequest};
use screen::{Key, Screen};

/// Arguments of `top`.
#[derive(Clone, Debug, Args)]
pub struct TopArgs {
    /// Seconds between two looks, over which rates are.
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    pub interval: f64,
    /// Show so many times, then end; otherwise until q on a terminal, and once elsewhere.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Show once as plain text, also on a terminal.
    #[arg(long, conflicts_with = "count")]
    pub once: bool,
    /// What the last table is of; on a terminal the keys g, e, n and h change it.
    #[arg(long, value_enum, default_value_t = UsageBy::Host)]
    pub by: UsageBy,
    /// Lines of that table.
    #[arg(long, value_name = "NUMBER", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub limit: u64,
    /// The management socket of the gateway.
    #[arg(long, value_name = "PATH", env = "NATGATE_SOCKET", default_value = "/run/natgate/natgate.sock")]
    pub socket: PathBuf,
}

/// What a gateway says of itself at one moment.
#[derive(Debug)]
struct Sample {
    at: Moment,
    status: Status,
    stats: Stats,
    usage: Vec<Usage>,
}

impl Sample {
    fn take(args: &TopArgs, by: UsageBy, clock: Clock) -> Result<Self, Failed> {
        let client = ClientArgs { socket: args.socket.clone(), json: false };
        let (mut status, mut stats, mut usage) = (Status::default(), Stats::default(), Vec::new());
        let of_usage = UsageRequest { by: Some(by), limit: Some(args.limit) };
        let at = clock.now();
        for request in [Request::Status, Request::Stats, Request::Usage(of_usage)] {
            ask(&client, request, |answer| {
                match answer {
                    Answer::Status(answer) => status = *answer,
                    Answer::Stats(answer) => stats = *answer,
                    Answer::Usage(answer) => usage.push(*answer),
                    _ => {}
                }
                Ok(())
            })?;
        }
        Ok(Self { at, status, stats, usage })
    }
}

/// Shows what happens.
pub(super) fn execute(args: &TopArgs, console: &mut Console<'_>) -> Result<(), Failed> {
    let is_terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    if args.once || !is_terminal { plain(args, console) } else { live(args, console) }
}

/// One text after the other.
fn plain(args: &TopArgs, console: &mut Console<'_>) -> Result<(), Failed> {
    let clock = Clock::start();
    let mut before = Sample::take(args, args.by, clock)?;
    for time in 0..args.count.unwrap_or(1) {
        std::thread::sleep(Duration::from_secs_f64(args.interval));
        let now = Sample::take(args, args.by, clock)?;
        if time > 0 {
            writeln!(console.out)?;
        }
        console.out.write_all(view::text(&now, &before, args.by).as_bytes())?;
        console.out.flush()?;
        before = now;
    }
    Ok(())
}

/// On the whole terminal, which is as it was when this returns.
fn live(args: &TopArgs, console: &mut Console<'_>) -> Result<(), Failed> {
    let clock = Clock::start();
    let mut by = args.by;
    // A gateway that is not there is said before the terminal changes.
    let mut before = Sample::take(args, by, clock)?;
    let mut screen = Screen::open(console.out)?;
    let mut times = 0;
    let mut now = None;
    loop {
        screen.draw(&match &now {
            Some(now) => view::text(now, &before, by) + view::KEYS,
            None => format!("natgate: rates come in {} s\n", args.interval),
        })?;
        if args.count.is_some_and(|count| times >= count) {
            return Ok(());
        }
        match screen.key(before_next(clock.now().since(now.as_ref().unwrap_or(&before).at), args.interval))? {
            Some(Key::Quit) => return Ok(()),
            Some(Key::By(other)) => {
                by = other;
                now = None;
                before = Sample::take(args, by, clock)?;
            }
            Some(Key::Other) => {}
            None => {
                let next = Sample::take(args, by, clock)?;
                if let Some(now) = now.replace(next) {
                    before = now;
                }
                times += 1;
            }
        }
    }
}

/// The time until the next look.
fn before_next(passed: Duration, interval: f64) -> Duration {
    Duration::from_secs_f64(interval).saturating_sub(passed)
}
