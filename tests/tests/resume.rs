//! Sessions that outlive their link: the line between an edge and its cloud is cut under them.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::thread;

use tunnel_tests::cutter::Cutter;
use tunnel_tests::openssh::{Ssh, Sshd, success};
use tunnel_tests::targets::Target;
use tunnel_tests::wait::{secs, wait_until};
use tunnel_tests::{Cloud, Edge, World};

/// A cloud, an edge, and the line between them.
fn over_a_line(world: &World, target: &str) -> (Cloud, Edge, Cutter) {
    let cloud = world.cloud();
    let line = Cutter::to(&cloud.grpc);
    let settings = world
        .edge_settings("node-A", line.address(), target)
        .set("reconnect.max", "500ms");
    let mut edge = world.edge_with("node-A", settings);
    edge.process.wait_status("link", "up", secs(10));
    (cloud, edge, line)
}

fn resumes(cloud: &Cloud) -> f64 {
    cloud.metrics().sum("resumes_total", &[])
}

#[test]
fn every_byte_comes_once_and_in_order_through_cuts() {
    let world = World::new();
    let echo = Target::echo();
    let (cloud, _edge, line) = over_a_line(&world, &echo.address());
    let mut open = cloud.open("node-A");
    let bytes: Vec<u8> = (0..16u32 << 20)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let (mut writer, sent) = (open.socket.try_clone().unwrap(), bytes.clone());
    let sending = thread::spawn(move || writer.write_all(&sent));
    let mut back = vec![0; bytes.len()];
    for (round, part) in back.chunks_mut(3 << 20).enumerate() {
        open.socket.read_exact(part).unwrap();
        if round < 5 {
            line.cut();
        }
    }
    sending.join().unwrap().unwrap();
    assert!(back == bytes);
    // A cut that finds the line down already is none; what the sockets held may have covered one.
    assert!(resumes(&cloud) >= 1.0, "{}", resumes(&cloud));
}

#[test]
fn an_ssh_session_outlives_its_link() {
    let world = World::new();
    let sshd = Sshd::start(&world);
    let (cloud, _edge, line) = over_a_line(&world, &sshd.address());
    let ssh = Ssh::new(&world, &cloud);
    thread::scope(|scope| {
        // The remote end waits for a word that is said only after the cut.
        let mut child = ssh
            .command("ssh")
            .args(["nc", "echo ready; read word; echo heard $word"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = child.stdout.take().unwrap();
        let mut ready = [0; 6];
        output.read_exact(&mut ready).unwrap();
        assert_eq!(&ready, b"ready\n");
        line.cut();
        wait_until("the stream is resumed", secs(20), || resumes(&cloud) >= 1.0);
        let mut input = child.stdin.take().unwrap();
        scope.spawn(move || input.write_all(b"you\n").unwrap());
        let mut rest = String::new();
        output.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "heard you\n");
        success("ssh", &child.wait_with_output().unwrap());
    });
}

#[test]
fn with_resumption_off_a_session_ends_with_its_link() {
    let world = World::new();
    let echo = Target::echo();
    let cloud = world.cloud_with(world.cloud_settings().set("streams.resume", false));
    let line = Cutter::to(&cloud.grpc);
    let settings = world.edge_settings("node-A", line.address(), &echo.address());
    let mut edge = world.edge_with("node-A", settings);
    edge.process.wait_status("link", "up", secs(10));
    let mut open = cloud.open("node-A");
    open.echo(b"hello");
    line.cut();
    assert!(open.ends(secs(10)), "it is over");
}
