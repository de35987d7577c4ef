//! An edge of another machine, in an emulator, against the cloud of this one. Which edge that is, `TUNNEL_BIN_DIR` tells.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::process::Stdio;

use tunnel_tests::World;
use tunnel_tests::cutter::Cutter;
use tunnel_tests::metrics::Metrics;
use tunnel_tests::openssh::{Ssh, Sshd, success};
use tunnel_tests::wait::{secs, wait_until};

/// Up and down again, over a line that is cut under each copy.
#[test]
fn a_hundred_mebibytes_come_back_the_same_through_cuts() {
    let world = World::new();
    let sshd = Sshd::start(&world);
    let cloud = world.cloud();
    let line = Cutter::to(&cloud.grpc);
    let settings = world.edge_settings("node-A", line.address(), &sshd.address());
    let mut edge = world.edge_with("node-A", settings);
    edge.process.wait_status("link", "up", secs(60));
    let ssh = Ssh::new(&world, &cloud);
    let (file, far, near) = (world.path("file"), world.path("far"), world.path("near"));
    let mut random = fs::File::open("/dev/urandom").unwrap();
    let mut bytes = vec![0; 100 << 20];
    std::io::Read::read_exact(&mut random, &mut bytes).unwrap();
    fs::write(&file, &bytes).unwrap();
    let remote = format!("nc:{}", far.display());
    let (file, near) = (file.to_str().unwrap(), near.to_str().unwrap());
    let passed = |name: &str| cloud.metrics().sum(name, &[]);
    for (from, to) in [(file, &remote[..]), (&remote, near)] {
        let (bytes, resumes) = (passed("stream_bytes_total"), passed("resumes_total"));
        let copy = ssh
            .command("scp")
            .args(["-q", from, to])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let half = bytes + f64::from(50 << 20);
        wait_until("half of it is there", secs(300), || {
            passed("stream_bytes_total") > half
        });
        line.cut();
        success("scp", &copy.wait_with_output().unwrap());
        assert!(passed("resumes_total") > resumes, "{from} to {to}");
    }
    assert!(fs::read(&far).unwrap() == bytes, "what came up differs");
    assert!(fs::read(near).unwrap() == bytes, "what came down differs");
}

/// What an operator asks a device for, and SIGTERM.
#[test]
fn its_pages_answer_and_it_ends_when_told() {
    let world = World::new();
    let cloud = world.cloud();
    let mut edge = world.edge(&cloud, "node-A", "127.0.0.1:9");
    assert_eq!(Metrics::read(&edge.admin).sum("links", &[]), 1.0);
    edge.process.signal(nix::sys::signal::Signal::SIGTERM);
    let status = edge.process.exit(secs(30));
    assert!(status.success(), "{status}");
}
