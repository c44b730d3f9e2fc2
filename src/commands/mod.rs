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

#[cfg(all(feature = "libtorch", unix))]
use crate::env;
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
    #[cfg(all(feature = "libtorch", unix))]
    if matches!(cli.command, Command::Run(_)) {
        wait_passively();
    }
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

/// LibTorch's threads spin while they wait for each other. Beside other work, be it another step or
/// another program, that is many times slower than sleeping (seen: three training steps in 25 s
/// instead of more than 340 s). Alone, sleeping at once costs a sixth of the speed, so they spin a
/// moment first. Both are read when the library is loaded, so the program starts anew.
#[cfg(all(feature = "libtorch", unix))]
fn wait_passively() {
    use std::os::unix::process::CommandExt as _;
    if std::env::var_os(env::OMP_WAIT_POLICY).is_some() {
        return;
    }
    if let Ok(program) = std::env::current_exe() {
        let mut again = std::process::Command::new(program);
        // Comes back only where it fails; then the program goes on as it is.
        again.args(std::env::args_os().skip(1)).env(env::OMP_WAIT_POLICY, "passive");
        if std::env::var_os(env::GOMP_SPINCOUNT).is_none() {
            again.env(env::GOMP_SPINCOUNT, "30000");
        }
        let _ = again.exec();
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
