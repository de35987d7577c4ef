//! The CONNECT front as its clients see it, by bare sockets.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tunnel_tests::connect::{dial, dial_tls, exchange, read_header, read_refusal, refusal};
use tunnel_tests::targets::{ClosedPort, Target};
use tunnel_tests::wait::{secs, wait_until};
use tunnel_tests::world::World;
use tunnel_tests::{Cloud, Connect, Edge, Reply};

struct Echoing {
    _edge: Edge,
    cloud: Cloud,
    _echo: Target,
    world: World,
}

fn echoing() -> Echoing {
    let world = World::new();
    let echo = Target::echo();
    let cloud = world.cloud();
    let edge = world.edge(&cloud, "node-A", &echo.address());
    Echoing {
        _edge: edge,
        cloud,
        _echo: echo,
        world,
    }
}

#[test]
fn success_is_exactly_one_line() {
    let it = echoing();
    for request in [
        "CONNECT node-A:22 HTTP/1.0\r\n\r\n",
        "CONNECT node-A:22 HTTP/1.1\r\n\r\n",
        "CONNECT node-a:22 HTTP/1.1\r\nHost: node-a:22\r\n\r\n",
        "CONNECT NODE-A:22 HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: x\r\nProxy-Connection: keep-alive\r\n\r\n",
    ] {
        let mut socket = dial(&it.cloud.connect).unwrap();
        socket.write_all(request.as_bytes()).unwrap();
        socket.write_all(b"x").unwrap();
        let want = b"HTTP/1.1 200 Connection established\r\n\r\nx";
        let mut got = vec![0; want.len()];
        socket.read_exact(&mut got).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&got),
            String::from_utf8_lossy(want),
            "{request:?}"
        );
    }
}

#[test]
fn early_bytes_and_split_headers_arrive_whole_and_in_order() {
    let it = echoing();
    let early: Vec<u8> = (0..20_000u32).map(|n| (n % 251) as u8).collect();
    for cut in [1, 9, 20, 26, 30] {
        let mut whole = b"CONNECT node-A:22 HTTP/1.1\r\n\r\n".to_vec();
        whole.extend_from_slice(&early);
        let mut socket = dial(&it.cloud.connect).unwrap();
        for part in [&whole[..cut], &whole[cut..]] {
            socket.write_all(part).unwrap();
        }
        assert_eq!(read_header(&mut socket).unwrap().code(), 200);
        let mut back = vec![0; early.len()];
        socket.read_exact(&mut back).unwrap();
        assert!(back == early, "cut at {cut}");
    }
}

#[test]
fn bytes_far_beyond_the_first_window_follow_early_ones() {
    let it = echoing();
    for len in [60_000, 65_536, 100_000, 1_000_000] {
        let mut socket = dial(&it.cloud.connect).unwrap();
        socket
            .write_all(b"CONNECT node-A:22 HTTP/1.1\r\n\r\nearly")
            .unwrap();
        assert_eq!(read_header(&mut socket).unwrap().code(), 200);
        let mut open = Connect { socket };
        let mut back = [0; 5];
        open.socket.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"early");
        // In pieces of a TLS record's size, as many clients write.
        let mut writer = open.socket.try_clone().unwrap();
        let writing = thread::spawn(move || {
            for piece in vec![9; len].chunks(16_384) {
                writer.write_all(piece).unwrap();
            }
            writer.shutdown(Shutdown::Write).unwrap();
        });
        assert_eq!(open.rest().unwrap().len(), len);
        writing.join().unwrap();
    }
}

#[test]
fn early_bytes_before_a_half_close_arrive_too() {
    let it = echoing();
    let mut socket = dial(&it.cloud.connect).unwrap();
    socket
        .write_all(b"CONNECT node-A:22 HTTP/1.1\r\n\r\nall there is")
        .unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_header(&mut socket).unwrap().code(), 200);
    let mut back = String::new();
    socket.read_to_string(&mut back).unwrap();
    assert_eq!(back, "all there is");
}

#[test]
fn two_hundred_is_sent_only_once_the_edge_has_dialed() {
    let world = World::new();
    let cloud = world.cloud();
    let closed = ClosedPort::new();
    let _edge = world.edge(&cloud, "node-A", &closed.address());
    let reply = refusal(&cloud.connect, "CONNECT node-A:22 HTTP/1.1\r\n\r\n");
    assert_eq!(reply.code(), 502, "{reply:?}");
    assert!(reply.status.contains("nothing listens on"), "{reply:?}");
    well_formed(&reply);
}

#[test]
fn every_refusal_says_what_a_person_can_act_on() {
    let it = echoing();
    for (request, code, words) in [
        ("CONNECT node-B:22 HTTP/1.1\r\n\r\n", 503, "offline"),
        ("CONNECT node-unheard-of:22 HTTP/1.1\r\n\r\n", 404, ""),
        ("CONNECT [::1]:22 HTTP/1.1\r\n\r\n", 404, ""),
        ("CONNECT 127.0.0.1:22 HTTP/1.1\r\n\r\n", 404, ""),
        ("CONNECT node-A:3306 HTTP/1.1\r\n\r\n", 403, "targets.allow"),
        ("GET / HTTP/1.1\r\n\r\n", 405, ""),
    ] {
        let reply = refusal(&it.cloud.connect, request);
        assert_eq!(reply.code(), code, "{request:?}: {reply:?}");
        assert!(
            reply.status.contains(words) && reply.status.len() > 13,
            "{reply:?}"
        );
        well_formed(&reply);
    }
    let away = refusal(&it.cloud.connect, "CONNECT node-B:22 HTTP/1.1\r\n\r\n");
    assert!(
        away.header("Retry-After")
            .is_some_and(|value| value.parse::<u32>().is_ok()),
        "{away:?}"
    );
    let method = refusal(&it.cloud.connect, "POST /x HTTP/1.1\r\n\r\n");
    assert_eq!(method.header("Allow"), Some("CONNECT"));
    // Loopback at the edge is not the same as anything: what isn't allowed there is never dialed.
    assert_eq!(
        it._edge.metrics().sum("dials_total", &[("result", "ok")]),
        0.0
    );
}

#[test]
fn credentials_open_what_their_user_may_reach() {
    let it = echoing();
    let front = &it.cloud.connect_users;
    for (authorization, host, code) in [
        (Some(basic("alice", "wonderland")), "node-A:22", 200),
        (
            Some("Bearer alice-bearer-token".to_owned()),
            "node-A:22",
            200,
        ),
        (
            Some("bearer alice-bearer-token".to_owned()),
            "NODE-a:22",
            200,
        ),
        (None, "node-A:22", 407),
        (Some(basic("alice", "wonderlanD")), "node-A:22", 407),
        (Some(basic("nobody", "wonderland")), "node-A:22", 407),
        (Some("Bearer bob".to_owned()), "node-A:22", 407),
        (Some("Basic %%%".to_owned()), "node-A:22", 407),
        (Some("Negotiate abc".to_owned()), "node-A:22", 407),
        (Some(basic("bob", "builder")), "node-A:22", 403),
        (Some(basic("bob", "builder")), "node-not-there:22", 403),
        (Some(basic("alice", "wonderland")), "node-A:80", 403),
        (Some(basic("bob", "builder")), "NODE-B:22", 503),
    ] {
        let header = authorization.map_or(String::new(), |value| {
            format!("Proxy-Authorization: {value}\r\n")
        });
        let (mut socket, reply) =
            exchange(front, &format!("CONNECT {host} HTTP/1.1\r\n{header}\r\n")).unwrap();
        assert_eq!(reply.code(), code, "{header:?} {host}: {reply:?}");
        if code == 407 {
            // nc asks for a password only on HTTP/1.0.
            assert!(reply.status.starts_with("HTTP/1.0 407 "), "{reply:?}");
            assert!(
                reply
                    .header("Proxy-Authenticate")
                    .is_some_and(|value| value.contains("Basic")),
                "{reply:?}"
            );
        }
        if code == 200 {
            socket.write_all(b"hello").unwrap();
            let mut back = [0; 5];
            socket.read_exact(&mut back).unwrap();
        }
    }
    let log = it.cloud.process.log();
    for secret in [
        "wonderland",
        "alice-bearer-token",
        "builder",
        tunnel_tests::world::TOKEN,
    ] {
        assert!(!log.contains(secret), "{secret:?} is in the log");
    }
    assert!(!log.contains(&STANDARD.encode("alice:wonderland")));
}

#[test]
fn tls_where_it_is_optional_and_where_it_is_required() {
    let it = echoing();
    let request = format!(
        "CONNECT node-A:22 HTTP/1.1\r\nProxy-Authorization: {}\r\n\r\n",
        basic("alice", "wonderland")
    );
    for front in [&it.cloud.connect_users, &it.cloud.connect_tls] {
        let mut tls = dial_tls(front, &it.world.pki.ca());
        tls.write_all(request.as_bytes()).unwrap();
        tls.write_all(b"early").unwrap();
        assert_eq!(read_header(&mut tls).unwrap().code(), 200);
        let mut back = [0; 5];
        tls.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"early");
        // Half-close inside TLS, and an answer after it.
        tls.write_all(&[9; 100_000]).unwrap();
        tls.conn.send_close_notify();
        tls.flush().unwrap();
        let mut rest = Vec::new();
        tls.read_to_end(&mut rest).unwrap();
        assert_eq!(rest.len(), 100_000);
    }
    let (_socket, reply) = exchange(&it.cloud.connect_users, &request).unwrap();
    assert_eq!(reply.code(), 200);
    let plain = exchange(&it.cloud.connect_tls, &request);
    assert!(
        !matches!(&plain, Ok((_, reply)) if reply.code() == 200),
        "plaintext where TLS is required: {plain:?}"
    );
    let mut tls = dial_tls(&it.cloud.connect_tls, &it.world.pki.ca());
    tls.write_all(b"CONNECT node-A:22 HTTP/1.1\r\n\r\n")
        .unwrap();
    assert_eq!(read_refusal(&mut tls).code(), 407);
}

#[test]
fn every_stream_leaves_an_audit_record_at_both_ends() {
    let it = echoing();
    let request = "CONNECT node-A:22 HTTP/1.1\r\nTraceid: trace-4711\r\nProxy-Authorization: Bearer alice-bearer-token\r\n\r\n";
    let (mut socket, reply) = exchange(&it.cloud.connect_users, request).unwrap();
    assert_eq!(reply.code(), 200);
    socket.write_all(b"12345").unwrap();
    let mut back = [0; 5];
    socket.read_exact(&mut back).unwrap();
    drop(socket);
    let mut topics = Vec::new();
    for audit in [&it.cloud.audit, &it._edge.audit] {
        wait_until("an audit record", secs(10), || {
            std::fs::read_to_string(audit).is_ok_and(|text| text.ends_with('\n'))
        });
        let text = std::fs::read_to_string(audit).unwrap();
        let record: serde_json::Value =
            serde_json::from_str(text.lines().next().unwrap()).expect("a JSON object");
        assert_eq!(record["node"], "node-A", "{record}");
        assert_eq!(record["user"], "alice", "{record}");
        assert_eq!(record["bytes_to_edge"], 5, "{record}");
        assert_eq!(record["bytes_from_edge"], 5, "{record}");
        assert!(
            record["duration_ms"].is_number() && record["reason"].is_string(),
            "{record}"
        );
        assert!(
            record["target"]
                .as_str()
                .is_some_and(|target| target.contains(':')),
            "{record}"
        );
        topics.push(record["topic"].clone());
    }
    assert_eq!(topics[0], topics[1], "the topic joins the two records");
    let cloud = std::fs::read_to_string(&it.cloud.audit).unwrap();
    assert!(
        cloud.contains("trace-4711") && cloud.contains("\"remote\""),
        "{cloud}"
    );
}

#[test]
fn bytes_keep_their_order_in_both_directions_at_once() {
    let it = echoing();
    let mut open = it.cloud.open("node-A");
    let bytes: Vec<u8> = (0..32u32 << 20)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let mut writer = open.socket.try_clone().unwrap();
    let sent = bytes.clone();
    let sending = thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let back = open.rest().unwrap();
    sending.join().unwrap();
    assert!(back == bytes, "{} of {} bytes", back.len(), bytes.len());
}

#[test]
fn a_client_that_goes_away_ends_the_target_and_the_reverse() {
    let it = echoing();
    let open = it.cloud.open("node-A");
    wait_until("the target is dialed", secs(5), || it._echo.open() == 1);
    drop(open);
    wait_until("the target's connection ends", secs(5), || {
        it._echo.open() == 0
    });

    let world = World::new();
    let brief = Target::greeter("bye\n");
    let reset = Target::serve(|socket| {
        // Unread bytes and a linger of zero make the end a reset.
        let socket = socket2::Socket::from(socket);
        socket.set_linger(Some(std::time::Duration::ZERO)).unwrap();
    });
    let cloud = world.cloud();
    let _edge = world.edge(&cloud, "node-A", &reset.address());
    if let Ok(Ok(mut open)) = Connect::try_open(&cloud.connect, "node-A:22") {
        assert!(
            open.ends(secs(5)),
            "the client hears of a target that reset"
        );
    }
    drop(brief);
    wait_until("no stream is left", secs(5), || cloud.streams() == 0.0);
}

#[test]
fn admin_pages_tell_what_is_there() {
    let it = echoing();
    let _open = it.cloud.open("node-A");
    use tunnel_tests::http;
    for admin in [&it.cloud.admin, &it._edge.admin] {
        assert_eq!(http::get(admin, "/healthz").0, 200);
        assert_eq!(http::get(admin, "/readyz").0, 200);
        assert_eq!(http::get(admin, "/nothing-here").0, 404);
    }
    drop(it.cloud.open("node-A"));
    wait_until("the second stream ends", secs(5), || {
        it.cloud.streams() == 1.0
    });
    refusal(&it.cloud.connect, "CONNECT node-B:22 HTTP/1.1\r\n\r\n");
    // What has happened, at each end; a family shows itself with its first event.
    let metrics = it.cloud.metrics();
    for name in [
        "links",
        "streams",
        "buffered_bytes",
        "build_info",
        "links_opened_total",
        "streams_closed_total",
        "stream_bytes_total",
        "connect_replies_total",
        "refused_total",
        "accept_errors_total",
        "handshake_duration_seconds",
        "connect_duration_seconds",
        "link_rtt_seconds",
    ] {
        assert!(
            metrics.knows(name),
            "no tunnel_{name} in\n{}",
            metrics.text()
        );
    }
    for name in [
        "links",
        "streams",
        "build_info",
        "dials_total",
        "dial_duration_seconds",
        "stream_bytes_total",
    ] {
        assert!(
            it._edge.metrics().knows(name),
            "no tunnel_{name} at the edge"
        );
    }
    assert!(
        !metrics.text().to_lowercase().contains("node-a"),
        "a label grows with nodes"
    );
    assert_eq!(metrics.sum("links", &[("kind", "edge")]), 1.0);
    assert_eq!(metrics.sum("streams", &[("state", "open")]), 1.0);

    let (code, body) = http::get(&it.cloud.admin, "/api/v1/nodes");
    assert_eq!(code, 200, "{body}");
    let nodes: serde_json::Value = serde_json::from_str(&body).unwrap();
    let node = nodes["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|node| node["name"] == "node-A")
        .unwrap();
    assert_eq!(node["streams"], 1, "{node}");
    assert!(
        node["since"].is_string() && node["instance"].is_string() && node["state"].is_string(),
        "{node}"
    );
    let (code, body) = http::get(&it.cloud.admin, "/api/v1/streams");
    assert_eq!(code, 200, "{body}");
    let streams: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(streams["items"][0]["node"], "node-A", "{streams}");
    assert!(streams["items"][0]["topic"].is_string(), "{streams}");
}

#[test]
fn an_edge_is_alive_and_ready_in_its_own_right() {
    let world = World::new();
    let nowhere = ClosedPort::new();
    let edge = world.edge_with(
        "node-A",
        world.edge_settings("node-A", &nowhere.address(), "127.0.0.1:22"),
    );
    assert_eq!(edge.process.status("link"), "down");
    assert_eq!(
        tunnel_tests::http::get(&edge.admin, "/healthz").0,
        200,
        "liveness never depends on the uplink"
    );
    assert_eq!(
        tunnel_tests::http::get(&edge.admin, "/readyz").0,
        503,
        "readiness does"
    );
}

#[test]
fn tokens_and_users_are_read_again_when_their_files_change() {
    let it = echoing();
    let mut open = it.cloud.open("node-A");
    let front = &it.cloud.connect_users;
    let carol = "CONNECT node-A:22 HTTP/1.1\r\nProxy-Authorization: Bearer carol-token\r\n\r\n";
    assert_eq!(refusal(front, carol).code(), 407);
    it.world.write_users(&[tunnel_tests::world::User {
        name: "carol",
        password: "c",
        token: "carol-token",
        nodes: &["*"],
        ports: &[22],
        admin: false,
    }]);
    wait_until("the new user is let in", secs(10), || {
        exchange(front, carol).is_ok_and(|(_, reply)| reply.code() == 200)
    });
    let alice =
        "CONNECT node-A:22 HTTP/1.1\r\nProxy-Authorization: Bearer alice-bearer-token\r\n\r\n";
    assert_eq!(
        refusal(front, alice).code(),
        407,
        "a user that was taken out"
    );

    // A broken file keeps the last good one, says so, and shows in a metric.
    let failed = |it: &Echoing| {
        let metrics = it.cloud.metrics();
        metrics.sum("reloads_total", &[]) - metrics.sum("reloads_total", &[("result", "ok")])
    };
    assert_eq!(failed(&it), 0.0);
    it.world.write("tokens", "this is no token file\n");
    wait_until("the broken file is counted", secs(10), || failed(&it) > 0.0);
    assert!(it.cloud.process.log_lines(&["tokens"]) > 0);
    it.world.write(
        "tokens",
        "node-A:test-token-of-the-node\nnode-D:another-token\n",
    );
    it.world.write("token-node-D", "another-token");
    let echo = Target::echo();
    let settings = it
        .world
        .edge_settings("node-D", &it.cloud.grpc, &echo.address())
        .set("reconnect.max", "500ms");
    let mut edge = it.world.edge_with("node-D", settings);
    edge.process.wait_status("link", "up", secs(10));
    it.cloud.open("node-D").echo(b"new node");
    open.echo(b"and the old session goes on");
}

#[test]
fn certificates_are_read_again_when_their_files_change() {
    let mut it = echoing();
    let mut open = it.cloud.open("node-A");
    let serial = |it: &Echoing| {
        let mut tls = dial_tls(&it.cloud.connect_tls, &it.world.pki.ca());
        tls.write_all(b"CONNECT node-A:22 HTTP/1.1\r\n\r\n")
            .unwrap();
        read_refusal(&mut tls);
        tls.conn.peer_certificates().unwrap()[0].to_vec()
    };
    let old = serial(&it);
    it.world.pki.cloud("cloud-1");
    wait_until("a new certificate is shown", secs(10), || {
        serial(&it) != old
    });
    open.echo(b"still here");
    // A broken pair keeps the last good one.
    let good = std::fs::read_to_string(&it.world.cloud_identity().cert).unwrap();
    let certificate = it.world.cloud_identity().cert.clone();
    let failed = |it: &Echoing| {
        let metrics = it.cloud.metrics();
        metrics.sum("reloads_total", &[]) - metrics.sum("reloads_total", &[("result", "ok")])
    };
    let before = failed(&it);
    tunnel_tests::pki::replace(&certificate, "no certificate");
    wait_until("the broken file is counted", secs(10), || {
        failed(&it) > before
    });
    let kept = serial(&it);
    assert!(kept != old);
    tunnel_tests::pki::replace(&certificate, &good);
    open.echo(b"and here");
    // New links get the new one, too.
    it._edge.process.kill();
    it._edge = it.world.edge(&it.cloud, "node-A", &it._echo.address());
    it.cloud.open("node-A").echo(b"again");
}

#[test]
fn a_client_certificate_is_an_edges_credential_too() {
    let world = World::new();
    let echo = Target::echo();
    let cloud = world.cloud();
    let identity = world.pki.node("node-B", "node-B");
    let settings = world
        .edge_settings("node-B", &cloud.grpc, &echo.address())
        .set("node.token_file", "")
        .set("cloud.cert", identity.cert.to_str().unwrap())
        .set("cloud.key", identity.key.to_str().unwrap());
    let mut edge = world.edge_with("node-B", settings);
    edge.process.wait_status("link", "up", secs(10));
    cloud.open("node-B").echo(b"by certificate");
}

#[test]
fn sigterm_ends_in_order_and_with_zero() {
    let mut it = echoing();
    let mut open = it.cloud.open("node-A");
    open.echo(b"x");
    drop(open);
    wait_until("no stream is left", secs(5), || it.cloud.streams() == 0.0);
    it._edge.process.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(it._edge.process.exit(secs(5)).code(), Some(0));
    it.cloud.process.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(it.cloud.process.exit(secs(5)).code(), Some(0));
}

#[test]
fn a_mistake_in_the_configuration_is_named_with_its_place() {
    let world = World::new();
    let config = world.write(
        "bad.toml",
        "[grpc]\nlisten = \"127.0.0.1:0\"\nlisten_on = 5\n",
    );
    let output = std::process::Command::new(tunnel_tests::binaries::binary("tunnel-cloud"))
        .arg("--config")
        .arg(&config)
        .arg("--check")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.contains("bad.toml:3") && error.contains("listen_on"),
        "{error}"
    );
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// What every refusal carries.
#[track_caller]
fn well_formed(reply: &Reply) {
    assert!(
        reply
            .header("Content-Type")
            .is_some_and(|value| value.starts_with("text/plain")),
        "{reply:?}"
    );
    assert_eq!(
        reply
            .header("Connection")
            .map(str::to_ascii_lowercase)
            .as_deref(),
        Some("close"),
        "{reply:?}"
    );
    let body = reply.body.trim_end();
    assert!(
        !body.is_empty() && body.lines().count() == 1,
        "a one-line reason: {reply:?}"
    );
}
