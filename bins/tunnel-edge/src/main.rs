//! The tunnel-edge command.
mod args;
mod files;
mod install;
mod ready;
mod replace;
mod run;
mod runtime;
mod signals;

use std::process::ExitCode;

use clap::Parser;
use tunnel_common::config::{ConfigError, EdgeConfig};
use tunnel_common::exit::{Exit, report};

use args::{Cli, Command};
use replace::Predecessor;

const PROGRAM: &str = "tunnel-edge";

fn main() -> ExitCode {
    let cli = Cli::parse();
    let exit = match &cli.command {
        None | Some(Command::Run) if replace::is_starter() => Exit::Done,
        None | Some(Command::Run) => serve(&cli),
        Some(Command::Ready) => ask(&cli),
        Some(Command::Reload { pid }) => reload(*pid),
        Some(Command::Install(args)) => done(install::install(args, &cli.args)),
        Some(Command::Uninstall(args)) => done(install::uninstall(args)),
        #[cfg(feature = "runtime-tokio")]
        Some(Command::Completions { shell }) => {
            use clap::CommandFactory;
            clap_complete::generate(*shell, &mut Cli::command(), PROGRAM, &mut std::io::stdout());
            Exit::Done
        }
    };
    exit.into()
}

fn load(cli: &Cli) -> Result<EdgeConfig, ConfigError> {
    EdgeConfig::load(
        cli.args.common.config.as_deref(),
        &cli.args.overrides(),
        &|name: &str| std::env::var(name).ok(),
    )
}

fn ask(cli: &Cli) -> Exit {
    let config = match load(cli) {
        Ok(config) => config,
        Err(error) => return refuse(&error),
    };
    match ready::ask(&config.admin) {
        Ok(()) => Exit::Done,
        Err(error) => {
            report(PROGRAM, &error);
            Exit::Failed
        }
    }
}

fn done(result: Result<(), install::Refused>) -> Exit {
    match result {
        Ok(()) => Exit::Done,
        Err(refused) => {
            report(PROGRAM, &refused.why);
            refused.exit
        }
    }
}

fn reload(pid: i32) -> Exit {
    match replace::reload(pid) {
        Ok(exit) => exit,
        Err(error) => {
            report(PROGRAM, &error);
            Exit::Failed
        }
    }
}

fn serve(cli: &Cli) -> Exit {
    tunnel_common::tunables::apply();
    malloc_trim::keep_for_next();
    // Whatever ends this process tells the command that waits.
    let predecessor = Predecessor::of_this_process();
    let env = |name: &str| std::env::var(name).ok();
    let config = match load(cli) {
        Ok(config) => config,
        Err(error) => return refuse(&error),
    };
    if cli.args.common.check {
        return match files::check(&config) {
            Ok(()) => Exit::Done,
            Err(error) => refuse(&error),
        };
    }
    if let Err(error) = tunnel_common::log::init(&config.log, &env) {
        return refuse(&error);
    }
    match run::run(config, cli, predecessor, &env) {
        Ok(exit) => exit,
        Err(run::Error::Config(error)) => refuse(&error),
        Err(run::Error::Failed(error)) => {
            report(PROGRAM, &error);
            Exit::Failed
        }
    }
}

fn refuse(error: &ConfigError) -> Exit {
    report(PROGRAM, error);
    Exit::Config
}
