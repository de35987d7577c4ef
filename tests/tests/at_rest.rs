//! What the small edge costs a device while nobody uses it: linked over TLS, at the default heartbeat.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::thread;

use tunnel_tests::World;
use tunnel_tests::wait::secs;

/// What /proc says of all threads of a process.
struct Spent {
    /// How often a thread has come off a processor.
    switches: u64,
    /// On one, in nanoseconds.
    cpu: u64,
}

impl Spent {
    fn by(id: u32) -> Self {
        let mut spent = Self {
            switches: 0,
            cpu: 0,
        };
        for task in fs::read_dir(format!("/proc/{id}/task")).unwrap() {
            let task = task.unwrap().path();
            let status = fs::read_to_string(task.join("status")).unwrap();
            spent.switches += fields(&status, "voluntary_ctxt_switches:");
            let times = fs::read_to_string(task.join("schedstat")).unwrap();
            spent.cpu += times
                .split_whitespace()
                .next()
                .unwrap()
                .parse::<u64>()
                .unwrap();
        }
        spent
    }
}

/// The sum of the lines that begin with a name.
fn fields(text: &str, name: &str) -> u64 {
    let lines = text.lines().filter(|line| line.starts_with(name));
    lines
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum()
}

#[test]
fn an_edge_at_rest_costs_next_to_nothing() {
    let world = World::new();
    let cloud = world.cloud();
    let settings = world
        .edge_settings("node-A", &cloud.grpc, "127.0.0.1:9")
        .set("log.level", "info")
        .set("log.audit", "off");
    let mut edge = world.edge_with("node-A", settings);
    edge.process.wait_status("link", "up", secs(10));
    let id = edge.process.id();
    // What a fresh link and its first metrics cost is over.
    thread::sleep(secs(5));
    let before = Spent::by(id);
    let time = secs(60);
    thread::sleep(time);
    let after = Spent::by(id);

    let wake_ups = (after.switches - before.switches) as f64 / time.as_secs_f64();
    let cpu = (after.cpu - before.cpu) as f64 / 1e9 / time.as_secs_f64() * 3600.0;
    let smaps = fs::read_to_string(format!("/proc/{id}/smaps_rollup")).unwrap();
    let resident = fields(&smaps, "Rss:");
    // Pages of the program's own file are the kernel's to drop, however few processes map them.
    let private = fields(&smaps, "Private_Dirty:");
    println!(
        "measured: at rest {resident} KiB resident, {private} KiB of it its own, {wake_ups:.2} wake-ups a second, {cpu:.2} s of CPU an hour, {} threads",
        edge.usage().threads
    );
    assert!(resident <= 5 << 10, "{resident} KiB resident");
    assert!(private <= 1536, "{private} KiB its own");
    assert!(wake_ups <= 2.0, "{wake_ups} wake-ups a second");
    assert!(cpu < 2.0, "{cpu} s of CPU an hour");
}
