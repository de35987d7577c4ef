//! Several replicas: each finds a node wherever its edge is linked, as long as it is linked somewhere.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tonic::Code;
use tunnel_tests::binaries::binary;
use tunnel_tests::cluster::{Cluster, free, ip};
use tunnel_tests::coredns::CoreDns;
use tunnel_tests::cutter::Cutter;
use tunnel_tests::fake_edge::{EdgeOptions, FakeEdge};
use tunnel_tests::openssh::{Ssh, Sshd, TUNNEL_SSH, client_config, nc, success};
use tunnel_tests::pki::Identity;
use tunnel_tests::session::{Busy, Idle};
use tunnel_tests::targets::Target;
use tunnel_tests::wait::{is_long, millis, secs, wait_until};
use tunnel_tests::world::{Settings, TOKEN};
use tunnel_tests::{Connect, Edge, World};

/// An edge that goes to these replicas only.
fn edge_at(world: &World, cluster: &Cluster, at: &[usize], target: &str) -> Edge {
    let addresses: Vec<String> = at
        .iter()
        .map(|at| cluster.replicas[*at].grpc.clone())
        .collect();
    let settings = world
        .edge_settings("node-A", &addresses[0], target)
        .set("cloud.addresses", addresses)
        .set("reconnect.max", "500ms");
    let mut edge = world.edge_with("node-A", settings);
    edge.process.wait_status("link", "up", secs(10));
    edge
}

fn login_through_each(world: &World, cluster: &Cluster) {
    for replica in &cluster.replicas {
        let ssh = Ssh::new(world, replica);
        wait_until("a login", secs(20), || {
            let output = ssh.run("nc", "echo hello");
            output.status.success() && output.stdout == b"hello\n"
        });
    }
}

#[test]
fn ssh_logs_in_through_every_replica_wherever_the_edge_is() {
    let world = World::new();
    let sshd = Sshd::start(&world);
    let cluster = Cluster::start(&world, 3);
    let mut edge = edge_at(&world, &cluster, &[0], &sshd.address());
    login_through_each(&world, &cluster);
    edge.process.kill();
    let _edge = edge_at(&world, &cluster, &[1], &sshd.address());
    login_through_each(&world, &cluster);
    let ssh = Ssh::new(&world, &cluster.replicas[2]);
    success("ssh", &ssh.run("nc", "true"));
}

#[test]
fn a_stream_opened_at_one_replica_outlives_the_one_that_holds_the_edge() {
    let world = World::new();
    let echo = Target::echo();
    let mut cluster = Cluster::start(&world, 3);
    let _edge = edge_at(&world, &cluster, &[0, 1], &echo.address());
    let holder = usize::from(!holds(&cluster, 0));
    let mut open = cluster.open(2, "node-A");
    open.echo(b"before");
    cluster.replicas[holder].process.kill();
    open.echo(&vec![7; 1 << 20]);
    cluster.restart(&world, holder);
    cluster.replicas[1 - holder].process.kill();
    open.echo(b"and again, by the one that has come back");
    cluster.open(holder, "node-A").echo(b"new");
}

/// Whether this replica has an edge's link.
fn holds(cluster: &Cluster, at: usize) -> bool {
    let metrics = cluster.replicas[at].metrics();
    metrics.sum("links", &[("kind", "edge")]) > 0.0
}

#[test]
fn a_replica_that_starts_again_is_found_and_finds_the_others() {
    let world = World::new();
    let echo = Target::echo();
    let mut cluster = Cluster::start(&world, 3);
    let _edge = edge_at(&world, &cluster, &[0], &echo.address());
    cluster.wait_linked();
    cluster.replicas[2].process.kill();
    cluster.open(1, "node-A").echo(b"the others don't care");
    cluster.restart(&world, 2);
    cluster.open(2, "node-A").echo(b"back");
    cluster.wait_linked();
}

#[test]
fn a_replica_that_leaves_loses_nothing_that_it_relays() {
    let world = World::new();
    let echo = Target::echo();
    let mut cluster = Cluster::start(&world, 3);
    let _edge = edge_at(&world, &cluster, &[0, 1], &echo.address());
    let holder = usize::from(!holds(&cluster, 0));
    let mut through_other = cluster.open(2, "node-A");
    through_other.echo(b"before");
    let process = &mut cluster.replicas[holder].process;
    process.signal(Signal::SIGTERM);
    assert_eq!(process.exit(secs(30)).code(), Some(0));
    through_other.echo(b"after");
    cluster.open(2, "node-A").echo(b"new");
}

#[test]
fn what_plain_nc_opened_is_waited_for_and_ends_with_drain_max() {
    let world = World::new();
    let echo = Target::echo();
    let cluster = Cluster::start_with(&world, 2, |_, _, settings| settings.set("drain.max", "4s"));
    let mut cluster = cluster;
    let _edge = edge_at(&world, &cluster, &[1], &echo.address());
    let mut open = cluster.open(0, "node-A");
    let refused = |cluster: &Cluster| {
        let reply = Connect::try_open(&cluster.replicas[0].connect, "node-A:22");
        reply.unwrap().is_err_and(|reply| reply.code() == 503)
    };
    cluster.replicas[0].process.signal(Signal::SIGTERM);
    wait_until("nothing new is taken", secs(3), || refused(&cluster));
    open.echo(b"what is there goes on");
    assert!(open.ends(secs(10)));
    let exit = cluster.replicas[0].process.exit(secs(10));
    assert_eq!(exit.code(), Some(0));
}

#[test]
fn the_drain_command_waits_until_the_replica_may_be_ended() {
    let world = World::new();
    let echo = Target::echo();
    let mut cluster = Cluster::start(&world, 2);
    let _edge = edge_at(&world, &cluster, &[1], &echo.address());
    let mut open = cluster.open(0, "node-A");
    let mut command = Command::new(binary("tunnel-cloud"));
    let config = world.write(
        "drain.toml",
        &format!(
            "tokens = {{ file = {:?} }}\nadmin = {{ listen = {:?} }}\n",
            world.path("tokens"),
            cluster.replicas[0].admin
        ),
    );
    let mut drain = command
        .arg("--config")
        .arg(config)
        .arg("drain")
        .spawn()
        .unwrap();
    let ready = || tunnel_tests::http::get(&cluster.replicas[0].admin, "/readyz");
    wait_until("it is not ready", secs(5), || ready().0 == 503);
    assert!(drain.try_wait().unwrap().is_none(), "a stream is there");
    open.echo(b"and goes on");
    drop(open);
    let status = wait_exit(&mut drain);
    assert!(status.success());
    let process = &mut cluster.replicas[0].process;
    process.signal(Signal::SIGTERM);
    assert_eq!(process.exit(secs(3)).code(), Some(0), "nothing is left");
}

fn wait_exit(child: &mut std::process::Child) -> std::process::ExitStatus {
    let mut status = None;
    wait_until("the command ends", secs(20), || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}

/// Replica 2 is told nothing by the others: they don't know of it. It knows them.
fn with_an_unknown_third(world: &World, change: impl Fn(usize, Settings) -> Settings) -> Cluster {
    Cluster::start_with(world, 3, |at, addresses, settings| {
        let known = match at {
            2 => addresses.to_vec(),
            _ => addresses[..2].to_vec(),
        };
        change(at, settings.set("peers.addresses", known))
    })
}

#[test]
fn a_replica_that_hears_nothing_asks_dns() {
    let world = World::new();
    let echo = Target::echo();
    let hosts = world.write("hosts", "# kept\n10.9.9.9 node-B\n");
    let dns = CoreDns::start(&world, &hosts);
    let cluster = with_an_unknown_third(&world, |at, settings| {
        settings
            .set("registry.kind", "hosts")
            .set("registry.address", ip(at))
            .set("registry.hosts_file", hosts.to_str().unwrap())
            .set("registry.dns_server", dns.address.clone())
    });
    let mut edge = edge_at(&world, &cluster, &[0], &echo.address());
    wait_until("the file names the node", secs(5), || {
        let text = std::fs::read_to_string(&hosts).unwrap();
        text.contains(&format!("{} node-a\n", ip(0))) && text.contains("# kept\n")
    });
    let mut open = cluster.open(2, "node-A");
    open.echo(b"found by DNS");
    let asked = cluster.replicas[2].metrics();
    let found = [("source", "dns"), ("result", "ok")];
    assert!(asked.sum("registry_lookups_total", &found) >= 1.0);
    // The registry names an address of no replica: nobody is dialed for it.
    let away = Connect::try_open(&cluster.replicas[2].connect, "node-B:22").unwrap();
    assert_eq!(away.unwrap_err().code(), 503);
    drop(dns);
    open.echo(b"an open stream needs no registry");
    cluster.open(1, "node-A").echo(b"peers are enough");
    edge.process.kill();
    wait_until("the line is gone", secs(20), || {
        !std::fs::read_to_string(&hosts).unwrap().contains("node-a")
    });
}

/// DNS answers nothing, then isn't there, the file is emptied, then names a replica that is gone: ten minutes of it in full.
#[test]
fn open_sessions_and_new_ones_need_no_registry() {
    let each = if is_long() { secs(150) } else { secs(2) };
    let world = World::new();
    let sshd = Sshd::start(&world);
    let hosts = world.write("hosts", "");
    let dns = CoreDns::start(&world, &hosts);
    let cluster = Cluster::start_with(&world, 3, |at, _, settings| {
        settings
            .set("registry.kind", "hosts")
            .set("registry.address", ip(at))
            .set("registry.hosts_file", hosts.to_str().unwrap())
            .set("registry.dns_server", dns.address.clone())
    });
    cluster.wait_linked();
    let line = Cutter::to(&cluster.replicas[0].grpc);
    let settings = world
        .edge_settings("node-A", line.address(), &sshd.address())
        .set("reconnect.max", "500ms");
    let mut edge = world.edge_with("node-A", settings);
    edge.process.wait_status("link", "up", secs(10));
    drop(cluster.open(2, "node-A"));
    let ssh = Ssh::new(&world, &cluster.replicas[2]).by_links(&world, &cluster.replicas[1].grpc);
    let mut open = ["nc", TUNNEL_SSH].map(|kind| Idle::start(&ssh, kind));
    let busy = Busy::start_quiet(&ssh, "nc");
    let mut longest = Duration::ZERO;
    let mut opened = 0;
    // The edge moves in each phase, so that what peers say is all that anybody knows.
    let mut at = 0;
    let mut go_on = |phase: &str| {
        at = 1 - at;
        line.lead(&[cluster.replicas[at].grpc.clone()]);
        line.cut();
        wait_until("the edge is at the other replica", secs(20), || {
            holds(&cluster, at)
        });
        let since = Instant::now();
        busy.moves_after(since, secs(20));
        busy.stall();
        let mut asked = false;
        while since.elapsed() < each || !asked {
            asked = true;
            for idle in &mut open {
                longest = longest.max(idle.ask("still here"));
            }
            for replica in &cluster.replicas {
                let start = Instant::now();
                drop(Connect::open(&replica.connect, "node-A:22"));
                longest = longest.max(start.elapsed());
                opened += 1;
            }
            thread::sleep(millis(200));
        }
        let stall = busy.stall();
        println!("measured: {phase}: stall {:.2} s", stall.as_secs_f64());
        longest = longest.max(stall);
    };
    dns.process.signal(Signal::SIGSTOP);
    go_on("DNS answers nothing");
    drop(dns);
    go_on("DNS is gone");
    std::fs::write(&hosts, "").unwrap();
    go_on("the registry's file is empty");
    std::fs::write(&hosts, "10.9.9.9 node-a\n").unwrap();
    go_on("the registry's file is wrong");
    println!(
        "measured: without a registry: {opened} new streams, longest wait for any answer {:.2} s",
        longest.as_secs_f64()
    );
    assert!(longest < secs(5), "{longest:?}");
    for idle in open {
        idle.finish();
    }
    busy.finish();
}

/// An edge that comes to another replica every two seconds while streams are opened, as users open them: each is, and to
/// its own node.
#[test]
fn streams_are_opened_to_edges_that_hop() {
    const HOP: Duration = secs(2);
    const CLIENTS: usize = 2;
    let long = if is_long() { secs(300) } else { secs(16) };
    let world = World::new();
    let greeters = [Target::greeter("node-A"), Target::greeter("node-B")];
    let cluster = Cluster::start(&world, 3);
    cluster.wait_linked();
    let nodes = ["node-A", "node-B"];
    let lines = nodes.map(|_| Cutter::to(&cluster.replicas[0].grpc));
    let _edges: Vec<Edge> = (0..2)
        .map(|at| {
            let settings =
                world.edge_settings(nodes[at], lines[at].address(), &greeters[at].address());
            let mut edge = world.edge_with(nodes[at], settings);
            edge.process.wait_status("link", "up", secs(10));
            edge
        })
        .collect();
    for at in 0..3 {
        for node in nodes {
            drop(cluster.open(at, node));
        }
    }
    let configs: Vec<PathBuf> = cluster
        .replicas
        .iter()
        .map(|replica| client_config(&world, &replica.grpc, "alice-bearer-token"))
        .collect();
    let (done, bad) = (AtomicUsize::new(0), Mutex::new(Vec::<String>::new()));
    let until = Instant::now() + long;
    let mut hops = 0;
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (configs, cluster, done, bad) = (&configs, &cluster, &done, &bad);
            scope.spawn(move || {
                for round in client.. {
                    if Instant::now() >= until {
                        return;
                    }
                    let (node, replica) = (nodes[round % 2], &cluster.replicas[round % 3]);
                    let output = match round % 8 {
                        7 => said_by_tunnel(&configs[round % 3], node),
                        _ => said_by_nc(&replica.connect, node),
                    };
                    done.fetch_add(1, Ordering::SeqCst);
                    if output.stdout != node.as_bytes() {
                        let what = format!("{round}, {node} by {}: {output:?}", replica.connect);
                        bad.lock().unwrap().push(what);
                    }
                }
            });
        }
        while Instant::now() < until {
            thread::sleep(HOP);
            hops += 1;
            for (at, line) in lines.iter().enumerate() {
                line.lead(&[cluster.replicas[(hops + at) % 3].grpc.clone()]);
                line.cut();
            }
        }
    });
    let (opens, bad) = (done.into_inner(), bad.into_inner().unwrap());
    println!(
        "measured: {opens} streams opened by nc and tunnel while both edges hopped {hops} times: {} failed",
        bad.len()
    );
    assert!(
        bad.iter().all(|what| !what.contains("stdout: \"node")),
        "a wrong node: {bad:#?}"
    );
    assert!(opens >= 100, "{opens} opens tell nothing");
    assert!(bad.len() * 1000 <= opens, "{bad:#?}");
}

/// What the target says first, to one that says nothing itself.
fn said_by_nc(proxy: &str, node: &str) -> Output {
    said(Command::new(nc()).args(["-N", "-X", "connect", "-x", proxy, node, "22"]))
}

fn said_by_tunnel(config: &Path, node: &str) -> Output {
    let mut command = Command::new(binary("tunnel"));
    said(
        command
            .arg("--config")
            .arg(config)
            .args(["connect", node, "22"]),
    )
}

fn said(command: &mut Command) -> Output {
    command
        .env_remove("TUNNEL_SERVER")
        .env_remove("TUNNEL_TOKEN")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[test]
fn without_dns_the_file_itself_is_asked() {
    let world = World::new();
    let echo = Target::echo();
    let hosts = world.write("hosts", "");
    let cluster = with_an_unknown_third(&world, |at, settings| {
        settings
            .set("registry.kind", "hosts")
            .set("registry.address", ip(at))
            .set("registry.hosts_file", hosts.to_str().unwrap())
    });
    let _edge = edge_at(&world, &cluster, &[1], &echo.address());
    cluster.open(2, "node-A").echo(b"found in the file");
}

#[test]
fn a_node_that_only_the_registry_knows_is_known() {
    let world = World::new();
    let echo = Target::echo();
    let hosts = world.write("hosts", "");
    let few = world.write("tokens-of-few", &format!("node-B:{TOKEN}\n"));
    let cluster = with_an_unknown_third(&world, |at, settings| {
        let settings = settings
            .set("registry.kind", "hosts")
            .set("registry.address", ip(at))
            .set("registry.hosts_file", hosts.to_str().unwrap());
        match at {
            2 => settings.set("tokens.file", few.to_str().unwrap()),
            _ => settings,
        }
    });
    let refused = |node: &str| {
        let reply = Connect::try_open(&cluster.replicas[2].connect, node).unwrap();
        reply.unwrap_err().code()
    };
    assert_eq!(refused("node-A:22"), 404, "not even the registry");
    let _edge = edge_at(&world, &cluster, &[1], &echo.address());
    cluster.open(2, "node-A").echo(b"known by the file alone");
    assert_eq!(refused("node-D:22"), 404);
    assert_eq!(refused("node-B:22"), 503, "known and away");
}

#[test]
fn a_token_makes_a_cluster_too() {
    let world = World::new();
    let echo = Target::echo();
    let token = world.write("peer-token", "the cluster's own secret\n");
    let cluster = Cluster::start_with(&world, 2, |_, _, settings| {
        settings
            .set("grpc.cert", world.cloud_identity().cert.to_str().unwrap())
            .set("grpc.key", world.cloud_identity().key.to_str().unwrap())
            .set("peers.token_file", token.to_str().unwrap())
    });
    let _edge = edge_at(&world, &cluster, &[0], &echo.address());
    cluster.open(1, "node-A").echo(b"by the token");
}

#[test]
fn nobody_but_a_replica_makes_a_replica_s_link() {
    let world = World::new();
    let token = world.write("peer-token", "the cluster's own secret\n");
    let cluster = Cluster::start_with(&world, 1, |_, _, settings| {
        settings.set("peers.token_file", token.to_str().unwrap())
    });
    let cloud = &cluster.replicas[0];
    let certificate = world.pki.node("node-B", "node-B");
    let asked = |bearer: Option<&str>, identity: Option<&Identity>| {
        let options = EdgeOptions {
            authorization: bearer.map(|bearer| format!("Bearer {bearer}")),
            metadata: vec![
                ("tunnel-link", "peer".to_owned()),
                ("tunnel-protocol", "1".to_owned()),
                ("tunnel-replica", "0123456789abcdef".repeat(2)),
            ],
            identity: identity.cloned(),
            ..EdgeOptions::base("node-A", TOKEN)
        };
        let link = FakeEdge::connect(&world, &cloud.grpc, &options);
        link.map(drop).map_err(|status| status.code())
    };
    let of_edge = format!(r#"{{"nodename":"node-A","token":"{TOKEN}"}}"#);
    let refused = Err(Code::Unauthenticated);
    assert_eq!(asked(None, None), refused);
    assert_eq!(asked(None, Some(&certificate)), refused);
    assert_eq!(asked(Some(&of_edge), None), refused);
    assert_eq!(asked(Some("the cluster's own secreT"), None), refused);
    assert_eq!(asked(Some("alice-bearer-token"), None), refused);
    assert_eq!(asked(Some("the cluster's own secret"), None), Ok(()));
    let replica = world.pki.replica("another");
    assert_eq!(asked(None, Some(&replica)), Ok(()));
}

#[test]
fn a_peer_that_can_t_be_reached_costs_the_others_nothing() {
    let world = World::new();
    let echo = Target::echo();
    let silent = std::net::TcpListener::bind((ip(7).as_str(), 0)).unwrap();
    let silent = silent.local_addr().unwrap().to_string();
    let cluster = Cluster::start_with(&world, 2, |_, addresses, settings| {
        let gone = free(&ip(8));
        let known = addresses.iter().cloned().chain([gone, silent.clone()]);
        settings.set("peers.addresses", known.collect::<Vec<_>>())
    });
    let _edge = edge_at(&world, &cluster, &[0], &echo.address());
    cluster.open(1, "node-A").echo(b"at once");
}
