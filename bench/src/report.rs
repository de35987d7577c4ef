//! What was measured, what the targets say to it, and both as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Map, Value, json};

use crate::Result;
use crate::args::{COLUMNS, Options};
use crate::load::quantile;

/// What a figure of ours is held against.
#[derive(Debug, Clone, Copy)]
enum Target {
    /// Nothing: it is there to be read.
    None,
    /// At least this many times the yardstick's.
    TimesMin(f64),
    /// At most this many times the yardstick's.
    TimesMax(f64),
    /// At most this many times the yardstick's, and at most this.
    TimesMaxAnd(f64, f64),
    /// At least this.
    Min(f64),
    /// At most this.
    Max(f64),
}

/// The column that the targets are for.
const OURS: &str = "ours";

/// The yardstick's column.
const YARDSTICK: &str = "ssh";

/// What the small edge's column is held against; its yardstick is ours, on tokio. Medians of one build differ by a twentieth from run to run.
const SMALL: &[(&str, Target)] = &[
    ("bulk.down.1", Target::TimesMin(0.95)),
    ("bulk.up.1", Target::TimesMin(0.95)),
    ("bulk.down.8", Target::TimesMin(0.95)),
    ("bulk.up.8", Target::TimesMin(0.95)),
    ("cpu.edge.down.1", Target::TimesMax(1.05)),
    ("cpu.edge.up.1", Target::TimesMax(1.05)),
    ("rtt.idle.p50", Target::TimesMax(1.1)),
    ("rtt.down.p50", Target::TimesMax(1.1)),
    ("rtt.up.p50", Target::TimesMax(1.1)),
    ("edge.size", Target::Max(3.0)),
    ("edge.wakes", Target::Max(2.0)),
    ("edge.cpu", Target::Max(2.0)),
    ("edge.rest.resident", Target::Max(5.0)),
    ("edge.rest.own", Target::Max(1.5)),
    ("edge.after", Target::Max(6.0)),
];

/// Every figure in the order in which it is printed.
const ROWS: &[(&str, &str, Target)] = &[
    (
        "bulk.down.1",
        "bulk down, 1 stream, MB/s",
        Target::TimesMin(1.2),
    ),
    (
        "bulk.up.1",
        "bulk up, 1 stream, MB/s",
        Target::TimesMin(1.2),
    ),
    (
        "bulk.down.8",
        "bulk down, 8 streams, MB/s",
        Target::TimesMin(1.5),
    ),
    (
        "bulk.up.8",
        "bulk up, 8 streams, MB/s",
        Target::TimesMin(1.5),
    ),
    (
        "cpu.down.1",
        "CPU s/GiB, both ends, down, 1 stream",
        Target::TimesMax(0.85),
    ),
    ("cpu.cloud.down.1", "  the cloud's", Target::None),
    ("cpu.edge.down.1", "  the edge's", Target::None),
    (
        "cpu.up.1",
        "CPU s/GiB, both ends, up, 1 stream",
        Target::TimesMax(0.85),
    ),
    ("cpu.cloud.up.1", "  the cloud's", Target::None),
    ("cpu.edge.up.1", "  the edge's", Target::None),
    (
        "cpu.down.8",
        "CPU s/GiB, both ends, down, 8 streams",
        Target::TimesMax(0.85),
    ),
    (
        "cpu.up.8",
        "CPU s/GiB, both ends, up, 8 streams",
        Target::TimesMax(0.85),
    ),
    (
        "fair.down.8",
        "slowest / fastest of 8, down",
        Target::Min(0.8),
    ),
    ("fair.up.8", "slowest / fastest of 8, up", Target::Min(0.8)),
    (
        "rtt.idle.p50",
        "round trip idle, µs, median",
        Target::TimesMax(1.1),
    ),
    ("rtt.idle.p99", "round trip idle, µs, p99", Target::None),
    (
        "rtt.down.p50",
        "round trip beside a download, µs, median",
        Target::None,
    ),
    (
        "rtt.down.p99",
        "round trip beside a download, µs, p99",
        Target::TimesMaxAnd(0.5, 5000.0),
    ),
    (
        "rtt.up.p50",
        "round trip beside an upload, µs, median",
        Target::None,
    ),
    (
        "rtt.up.p99",
        "round trip beside an upload, µs, p99",
        Target::TimesMaxAnd(0.5, 5000.0),
    ),
    (
        "connect.echo.p50",
        "dial to first echo, µs, median",
        Target::None,
    ),
    (
        "connect.echo.p99",
        "dial to first echo, µs, p99",
        Target::None,
    ),
    ("connect.1", "new connections/s, one by one", Target::None),
    (
        "connect.16",
        "new connections/s, 16 at once",
        Target::TimesMin(4.0),
    ),
    (
        "delay.down",
        "50 ms line: 1 stream down, MB/s",
        Target::Min(150.0),
    ),
    (
        "delay.up",
        "50 ms line: 1 stream up, MB/s",
        Target::Min(150.0),
    ),
    (
        "delay.dial.nc",
        "50 ms line: dial to echo, round trips, nc",
        Target::Max(2.1),
    ),
    (
        "delay.dial.early",
        "50 ms line: the same with early data",
        Target::Max(1.1),
    ),
    (
        "memory.edge.fresh",
        "fresh edge, resident MiB",
        Target::Max(8.0),
    ),
    (
        "memory.cloud.fresh",
        "fresh cloud, resident MiB",
        Target::None,
    ),
    (
        "memory.cloud.edge",
        "cloud, private KiB per idle edge",
        Target::Max(40.0),
    ),
    (
        "memory.stream.cloud",
        "cloud, private KiB per idle stream",
        Target::Max(10.0),
    ),
    (
        "memory.stream.edge",
        "edge, private KiB per idle stream",
        Target::Max(10.0),
    ),
    ("edge.size", "edge: program, MB", Target::None),
    ("edge.threads", "edge: threads", Target::None),
    ("edge.wakes", "edge at rest: wake-ups/s", Target::None),
    ("edge.cpu", "edge at rest: CPU s/h", Target::None),
    (
        "edge.rest.resident",
        "edge at rest: resident MiB",
        Target::None,
    ),
    ("edge.rest.own", "  written and its own, MiB", Target::None),
    (
        "edge.streams.1",
        "edge, 1 stream: resident MiB",
        Target::None,
    ),
    (
        "edge.streams.100",
        "edge, 100 streams (10 if --quick): resident MiB",
        Target::None,
    ),
    (
        "edge.streams.1000",
        "edge, 1,000 streams (100 if --quick): resident MiB",
        Target::None,
    ),
    (
        "edge.after",
        "edge after these and bulk copies: resident MiB",
        Target::None,
    ),
    (
        "edge.peak",
        "edge: most resident at once, MiB",
        Target::None,
    ),
];

/// All samples by figure and column.
#[derive(Debug, Default)]
pub(crate) struct Figures(BTreeMap<(String, &'static str), Vec<f64>>);

/// What a target says to a figure of ours.
#[derive(Debug)]
pub(crate) struct Verdict {
    figure: &'static str,
    column: &'static str,
    target: String,
    /// Whether it is met.
    pub(crate) met: bool,
}

impl Figures {
    /// Adds one round's sample.
    pub(crate) fn add(&mut self, figure: &str, column: &'static str, value: f64) {
        debug_assert!(ROWS.iter().any(|(name, ..)| *name == figure) || figure.starts_with("cpu."));
        self.0
            .entry((figure.to_owned(), column))
            .or_default()
            .push(value);
    }

    fn samples(&self, figure: &str, column: &'static str) -> Option<&[f64]> {
        let samples = self.0.get(&(figure.to_owned(), column))?;
        Some(samples)
    }

    fn median(&self, figure: &str, column: &'static str) -> Option<f64> {
        Some(median(self.samples(figure, column)?.to_vec()))
    }

    /// The median of the rounds' ratios: what one round's figures have in common, they have because of the minute.
    fn ratio(&self, figure: &str, column: &'static str, yardstick: &'static str) -> Option<f64> {
        let samples = self.samples(figure, column)?.iter();
        let rounds = samples.zip(self.samples(figure, yardstick)?);
        Some(median(rounds.map(|(one, other)| one / other).collect()))
    }

    /// Holds what was measured against its targets.
    pub(crate) fn verdicts(&self) -> Vec<Verdict> {
        let ours = ROWS
            .iter()
            .filter_map(|&(figure, _, target)| self.verdict(figure, target, OURS, YARDSTICK));
        let small = SMALL
            .iter()
            .filter_map(|&(figure, target)| self.verdict(figure, target, "small", OURS));
        ours.chain(small).collect()
    }

    fn verdict(
        &self,
        figure: &'static str,
        target: Target,
        column: &'static str,
        yardstick: &'static str,
    ) -> Option<Verdict> {
        let value = self.median(figure, column)?;
        let ratio = || self.ratio(figure, column, yardstick);
        let (target, met) = match target {
            Target::None => return None,
            Target::TimesMin(times) => (format!("≥ {times}×"), ratio()? >= times),
            Target::TimesMax(times) => (format!("≤ {times}×"), ratio()? <= times),
            Target::TimesMaxAnd(times, max) => (
                format!("≤ {times}×, ≤ {max}"),
                ratio()? <= times && value <= max,
            ),
            Target::Min(min) => (format!("≥ {min}"), value >= min),
            Target::Max(max) => (format!("≤ {max}"), value <= max),
        };
        Some(Verdict {
            figure,
            column,
            target,
            met,
        })
    }

    /// The columns that have figures.
    fn columns(&self) -> Vec<&'static str> {
        let mut columns = COLUMNS.to_vec();
        columns.retain(|name| self.0.keys().any(|(_, column)| column == name));
        columns
    }

    /// A Markdown table of medians.
    pub(crate) fn table(&self, verdicts: &[Verdict]) -> String {
        let columns = self.columns();
        let mut table = String::from("| |");
        for column in &columns {
            let name = if *column == YARDSTICK {
                "ssh -R"
            } else {
                column
            };
            let _ = write!(table, " {name} |");
        }
        table += " ours / ssh -R | target | |\n|---|";
        table += &"---:|".repeat(columns.len() + 1);
        table += "---|---|\n";
        for (figure, label, _) in ROWS {
            let cells: Vec<Option<f64>> = columns
                .iter()
                .map(|column| self.median(figure, column))
                .collect();
            if cells.iter().all(Option::is_none) {
                continue;
            }
            let _ = write!(table, "| {label} |");
            for cell in cells {
                let _ = write!(table, " {} |", cell.map_or_else(|| "–".to_owned(), number));
            }
            let ratio = self
                .ratio(figure, OURS, YARDSTICK)
                .map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}×"));
            let verdict = verdicts
                .iter()
                .find(|verdict| verdict.figure == *figure && verdict.column == OURS);
            let (target, met) = verdict.map_or(("", ""), |v| {
                (v.target.as_str(), if v.met { "met" } else { "MISSED" })
            });
            let _ = writeln!(table, " {ratio} | {target} | {met} |");
        }
        table + &self.small(verdicts)
    }

    /// A Markdown table of the small edge's column beside ours.
    fn small(&self, verdicts: &[Verdict]) -> String {
        let mut table = String::new();
        for verdict in verdicts.iter().filter(|verdict| verdict.column == "small") {
            if table.is_empty() {
                table += "\n| the small edge | small | small / ours | target | |\n|---|---:|---:|---|---|\n";
            }
            let label = ROWS
                .iter()
                .find(|(figure, ..)| *figure == verdict.figure)
                .map_or(verdict.figure, |(_, label, _)| label.trim_start());
            let value = self.median(verdict.figure, "small").map(number);
            let ratio = self.ratio(verdict.figure, "small", OURS);
            let _ = writeln!(
                table,
                "| {label} | {} | {} | {} | {} |",
                value.unwrap_or_default(),
                ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}×")),
                verdict.target,
                if verdict.met { "met" } else { "MISSED" }
            );
        }
        table
    }

    /// All samples, medians and verdicts.
    pub(crate) fn json(&self, verdicts: &[Verdict], options: &Options) -> Result<String> {
        let mut figures = Map::new();
        for ((figure, column), samples) in &self.0 {
            let entry = figures.entry(figure.clone()).or_insert_with(|| json!({}));
            entry[*column] = json!({ "median": self.median(figure, column), "samples": samples });
        }
        for verdict in verdicts {
            figures[verdict.figure][verdict.column]["target"] =
                json!({ "text": verdict.target, "met": verdict.met });
        }
        let cpus = std::thread::available_parallelism().map_or(0, usize::from);
        let all = json!({
            "rounds": options.rounds,
            "windowMs": options.window.as_millis() as u64,
            "cpus": cpus,
            "figures": Value::Object(figures),
        });
        Ok(serde_json::to_string_pretty(&all)? + "\n")
    }
}

/// The middle one, or what lies between the two in the middle. There is one sample at least.
fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    (quantile(&samples, 0.5) + samples[(samples.len() - 1) / 2]) / 2.0
}

/// Three significant places, or as many as the whole part has.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(ours: &[f64], ssh: &[f64]) -> Figures {
        let mut figures = Figures::default();
        for (column, samples) in [("ours", ours), ("ssh", ssh)] {
            for sample in samples {
                figures.add("bulk.up.1", column, *sample);
            }
        }
        figures
    }

    #[test]
    fn a_target_is_held_against_the_median_of_the_rounds_ratios() {
        let met = figures(&[1.0, 130.0, 900.0], &[100.0, 50.0, 100.0]);
        assert!(met.verdicts().iter().all(|verdict| verdict.met));
        let missed = figures(&[119.0], &[100.0]);
        assert!(missed.verdicts().iter().all(|verdict| !verdict.met));
        // Its medians, 130 and 100, would meet it.
        let missed = figures(&[1.0, 130.0, 900.0], &[100.0, 200.0, 100.0]);
        assert!(missed.verdicts().iter().all(|verdict| !verdict.met));
    }

    #[test]
    fn without_the_yardstick_there_is_no_verdict() {
        assert!(figures(&[1.0], &[]).verdicts().is_empty());
    }

    #[test]
    fn an_even_number_of_samples_has_its_middle_between_two() {
        assert_eq!(
            figures(&[1.0, 2.0], &[]).median("bulk.up.1", "ours"),
            Some(1.5)
        );
    }
}
