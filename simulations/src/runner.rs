//! Runs seeds, counts, and tells what went wrong and how to see it again.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::net::Failure;
use crate::trace::{Coverage, seconds};
use crate::world::World;

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// A hash of everything that happened.
    pub hash: u64,
    /// How many events.
    pub events: u64,
    /// What an oracle found.
    pub failure: Option<Failure>,
    /// How often the rare things came about.
    pub coverage: Coverage,
    /// The faults of the plan, and whether each was on.
    pub faults: Vec<(String, bool)>,
    /// Lines for people: what was unsettled, and the last events.
    pub story: Vec<String>,
}

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Keeps a panic's text for the report instead of printing it.
fn catch_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let simulated = PANIC.with(|panic| {
                let mut panic = panic.borrow_mut();
                let inside = panic.is_some();
                if inside {
                    *panic = Some(info.to_string());
                }
                inside
            });
            if !simulated {
                before(info);
            }
        }));
    });
}

/// Runs one seed; `keep` are the faults of its plan to be left in, all if `None`.
pub fn run(seed: u64, keep: Option<&[usize]>) -> Outcome {
    catch_panics();
    PANIC.with(|panic| *panic.borrow_mut() = Some(String::new()));
    let mut world = World::new(seed, keep);
    let panicked = catch_unwind(AssertUnwindSafe(|| world.run())).is_err();
    let text = PANIC.with(|panic| panic.borrow_mut().take());
    if panicked {
        world.net.failure = Some(Failure {
            oracle: "no panic",
            detail: text.unwrap_or_default(),
            at: world.net.now,
        });
    }
    let faults = world.faults.iter();
    let faults = faults
        .map(|fault| {
            let at = seconds(fault.at % (world.setup.heal_at * 9 / 10));
            (
                format!(
                    "{:?} at {at:.3} s for {:.3} s",
                    fault.kind,
                    seconds(fault.lasts)
                ),
                fault.on,
            )
        })
        .collect();
    let mut story = Vec::new();
    if world.net.failure.is_some() {
        story = match panicked {
            true => Vec::new(),
            false => world.unsettled(),
        };
        story.push("last events:".into());
        story.extend(world.net.trace.last());
    }
    Outcome {
        hash: world.net.trace.hash(),
        events: world.net.trace.count(),
        failure: world.net.failure.take(),
        coverage: std::mem::take(&mut world.net.cover),
        faults,
        story,
    }
}

/// Many seeds.
#[derive(Debug, Default)]
pub struct Batch {
    /// How many were run.
    pub runs: u64,
    /// Their events.
    pub events: u64,
    /// All counters together.
    pub coverage: Coverage,
    /// The first that failed.
    pub failed: Option<(u64, Outcome)>,
}

impl Batch {
    fn take(&mut self, seed: u64, outcome: Outcome) {
        self.runs += 1;
        self.events += outcome.events;
        self.coverage.add(&outcome.coverage);
        let first = self.failed.as_ref().is_none_or(|(other, _)| seed < *other);
        if outcome.failure.is_some() && first {
            self.failed = Some((seed, outcome));
        }
    }

    fn join(&mut self, other: Batch) {
        self.runs += other.runs;
        self.events += other.events;
        self.coverage.add(&other.coverage);
        let first =
            |(seed, _): &(u64, Outcome)| self.failed.as_ref().is_none_or(|(other, _)| seed < other);
        if other.failed.as_ref().is_some_and(first) {
            self.failed = other.failed;
        }
    }
}

/// Runs seeds on all cores until one fails, or `enough` says so.
pub fn run_batch(seeds: Range<u64>, enough: impl Fn() -> bool + Sync) -> Batch {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicU64::new(seeds.start);
    let failed = AtomicBool::new(false);
    let work = || {
        let mut batch = Batch::default();
        while !failed.load(Ordering::Relaxed) && !enough() {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                break;
            }
            batch.take(seed, run(seed, None));
            failed.fetch_or(batch.failed.is_some(), Ordering::Relaxed);
        }
        batch
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut batch = Batch::default();
        for worker in workers {
            match worker.join() {
                Ok(part) => batch.join(part),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        batch
    })
}

/// Leaves out one fault after the other for as long as the same oracle still finds something.
pub fn minimise(seed: u64, outcome: Outcome) -> (Vec<usize>, Outcome) {
    let mut keep: Vec<usize> = (0..outcome.faults.len()).collect();
    let oracle = outcome.failure.as_ref().map(|failure| failure.oracle);
    let mut smallest = outcome;
    let mut at = keep.len();
    while at > 0 {
        at -= 1;
        let mut fewer = keep.clone();
        fewer.remove(at);
        let outcome = run(seed, Some(&fewer));
        if outcome.failure.as_ref().map(|failure| failure.oracle) == oracle {
            (keep, smallest) = (fewer, outcome);
        }
    }
    (keep, smallest)
}

/// A failure as people read it.
pub fn report(seed: u64, keep: &[usize], outcome: &Outcome) -> String {
    let mut text = String::new();
    let Some(failure) = &outcome.failure else {
        return text;
    };
    let list: Vec<String> = keep.iter().map(usize::to_string).collect();
    let list = if list.is_empty() {
        String::from("none")
    } else {
        list.join(",")
    };
    let _ = writeln!(
        text,
        "seed {seed}: oracle \"{}\" at {:.6} s",
        failure.oracle,
        seconds(failure.at)
    );
    let _ = writeln!(text, "  {}", failure.detail);
    let _ = writeln!(
        text,
        "replay: cargo run --release -p simulations -- --seed {seed} --fault {list}"
    );
    for (at, (fault, _)) in outcome
        .faults
        .iter()
        .enumerate()
        .filter(|(at, _)| keep.contains(at))
    {
        let _ = writeln!(text, "  fault {at}: {fault}");
    }
    for line in &outcome.story {
        let _ = writeln!(text, "  {line}");
    }
    text
}
