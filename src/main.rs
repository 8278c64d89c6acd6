//! The `natgate` binary.

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use clap::Parser;
use natgate::cli::{self, Cli, Command, Console, Exit};
use natgate::daemon;

fn main() -> ExitCode {
    if let Err(lack) = cli::processor::check() {
        eprintln!("natgate: {lack}");
        return Exit::Failure.into();
    }
    let Cli { command } = Cli::parse();
    let mut out = BufWriter::new(io::stdout().lock());
    // Not locked: the log writes there too.
    let mut console = Console { out: &mut out, err: &mut io::stderr() };
    let exit = match &command {
        Command::Run(args) => match daemon::run(&args.config) {
            Ok(()) => Exit::Success,
            Err(error) => {
                console.error(&error, None);
                if error.is_input() { Exit::Input } else { Exit::Failure }
            }
        },
        command => cli::execute(command, &mut console),
    };
    // What could not be printed was said already.
    let _ = out.flush();
    exit.into()
}
