//! The benchmarks: ours beside `ssh -R`, plain loopback and, where installed, other tools, in one interleaved run.
//! docs/benchmarks.md says what each figure means.

mod args;
mod column;
mod columns;
mod delay;
mod fleet;
mod load;
mod proc;
mod report;
mod scenarios;
mod target;

use std::error::Error;
use std::process::ExitCode;

/// Anything that ends the run.
type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    let options = match args::Options::parse(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            print!("{}", args::USAGE);
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("bench: {error}\n{}", args::USAGE);
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the scenarios and prints the table; whether every target that was measured is met.
fn run(options: &args::Options) -> Result<bool> {
    let mut figures = report::Figures::default();
    scenarios::run(options, &mut figures)?;
    let verdicts = figures.verdicts();
    print!("{}", figures.table(&verdicts));
    if let Some(path) = &options.json {
        std::fs::write(path, figures.json(&verdicts, options)?)?;
        eprintln!("bench: wrote {}", path.display());
    }
    Ok(verdicts.iter().all(|verdict| verdict.met))
}
