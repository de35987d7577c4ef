//! The tunnel-cloud command.
mod args;
mod certificates;
mod directory;
mod drain;
mod files;
mod judge;
mod kubernetes;
mod registry;
mod run;

use std::io::{BufRead, Write};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory, Parser};
use runtime_tokio::metrics::Metrics;
use tunnel_common::config::{CloudConfig, ConfigError};
use tunnel_common::exit::{Exit, report};
use tunnel_common::users::hash_password;

use args::{Cli, Command};

const PROGRAM: &str = "tunnel-cloud";

fn main() -> ExitCode {
    let cli = Cli::parse();
    let exit = match &cli.command {
        None | Some(Command::Run) => serve(&cli),
        Some(Command::Drain) => ask_to_drain(&cli),
        Some(Command::HashPassword) => print_hash(),
        Some(Command::Certificates { secret, names }) => make_certificates(&cli, secret, names),
        Some(Command::Completions { shell }) => {
            clap_complete::generate(*shell, &mut Cli::command(), PROGRAM, &mut std::io::stdout());
            Exit::Done
        }
    };
    exit.into()
}

fn load(cli: &Cli) -> Result<CloudConfig, ConfigError> {
    CloudConfig::load(
        cli.args.common.config.as_deref(),
        &cli.args.overrides(),
        &|name: &str| std::env::var(name).ok(),
    )
}

fn ask_to_drain(cli: &Cli) -> Exit {
    let admin = match load(cli) {
        Ok(config) => config.admin.listen,
        Err(error) => return refuse(&error),
    };
    let asked = match admin {
        Some(admin) => drain::run(admin),
        None => Err(std::io::Error::other(
            "the replica has no admin listener (admin.listen): end it with SIGTERM, which drains it too",
        )),
    };
    match asked {
        Ok(()) => Exit::Done,
        Err(error) => {
            report(PROGRAM, &error);
            Exit::Failed
        }
    }
}

fn make_certificates(cli: &Cli, secret: &str, names: &[String]) -> Exit {
    let config = match load(cli) {
        Ok(config) => config,
        Err(error) => return refuse(&error),
    };
    let wanted = certificates::Wanted {
        namespace: config.registry.namespace.clone(),
        secret: secret.to_owned(),
        names: names.to_vec(),
    };
    let kubernetes =
        match kubernetes::Kubernetes::connect(&config, &Arc::new(Metrics::new("cloud"))) {
            Ok(kubernetes) => kubernetes,
            Err(error) => return refuse(&error),
        };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let made = runtime
        .map_err(Into::into)
        .and_then(|runtime| runtime.block_on(certificates::make(&kubernetes.client, &wanted)));
    match made {
        Ok(done) => {
            let _ = writeln!(std::io::stdout(), "{done}");
            Exit::Done
        }
        Err(error) => {
            report(PROGRAM, &error);
            Exit::Failed
        }
    }
}

fn serve(cli: &Cli) -> Exit {
    tunnel_common::tunables::apply();
    malloc_trim::keep_for_next();
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
    match run::run(config, &env) {
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

fn print_hash() -> Exit {
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    let password = line.trim_end_matches(['\r', '\n']);
    let hash = match read {
        Ok(_) if password.is_empty() => Err("no password came by standard input".to_owned()),
        Ok(_) => {
            hash_password(password).ok_or_else(|| "the system gives no random bytes".to_owned())
        }
        Err(error) => Err(error.to_string()),
    };
    match hash {
        Ok(hash) => {
            let _ = writeln!(std::io::stdout(), "{hash}");
            Exit::Done
        }
        Err(error) => {
            report(PROGRAM, &error);
            Exit::Failed
        }
    }
}
