//! Searches seeds, or replays one: `simulations --seed N [--fault LIST] [--flow N] | --seeds A..B | --minutes M`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use simulations::{
    Batch, CLUSTERS, REQUIRED, REQUIRED_OF_CLUSTERS, minimise, report, run, run_batch,
};

const USAGE: &str = "\
simulations --seed N [--fault LIST]   replay one seed, with these faults of its plan (\"0,3\", \"none\")
            [--flow N]                and print one flow's messages (18446744073709551615: all of them)
simulations --seeds A..B [--minutes M]  run a range, for no longer than that
simulations --minutes M [--from N]    search fresh seeds for so long";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let number = |name: &str| value(name)?.parse::<u64>().ok();
    if let Some(seed) = number("--seed") {
        if let Some(flow) = number("--flow") {
            simulations::watch(usize::try_from(flow).unwrap_or(usize::MAX));
        }
        return replay(seed, value("--fault").as_deref());
    }
    let range = value("--seeds").and_then(|text| {
        let (from, to) = text.split_once("..")?;
        Some(from.parse::<u64>().ok()?..to.parse::<u64>().ok()?)
    });
    let began = Instant::now();
    let minutes = value("--minutes").and_then(|text| text.parse::<f64>().ok());
    let limit = minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0));
    let seeds = range.or_else(|| {
        limit?;
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let fresh = clock.map_or(0, |time| time.as_nanos() as u64) >> 16;
        Some(number("--from").unwrap_or(fresh)..u64::MAX)
    });
    let Some(seeds) = seeds else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let clusters = seeds.start >= CLUSTERS;
    let batch = run_batch(seeds, || {
        limit.is_some_and(|limit| began.elapsed() >= limit)
    });
    finish(batch, began.elapsed(), clusters)
}

fn replay(seed: u64, faults: Option<&str>) -> ExitCode {
    let list = faults.map(|list| {
        let numbers = list.split(',').filter_map(|number| number.parse().ok());
        numbers.collect::<Vec<usize>>()
    });
    let outcome = run(seed, list.as_deref());
    println!(
        "seed {seed}: {} events, trace {:016x}",
        outcome.events, outcome.hash
    );
    let keep: Vec<usize> = (0..outcome.faults.len()).collect();
    if outcome.failure.is_none() {
        return ExitCode::SUCCESS;
    }
    let keep = list.unwrap_or(keep);
    print!("{}", report(seed, &keep, &outcome));
    ExitCode::FAILURE
}

fn finish(batch: Batch, took: Duration, clusters: bool) -> ExitCode {
    let rate = batch.runs as f64 / took.as_secs_f64();
    println!(
        "{} runs, {} events, {:.1} s, {rate:.0} runs a second",
        batch.runs,
        batch.events,
        took.as_secs_f64()
    );
    if let Some((seed, outcome)) = batch.failed {
        let (keep, smallest) = minimise(seed, outcome);
        print!("{}", report(seed, &keep, &smallest));
        return ExitCode::FAILURE;
    }
    for (what, count) in batch.coverage.rows() {
        println!("{count:>10}  {what}");
    }
    let missing = batch.coverage.missing(match clusters {
        true => REQUIRED_OF_CLUSTERS,
        false => REQUIRED,
    });
    if batch.runs >= 1000 && !missing.is_empty() {
        println!("never: {missing:?}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
