//! What the small edge costs a device: while nobody uses it, linked over TLS at the default heartbeat, and after it was used.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::thread;
use std::time::Duration;

use tunnel_tests::targets::Target;
use tunnel_tests::usage::{Spent, sum};
use tunnel_tests::wait::{secs, wait_until};
use tunnel_tests::{Cloud, Edge, World};

/// Resident and own memory of a process, in KiB. Pages of the program's own file are the kernel's to drop, however few
/// processes map them.
fn memory(id: u32) -> (u64, u64) {
    let smaps = fs::read_to_string(format!("/proc/{id}/smaps_rollup")).unwrap();
    (sum(&smaps, &["Rss:"]), sum(&smaps, &["Private_Dirty:"]))
}

/// An edge as a device has it, for long enough that what a fresh link and its first metrics cost is over.
fn settled_edge(world: &World, cloud: &Cloud, target: &str) -> Edge {
    let settings = world.edge_settings("node-A", &cloud.grpc, target).quiet();
    let mut edge = world.edge_with("node-A", settings);
    edge.process.wait_status("link", "up", secs(10));
    thread::sleep(secs(5));
    edge
}

#[test]
fn an_edge_at_rest_costs_next_to_nothing() {
    let world = World::new();
    let cloud = world.cloud();
    let edge = settled_edge(&world, &cloud, "127.0.0.1:9");
    let id = edge.process.id();
    let before = Spent::of(id).unwrap();
    let time = secs(60);
    thread::sleep(time);
    let after = Spent::of(id).unwrap();

    let wake_ups = (after.switches - before.switches) as f64 / time.as_secs_f64();
    let cpu = (after.cpu_nanos - before.cpu_nanos) as f64 / 1e9 / time.as_secs_f64() * 3600.0;
    let (resident, private) = memory(id);
    println!(
        "measured: at rest {resident} KiB resident, {private} KiB of it its own, {wake_ups:.2} wake-ups a second, {cpu:.2} s of CPU an hour, {} threads",
        edge.usage().threads
    );
    assert!(resident <= 5 << 10, "{resident} KiB resident");
    assert!(private <= 1536, "{private} KiB its own");
    assert!(wake_ups <= 2.0, "{wake_ups} wake-ups a second");
    assert!(cpu < 2.0, "{cpu} s of CPU an hour");
}

#[test]
fn what_streams_and_copies_took_is_given_back() {
    let (world, echo) = (World::new(), Target::echo());
    let cloud = world.cloud();
    let edge = settled_edge(&world, &cloud, &echo.address());
    let id = edge.process.id();
    let (before, _) = memory(id);
    let back = |what| {
        let limit = before + 1024;
        wait_until(what, secs(60), || memory(id).0 <= limit);
        memory(id).0
    };

    let streams = cloud.idle_streams("node-A", 1000);
    let (busy, _) = memory(id);
    assert!(
        busy <= before + 8 * 1000,
        "1,000 idle streams take {} KiB",
        busy - before
    );
    drop(streams);
    let after_streams = back("what streams took is back");

    thread::scope(|scope| {
        for _ in 0..4 {
            let mut stream = cloud.open("node-A");
            scope.spawn(move || stream.there_and_back(256 << 20, Duration::ZERO));
        }
    });
    let (copied, _) = memory(id);
    let after_copies = back("what copies took is back");
    println!(
        "measured: {before} KiB resident at rest; {busy} with 1,000 streams, {after_streams} after them; {copied} just after four copies of 256 MiB both ways, {after_copies} once that is given back"
    );
}
