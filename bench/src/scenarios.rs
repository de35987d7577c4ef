//! The scenarios: in each round, each runs in every column before the next begins, in turns where that can be.

use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use crate::Result;
use crate::args::Options;
use crate::column::{Column, Door};
use crate::columns::{self, Line, Ours};
use crate::fleet::Fleet;
use crate::load::{self, Bulk, Copies, Direction, RoundTrips, quantile};
use crate::proc::Pids;
use crate::report::Figures;
use crate::target;

/// The line of the delay scenario, each way.
const EACH_WAY: Duration = Duration::from_millis(25);

/// After a change in what a process holds, before its memory is read.
const SETTLE: Duration = Duration::from_millis(1500);
/// By then an edge that gives memory back has done so: it does at a heartbeat.
const GIVEN_BACK: Duration = Duration::from_secs(25);

/// Runs what was asked for.
pub(crate) fn run(options: &Options, figures: &mut Figures) -> Result<()> {
    let target = target::serve()?;
    for round in 1..=options.rounds {
        let near = [
            ("bulk", bulk as Scenario),
            ("rtt", rtt),
            ("connect", connect),
        ];
        let far = [("delay", delay as Scenario)];
        let delayed = Line { each_way: EACH_WAY };
        for (line, scenarios) in [(Line::NONE, &near[..]), (delayed, &far)] {
            let wanted = scenarios.iter().filter(|(name, _)| options.has(name));
            let wanted: Vec<_> = wanted.collect();
            if wanted.is_empty() {
                continue;
            }
            // Anew for each round, so that what a start settles (docs/benchmarks.md) is drawn each time.
            let columns = columns::all(options, &target, line, 0)?;
            for (name, scenario) in wanted {
                eprintln!("bench: round {round} of {}: {name}", options.rounds);
                scenario(options, &columns, figures)?;
            }
        }
        if options.has("memory") {
            eprintln!("bench: round {round} of {}: memory", options.rounds);
            memory(options, &target, figures)?;
        }
        if options.has("edge") {
            eprintln!("bench: round {round} of {}: edge", options.rounds);
            edge(options, &target, figures)?;
        }
    }
    Ok(())
}

type Scenario = fn(&Options, &[Column], &mut Figures) -> Result<()>;

fn bulk(options: &Options, columns: &[Column], figures: &mut Figures) -> Result<()> {
    for (direction, way) in [(Direction::Down, "down"), (Direction::Up, "up")] {
        for count in [1, 8] {
            let start = |column| Bulk::start(column, direction, count);
            let mut all = columns.iter().map(start).collect::<Result<Vec<_>>>()?;
            load::in_turns(&mut all, options.window, Bulk::turn)?;
            for bulk in &all {
                let mut add = |what: &str, value| {
                    figures.add(&format!("{what}.{way}.{count}"), bulk.column.name, value)
                };
                add("bulk", bulk.megabytes());
                if !matches!(bulk.column.cloud, Pids::None) {
                    add("cpu", bulk.cloud_cpu() + bulk.edge_cpu());
                    add("cpu.cloud", bulk.cloud_cpu());
                    add("cpu.edge", bulk.edge_cpu());
                }
                if count == 8 {
                    add("fair", bulk.fairness());
                }
            }
        }
    }
    Ok(())
}

fn rtt(options: &Options, columns: &[Column], figures: &mut Figures) -> Result<()> {
    for (beside, direction) in [
        ("idle", None),
        ("down", Some(Direction::Down)),
        ("up", Some(Direction::Up)),
    ] {
        let start = |column: &Column| {
            let copies = direction.map(|direction| Copies::start(&column.door, direction, 1));
            Ok((copies.transpose()?, RoundTrips::open(&column.door)?))
        };
        let mut all = columns.iter().map(start).collect::<Result<Vec<_>>>()?;
        load::in_turns(&mut all, options.window * 2, |(copies, trips), limit| {
            copies.iter().for_each(Copies::run);
            trips.turn(options.tries, limit)?;
            copies.iter().for_each(Copies::rest);
            Ok(())
        })?;
        for (column, (copies, trips)) in columns.iter().zip(all) {
            drop(copies);
            let times = trips.times();
            for (name, fraction) in [("p50", 0.5), ("p99", 0.99)] {
                let figure = format!("rtt.{beside}.{name}");
                figures.add(&figure, column.name, quantile(&times, fraction));
            }
        }
    }
    Ok(())
}

fn connect(options: &Options, columns: &[Column], figures: &mut Figures) -> Result<()> {
    for column in columns {
        let times = load::dials(&column.door, false, options.tries / 10, options.window)?;
        let each = times.iter().sum::<f64>() / times.len() as f64;
        figures.add("connect.echo.p50", column.name, quantile(&times, 0.5));
        figures.add("connect.echo.p99", column.name, quantile(&times, 0.99));
        figures.add("connect.1", column.name, 1e6 / each);
        figures.add(
            "connect.16",
            column.name,
            load::connections(&column.door, 16, options.window)?,
        );
    }
    Ok(())
}

fn delay(options: &Options, columns: &[Column], figures: &mut Figures) -> Result<()> {
    let round_trip = EACH_WAY.as_secs_f64() * 2e6;
    for column in columns {
        for (direction, way) in [(Direction::Down, "down"), (Direction::Up, "up")] {
            // Windows need some round trips to grow.
            let bulk = load::bulk(
                column,
                direction,
                1,
                options.window + Duration::from_secs(1),
            )?;
            figures.add(&format!("delay.{way}"), column.name, bulk.megabytes());
        }
        for (early, name) in [(false, "delay.dial.nc"), (true, "delay.dial.early")] {
            let times = load::dials(&column.door, early, options.tries / 100, options.window)?;
            figures.add(name, column.name, quantile(&times, 0.5) / round_trip);
        }
    }
    Ok(())
}

/// Memory is read from fresh processes, as every other scenario leaves buffers behind in the allocator.
fn memory(options: &Options, target: &str, figures: &mut Figures) -> Result<()> {
    if options.wants("ours") {
        let ours = Ours::start(target, Line::NONE, options.idle)?;
        thread::sleep(SETTLE);
        figures.add(
            "memory.edge.fresh",
            "ours",
            ours.edge_pid().resident_kib() / 1024.0,
        );
        figures.add(
            "memory.cloud.fresh",
            "ours",
            ours.cloud_pid().resident_kib() / 1024.0,
        );
        let before = ours.cloud_pid().private_kib();
        let names = (0..options.idle).map(columns::idle_node).collect();
        let fleet = Fleet::start(&ours, names)?;
        thread::sleep(SETTLE);
        let growth = ours.cloud_pid().private_kib() - before;
        figures.add("memory.cloud.edge", "ours", growth / options.idle as f64);
        drop(fleet);
        // Streams start from fresh processes, too: what the edges left free would hide their cost.
        drop(ours);
        let ours = Ours::start(target, Line::NONE, options.idle)?;
        streams(
            options,
            "ours",
            &ours.door(),
            [ours.cloud_pid(), ours.edge_pid()],
            figures,
        )?;
    }
    if options.wants("ssh") {
        let ssh = columns::fresh_ssh(target)?;
        figures.add("memory.edge.fresh", "ssh", ssh.edge.resident_kib() / 1024.0);
        figures.add(
            "memory.cloud.fresh",
            "ssh",
            ssh.cloud.resident_kib() / 1024.0,
        );
        streams(
            options,
            "ssh",
            &ssh.door.clone(),
            [ssh.cloud.clone(), ssh.edge.clone()],
            figures,
        )?;
    }
    Ok(())
}

fn streams(
    options: &Options,
    name: &'static str,
    door: &Door,
    ends: [Pids; 2],
    figures: &mut Figures,
) -> Result<()> {
    // The first stream pays for what all of them share.
    drop(load::dial(door, false)?);
    thread::sleep(SETTLE);
    let before = ends.each_ref().map(Pids::private_kib);
    let streams: Vec<TcpStream> = (0..options.idle)
        .map(|_| load::dial(door, false))
        .collect::<std::io::Result<_>>()?;
    thread::sleep(SETTLE);
    for ((end, before), figure) in ends
        .iter()
        .zip(before)
        .zip(["memory.stream.cloud", "memory.stream.edge"])
    {
        figures.add(
            figure,
            name,
            (end.private_kib() - before) / streams.len() as f64,
        );
    }
    Ok(())
}

/// What the half beside the target costs its machine: from fresh processes, at rest, with streams, and after these and a copy.
fn edge(options: &Options, target: &str, figures: &mut Figures) -> Result<()> {
    for column in columns::all(options, target, Line::NONE, options.idle)? {
        if matches!(column.edge, Pids::None) {
            continue;
        }
        let end = &column.edge;
        let mut add = |figure: &str, value| figures.add(figure, column.name, value);
        add("edge.size", end.program_bytes() / 1e6);
        thread::sleep(SETTLE);
        let (wakes, cpu) = (end.switches(), end.cpu_nanos());
        thread::sleep(options.rest);
        let seconds = options.rest.as_secs_f64();
        add("edge.wakes", (end.switches() - wakes) / seconds);
        add("edge.cpu", (end.cpu_nanos() - cpu) / 1e9 / seconds * 3600.0);
        add("edge.threads", end.threads());
        add("edge.rest.resident", end.resident_kib() / 1024.0);
        add("edge.rest.own", end.dirty_kib() / 1024.0);
        let mut streams = Vec::new();
        for (count, figure) in [
            (1, "edge.streams.1"),
            (options.idle / 10, "edge.streams.100"),
            (options.idle, "edge.streams.1000"),
        ] {
            while streams.len() < count {
                streams.push(load::dial(&column.door, false)?);
            }
            thread::sleep(SETTLE);
            add(figure, end.resident_kib() / 1024.0);
        }
        drop(streams);
        load::bulk(&column, Direction::Down, 8, options.window)?;
        load::bulk(&column, Direction::Up, 8, options.window)?;
        thread::sleep(GIVEN_BACK);
        add("edge.after", end.resident_kib() / 1024.0);
        add("edge.peak", end.peak_kib() / 1024.0);
    }
    Ok(())
}
