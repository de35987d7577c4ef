//! The tunnel-edge command.
mod args;
mod files;
mod ready;
mod run;
mod runtime;
mod signals;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use tunnel_common::config::{ConfigError, EdgeConfig};
use tunnel_common::exit::{Exit, report};

use args::{Cli, Command};

const PROGRAM: &str = "tunnel-edge";

fn main() -> ExitCode {
    let cli = Cli::parse();
    let exit = match &cli.command {
        None | Some(Command::Run) => serve(&cli),
        Some(Command::Ready) => ask(&cli),
        Some(Command::Completions { shell }) => {
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

fn serve(cli: &Cli) -> Exit {
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
    match run::run(config, cli, &env) {
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
