//! `tunnel`: the operator's command.

mod admin;
mod args;
mod connect;
mod demo;
mod settings;
mod ssh;
mod table;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Cli, Command};
use settings::Settings;

/// Like ssh's own helpers on errors of their own.
const EXIT_CONNECT: u8 = 255;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let server = cli.server;
    match cli.command {
        Command::Connect { host, port } => {
            let done =
                Settings::load(&server).and_then(|settings| connect::run(&settings, &host, port));
            finish(done, EXIT_CONNECT)
        }
        // Comes back only if ssh could not be run.
        Command::Ssh { node, rest } => finish(Err(ssh::exec(&server, &node, &rest)), EXIT_CONNECT),
        Command::Nodes(list) => finish(admin::nodes(&server, &list), 1),
        Command::Streams(list) => finish(admin::streams(&server, &list), 1),
        Command::Demo { replicas, cmd } => demo::run(replicas, &cmd),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "tunnel", &mut script);
            finish(table::print(&String::from_utf8_lossy(&script)), 1)
        }
        Command::Child { program } => finish(Err(demo::exec_child(&program)), 127),
    }
}

/// One line on stderr, and the exit status.
fn finish(result: Result<(), String>, failed: u8) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(line) => {
            if !line.is_empty() {
                eprintln!("tunnel: {line}");
            }
            ExitCode::from(failed)
        }
    }
}
