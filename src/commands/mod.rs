//! One file a verb: arguments, library calls, printing.

mod cache;
mod check;
mod devices;
mod diff;
mod explain;
mod graph;
mod init;
mod log;
mod ls;
mod plan;
mod run;
mod schema;
mod shared;
mod status;

use clap::Parser as _;

use crate::{
    cli::{Cli, Command},
    error::{Error, exit, hint_of},
    exec,
};

/// Parses the command line, runs the verb, prints what went wrong; gives the exit code.
pub fn main() -> i32 {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return error.exit_code();
        }
    };
    match dispatch(&cli) {
        Ok(()) => exit::OK,
        Err(error) if is_broken_pipe(&error) => exit::OK,
        Err(error) => {
            match &error {
                // Diagnostics begin with `error:` themselves.
                Error::Recipe(text) => eprintln!("{text}"),
                error => eprintln!("error: {error}"),
            }
            if let Error::Usage(inner) | Error::Other(inner) = &error
                && let Some(hint) = hint_of(inner)
            {
                eprintln!("hint: {hint}");
            }
            error.exit_code()
        }
    }
}

fn dispatch(cli: &Cli) -> Result<(), Error> {
    if let Some(directory) = &cli.directory {
        std::env::set_current_dir(directory).map_err(|error| {
            Error::Usage(anyhow::anyhow!("cannot go to `{}`: {error}", directory.display()))
        })?;
    }
    match &cli.command {
        Command::Run(args) => run::run(cli, args),
        Command::Check(args) => check::run(cli, args),
        Command::Plan(args) => plan::run(cli, args),
        Command::Explain(args) => explain::run(cli, args),
        Command::Graph(args) => graph::run(args),
        Command::Log(args) => log::run(cli, args),
        Command::Status(args) => status::run(args),
        Command::Diff(args) => diff::run(cli, args),
        Command::Init(args) => init::run(args),
        Command::Devices(args) => devices::run(args),
        Command::Schema(args) => schema::run(args),
        Command::Ls(args) => ls::run(cli, args),
        Command::Cache(command) => cache::run(cli, command),
        Command::StepWorker => exec::serve().map_err(Error::Usage),
    }
}

/// `evergraft ... | head` is no failure.
fn is_broken_pipe(error: &Error) -> bool {
    let Error::Other(error) = error else { return false };
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
}
