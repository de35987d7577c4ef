//! What the small edge costs a device while nobody uses it: linked over TLS, at the default heartbeat.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::thread;

use tunnel_tests::World;
use tunnel_tests::usage::{Spent, sum};
use tunnel_tests::wait::secs;

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
    let before = Spent::of(id).unwrap();
    let time = secs(60);
    thread::sleep(time);
    let after = Spent::of(id).unwrap();

    let wake_ups = (after.switches - before.switches) as f64 / time.as_secs_f64();
    let cpu = (after.cpu_nanos - before.cpu_nanos) as f64 / 1e9 / time.as_secs_f64() * 3600.0;
    let smaps = fs::read_to_string(format!("/proc/{id}/smaps_rollup")).unwrap();
    let resident = sum(&smaps, &["Rss:"]);
    // Pages of the program's own file are the kernel's to drop, however few processes map them.
    let private = sum(&smaps, &["Private_Dirty:"]);
    println!(
        "measured: at rest {resident} KiB resident, {private} KiB of it its own, {wake_ups:.2} wake-ups a second, {cpu:.2} s of CPU an hour, {} threads",
        edge.usage().threads
    );
    assert!(resident <= 5 << 10, "{resident} KiB resident");
    assert!(private <= 1536, "{private} KiB its own");
    assert!(wake_ups <= 2.0, "{wake_ups} wake-ups a second");
    assert!(cpu < 2.0, "{cpu} s of CPU an hour");
}
