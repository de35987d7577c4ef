//! `tunnel`: the operator's command.

mod admin;
mod args;
mod connect;
mod demo;
mod install;
mod kube;
mod plugin;
mod settings;
mod ssh;
mod table;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use args::{Cli, Command, ServerArgs};
use plugin::Called;
use settings::Settings;
use tunnel_common::exit::{Exit, report};

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let mut command = Cli::command();
    match plugin::called(words.next().as_deref()) {
        Called::Tunnel => {}
        Called::Plugin => command = command.bin_name("kubectl tunnel"),
        Called::Complete => {
            let words: Vec<String> = words.map(|word| word.to_string_lossy().into()).collect();
            let done = table::print(&plugin::complete(&command, &words));
            return finish(done, Exit::Failed).into();
        }
    }
    let matches = command.get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let server = cli.server;
    let exit = match cli.command {
        Command::Connect { host, port } => {
            let done =
                Settings::load(&server).and_then(|settings| connect::run(&settings, &host, port));
            finish(done, Exit::Ssh)
        }
        // Comes back only if ssh could not be run.
        Command::Ssh { node, rest } => finish(Err(ssh::exec(&server, &node, &rest)), Exit::Ssh),
        Command::Nodes(list) => with_settings(&server, |settings| admin::nodes(settings, &list)),
        Command::Streams(list) => {
            with_settings(&server, |settings| admin::streams(settings, &list))
        }
        Command::Demo {
            replicas,
            torture,
            cmd,
        } => demo::run(replicas, torture, &cmd),
        Command::Install(install) => finish(install::run(&install), Exit::Failed),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "tunnel", &mut script);
            let done = table::print(&String::from_utf8_lossy(&script));
            finish(done, Exit::Failed)
        }
        Command::Child { program } => finish(
            Err(demo::exec_child(&program)),
            Exit::Passed(demo::NO_PROGRAM),
        ),
    };
    exit.into()
}

fn with_settings(server: &ServerArgs, run: impl FnOnce(&Settings) -> Result<(), String>) -> Exit {
    match Settings::load(server) {
        Ok(settings) => finish(run(&settings), Exit::Failed),
        Err(line) => finish(Err(line), Exit::Config),
    }
}

/// A line on stderr, if there is something to say, and the exit status.
fn finish(result: Result<(), String>, failed: Exit) -> Exit {
    match result {
        Ok(()) => Exit::Done,
        Err(line) => {
            report("tunnel", &line);
            failed
        }
    }
}
