//! The columns: how each is set up on loopback, with a line in its middle where one is asked for.

mod others;
mod ours;
mod ssh;

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tunnel_tests::Process;

use crate::Result;
use crate::args::Options;
use crate::column::{Column, Door};
use crate::delay;

pub(crate) use ours::{Ours, idle_node};

/// What stands between the two halves of a column.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Line {
    /// Added to every byte, each way; zero for no line at all.
    pub(crate) each_way: Duration,
}

impl Line {
    /// Nothing in between.
    pub(crate) const NONE: Self = Self {
        each_way: Duration::ZERO,
    };

    /// The address by which `to` is reached over this line.
    fn to(self, to: &str) -> Result<String> {
        if self.each_way.is_zero() {
            return Ok(to.to_owned());
        }
        delay::serve(to.to_owned(), self.each_way)
    }
}

/// Every column that was asked for and is there, in the table's order; ours with room for `idle` streams of one edge, or as it comes.
pub(crate) fn all(options: &Options, target: &str, line: Line, idle: usize) -> Result<Vec<Column>> {
    let mut columns = Vec::new();
    if options.wants("loopback") {
        columns.push(Column {
            name: "loopback",
            door: Door::Direct(line.to(target)?),
            ..Column::default()
        });
    }
    if options.wants("ours") {
        columns.push(Ours::start(target, line, idle)?.column()?);
    }
    if options.wants("small")
        && let Some(small) = Ours::start_small(target, line, idle)?
    {
        columns.push(small.column()?);
    }
    if options.wants("no-resume") {
        columns.push(Ours::start_without_resume(target, line)?.column()?);
    }
    if options.wants("relayed") {
        columns.push(Ours::start_relayed(target, line)?.column()?);
    }
    if options.wants("ssh") {
        columns.push(ssh::start(target, line)?);
    }
    for tool in others::TOOLS {
        if options.wants(tool.name)
            && let Some(column) = others::start(tool, target, line)?
        {
            columns.push(column);
        }
    }
    Ok(columns)
}

/// The column of one name alone, fresh.
pub(crate) fn fresh_ssh(target: &str) -> Result<Column> {
    ssh::start(target, Line::NONE)
}

/// A port that was free a moment ago.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Starts a program with its output in `dir/log`.
fn start(name: &str, dir: &Path, program: &Path, args: &[String]) -> Process {
    Process::start(name, dir, Command::new(program).args(args))
}

/// Waits until something accepts at an address.
fn wait_port(address: &str, process: &Process) -> Result<()> {
    let start = Instant::now();
    while TcpStream::connect(address).is_err() {
        if start.elapsed() > Duration::from_secs(10) {
            return Err(format!("nothing listens on {address}\n{}", process.log()).into());
        }
        // There is no event to wait for: it is another process that binds.
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A program on the PATH.
fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}
