//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use crate::Result;

/// What `--help` prints.
pub(crate) const USAGE: &str = "\
Usage: bench/run [--quick] [--rounds N] [--columns LIST] [--json FILE] [SCENARIO…]

Scenarios (all by default): bulk, rtt, connect, delay, memory, edge
  --quick         two short rounds and 100 instead of 1,000 for memory: does it work, not how well
  --rounds N      interleaved rounds, of which the table shows the median (default 5)
  --columns LIST  of loopback,ours,small,ssh,frp,chisel,rathole (default: all that are there), and of what is there to be
                  compared with ours: no-resume (streams.resume = false at both ends), relayed (by way of a second replica)
  --json FILE     where the figures go as JSON (default target/bench.json)
Exit status: 0 if every target that was measured is met, 1 if not, 2 for a mistake on the command line.
";

/// The scenarios by name, in the order in which they run.
const SCENARIOS: [&str; 6] = ["bulk", "rtt", "connect", "delay", "memory", "edge"];

/// The columns by name, in the order in which they are printed.
pub(crate) const COLUMNS: [&str; 9] = [
    "loopback",
    "ours",
    "small",
    "no-resume",
    "relayed",
    "ssh",
    "frp",
    "chisel",
    "rathole",
];

/// Those that run only if they are named.
const ON_REQUEST: [&str; 2] = ["no-resume", "relayed"];

/// What to run.
#[derive(Debug)]
pub(crate) struct Options {
    /// Interleaved rounds.
    pub(crate) rounds: usize,
    /// How long one bulk copy is measured.
    pub(crate) window: Duration,
    /// Round trips and dials of one measurement.
    pub(crate) tries: usize,
    /// Idle edges and idle streams of the memory and the edge scenario.
    pub(crate) idle: usize,
    /// How long the edge scenario watches an edge at rest.
    pub(crate) rest: Duration,
    /// Columns asked for; empty means all that are there.
    pub(crate) columns: Vec<String>,
    /// Scenarios asked for.
    pub(crate) scenarios: Vec<String>,
    /// Where the JSON goes.
    pub(crate) json: Option<PathBuf>,
}

impl Options {
    /// Reads the arguments; `None` if help was asked for.
    pub(crate) fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Self>> {
        let mut options = Self {
            rounds: 5,
            window: Duration::from_millis(2000),
            tries: 2000,
            idle: 1000,
            rest: Duration::from_secs(30),
            columns: Vec::new(),
            scenarios: Vec::new(),
            json: std::env::var_os("BENCH_JSON").map(PathBuf::from),
        };
        let mut rounds = None;
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} needs a value"));
            match arg.as_str() {
                "-h" | "--help" => return Ok(None),
                "--quick" => {
                    options.rounds = 2;
                    options.window = Duration::from_millis(600);
                    options.tries = 300;
                    options.idle = 100;
                    options.rest = Duration::from_secs(10);
                }
                "--rounds" => {
                    rounds = Some(value()?.parse().map_err(|_| "--rounds: not a number")?)
                }
                "--columns" => options.columns = value()?.split(',').map(str::to_owned).collect(),
                "--json" => options.json = Some(value()?.into()),
                name if SCENARIOS.contains(&name) => options.scenarios.push(arg),
                _ => return Err(format!("unknown argument {arg}").into()),
            }
        }
        if let Some(name) = options
            .columns
            .iter()
            .find(|name| !COLUMNS.contains(&name.as_str()))
        {
            return Err(format!("unknown column {name}").into());
        }
        options.rounds = rounds.unwrap_or(options.rounds).max(1);
        if options.scenarios.is_empty() {
            options.scenarios = SCENARIOS.map(str::to_owned).to_vec();
        }
        Ok(Some(options))
    }

    /// Whether a column was asked for by name, or by not naming any.
    pub(crate) fn wants(&self, column: &str) -> bool {
        self.columns.is_empty() && !ON_REQUEST.contains(&column)
            || self.columns.iter().any(|name| name == column)
    }

    /// Whether a scenario is to run.
    pub(crate) fn has(&self, scenario: &str) -> bool {
        self.scenarios.iter().any(|name| name == scenario)
    }
}
