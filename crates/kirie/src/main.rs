//! The command line of kirie: parse, plan, run. What it does lives in the crates below; here is how it is asked for
//! and how it answers.
//!
//! Exit codes: 0 done, 1 failed or some inputs failed (each is named), 2 wrong usage.

mod args;
mod commands;
mod device;
mod domains;
mod inputs;
mod outputs;
mod prompts;
mod report;
mod semantic;
mod study;
mod weights;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use report::Failure;

fn main() -> ExitCode {
    // clap prints its own message and leaves with 2 when the line cannot be parsed.
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Segment(args) => commands::segment::run(*args),
        Command::Embed(args) => commands::embed::run(&args),
        Command::Models(args) => commands::models::run(args),
        Command::Data(args) => commands::data::run(args),
        Command::Adapters(args) => commands::adapters::run(args),
        Command::Train(args) => commands::train::run(args),
        Command::Evaluate(args) => commands::evaluate::run(args),
        Command::Export(args) => commands::export::run(args),
        Command::Bench(args) => commands::bench::run(&args),
        Command::Serve(args) => commands::serve::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A reader that closes its end has had enough; that is no failure.
            if report::is_broken_pipe(&error) {
                return ExitCode::SUCCESS;
            }
            report::error(&error);
            match error.downcast_ref::<Failure>() {
                Some(Failure::Usage(_)) => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            }
        }
    }
}
