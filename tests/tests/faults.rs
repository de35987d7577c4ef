//! Real faults under real SSH sessions: lines that are cut in every way, an address that changes, an edge that is
//! frozen, a proxy that cuts. In networks of the test's own; needs root.
//!
//! What was measured is printed in lines that begin with `measured:`; `./test faults` shows them.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tunnel_tests::binaries::program;
use tunnel_tests::client::Client;
use tunnel_tests::cutter::{Cutter, Limits};
use tunnel_tests::fleet::Fleet;
use tunnel_tests::metrics::Metrics;
use tunnel_tests::netns::{CLIENT_ADDRESS, Cut, EDGE_ADDRESS, Networks, replica_address};
use tunnel_tests::openssh::{TUNNEL_SSH, success};
use tunnel_tests::session::{Busy, Idle, measured};
use tunnel_tests::targets::Target;
use tunnel_tests::wait::{is_long, millis, secs, wait_until};
use tunnel_tests::world::Settings;
use tunnel_tests::{Cloud, Connect, World};

/// How soon a detached stream moves again once its way is back.
const BACK_MAX: Duration = millis(1_000);
/// The same where no link was given up: TCP sends again by itself, after pauses that double.
const SENT_AGAIN_MAX: Duration = secs(2);

fn plain(settings: Settings, _: &Networks, _: &[Cloud]) -> Settings {
    settings
}

/// Two sessions, one with bytes under way and one without, that a fault must not end.
struct Sessions<'a> {
    fleet: &'a Fleet,
    busy: Busy,
    idle: Idle,
}

impl<'a> Sessions<'a> {
    fn start(fleet: &'a Fleet) -> Self {
        Self::by(fleet, "nc")
    }

    fn by(fleet: &'a Fleet, alias: &str) -> Self {
        let (busy, mut idle) = fleet.networks.client.enter(|| {
            (
                Busy::start(&fleet.ssh, alias),
                Idle::start(&fleet.ssh, alias),
            )
        });
        idle.ask("before");
        busy.stall();
        Self { fleet, busy, idle }
    }

    /// Waits until both move again, and tells what it was like.
    #[track_caller]
    fn move_again(&mut self, what: &str, back_at: Instant, limit: Duration) {
        self.each_moves_again(what, back_at, limit, limit);
    }

    /// The same where each has a link of its own, which was given up or not.
    #[track_caller]
    fn each_moves_again(
        &mut self,
        what: &str,
        back_at: Instant,
        busy_max: Duration,
        idle_max: Duration,
    ) {
        let back = self.busy.moves_after(back_at, secs(40));
        let answer = self.idle.ask(what.split(' ').next().unwrap_or_default());
        let stall = self.busy.stall();
        measured(
            what,
            &[
                ("stall", stall),
                ("back after", back),
                ("idle session answers after", answer),
            ],
        );
        assert!(
            back <= busy_max && answer <= idle_max,
            "{what}: {back:?}, {answer:?}"
        );
    }

    fn finish(self) {
        self.finish_told();
    }

    /// What their users were told: the busy one's, and the idle one's.
    fn finish_told(self) -> [String; 2] {
        let resumed = self.fleet.edge_metrics().sum("resumes_total", &[]);
        let (bytes, told) = self.busy.finish_told();
        let told = [told, self.idle.finish()];
        println!("measured: {bytes} bytes there and back, {resumed} streams resumed");
        assert!(resumed >= 1.0, "no link was lost, so nothing was tested");
        told
    }
}

fn outlive(how: Cut, name: &str) {
    let fleet = Fleet::start(1, plain);
    let mut sessions = Sessions::start(&fleet);
    let lengths: &[u64] = if is_long() { &[1, 10, 60] } else { &[1, 10] };
    for length in lengths {
        fleet.networks.edge_line().cut(how);
        // The line is gone for so long: that is the fault, not a wait for something.
        thread::sleep(secs(*length));
        let back_at = Instant::now();
        fleet.networks.edge_line().mend(how);
        // In a second nobody gives a link up, but for a reset.
        let limit = if *length == 1 {
            SENT_AGAIN_MAX
        } else {
            BACK_MAX
        };
        sessions.move_again(&format!("{name} for {length} s"), back_at, limit);
    }
    sessions.finish();
}

#[test]
fn sessions_outlive_an_interface_that_goes_down() {
    outlive(Cut::Down, "interface down");
}

#[test]
fn sessions_outlive_a_line_that_swallows_everything() {
    outlive(Cut::Drop, "DROP both ways");
}

#[test]
fn sessions_outlive_resets() {
    outlive(Cut::Reset, "RST");
}

#[test]
fn sessions_outlive_a_new_address() {
    let fleet = Fleet::start(1, plain);
    let mut sessions = Sessions::start(&fleet);
    let moves = [(EDGE_ADDRESS, "10.77.0.3"), ("10.77.0.3", EDGE_ADDRESS)];
    for (from, to) in moves {
        let moved_at = Instant::now();
        fleet.networks.edge_line().move_to(from, to);
        sessions.move_again(&format!("address {to} for {from}"), moved_at, BACK_MAX);
    }
    sessions.finish();
}

#[test]
fn sessions_outlive_a_frozen_edge() {
    let fleet = Fleet::start(1, plain);
    let mut sessions = Sessions::start(&fleet);
    fleet.edge.process.signal(Signal::SIGSTOP);
    thread::sleep(secs(20));
    let back_at = Instant::now();
    fleet.edge.process.signal(Signal::SIGCONT);
    sessions.move_again("edge frozen for 20 s", back_at, BACK_MAX);
    sessions.finish();
}

/// How often a user was told that it is reconnecting. Each time it was told that it is back, and nothing else.
#[track_caller]
fn told(told: &str) -> usize {
    let of = |words| told.matches(words).count();
    let (lost, back) = (
        of("the connection was lost, reconnecting"),
        of("connected again"),
    );
    assert_eq!((lost, told.lines().count()), (back, lost + back), "{told}");
    lost
}

/// The user's own line, beneath `tunnel ssh`.
fn outlive_at_the_desk(how: Cut, name: &str) {
    let fleet = Fleet::start(1, plain);
    let mut sessions = Sessions::by(&fleet, TUNNEL_SSH);
    let line = fleet.networks.client_line();
    let lengths: &[u64] = if is_long() { &[1, 12, 60] } else { &[1, 12] };
    for length in lengths {
        line.cut(how);
        thread::sleep(secs(*length));
        let back_at = Instant::now();
        line.mend(how);
        let limit = if *length == 1 {
            SENT_AGAIN_MAX
        } else {
            BACK_MAX
        };
        let what = format!("{name} at the user's for {length} s");
        // After 12 s of silence an idle link has missed a probe or two, and isn't given up.
        let idle_limit = match how {
            Cut::Drop if *length == 12 => SENT_AGAIN_MAX,
            _ => limit,
        };
        sessions.each_moves_again(&what, back_at, limit, idle_limit);
    }
    let [busy, idle] = sessions.finish_told().map(|words| told(&words));
    // In a second there is nothing to say, unless the machine is slow; nor is there of what an idle one does not notice.
    assert!(
        (lengths.len() - 1..=lengths.len()).contains(&busy),
        "{busy}"
    );
    assert!(idle <= lengths.len(), "{idle}");
}

#[test]
fn tunnel_ssh_outlives_its_own_line_that_swallows_everything() {
    outlive_at_the_desk(Cut::Drop, "DROP both ways");
}

#[test]
fn tunnel_ssh_outlives_resets_of_its_own_line() {
    outlive_at_the_desk(Cut::Reset, "RST");
}

#[test]
fn tunnel_ssh_outlives_a_new_address() {
    let fleet = Fleet::start(1, plain);
    let mut sessions = Sessions::by(&fleet, TUNNEL_SSH);
    let moves = [(CLIENT_ADDRESS, "10.77.1.3"), ("10.77.1.3", CLIENT_ADDRESS)];
    for (from, to) in moves {
        let moved_at = Instant::now();
        fleet.networks.client_line().move_to(from, to);
        let what = format!("address {to} for {from} at the user's");
        sessions.move_again(&what, moved_at, BACK_MAX);
    }
    let words = sessions.finish_told();
    assert_eq!(words, ["", ""], "it did not take long");
}

/// A laptop that sleeps: nothing of it runs, and its cloud gives it up meanwhile.
#[test]
fn tunnel_ssh_outlives_a_sleep() {
    let fleet = Fleet::start(1, plain);
    let mut sessions = Sessions::by(&fleet, TUNNEL_SSH);
    let both = |signal| {
        sessions.busy.signal(signal);
        sessions.idle.signal(signal);
    };
    both(Signal::SIGSTOP);
    thread::sleep(secs(20));
    assert_eq!(
        fleet.cloud_metrics(1).sum("links", &[("kind", "client")]),
        0.0
    );
    let back_at = Instant::now();
    both(Signal::SIGCONT);
    sessions.move_again("user's machine asleep for 20 s", back_at, BACK_MAX);
    for words in sessions.finish_told() {
        told(&words);
    }
}

/// A tenth of the wait, with heartbeats of a tenth, unless full lengths are asked for.
#[test]
fn sessions_outlive_a_proxy_that_cuts_the_idle_and_the_old() {
    let scale = if is_long() { 10 } else { 1 };
    let limits = Limits {
        idle: secs(3) * scale,
        age: secs(6) * scale,
    };
    let mut proxy = None;
    let fleet = Fleet::start(1, |settings, networks, clouds| {
        let cutter = networks
            .cloud
            .enter(|| Cutter::at(&replica_address(1), &clouds[0].grpc, Some(limits)));
        let address = proxy.insert(cutter).address().to_owned();
        let settings = settings.set("cloud.addresses", vec![address]);
        match is_long() {
            true => settings,
            false => settings.set("heartbeat.interval", "1s"),
        }
    });
    let proxy = proxy.unwrap();
    // First nothing but heartbeats, then the sessions.
    wait_until("an old link is cut", limits.age * 3, || {
        proxy.age_cuts() >= 1
    });
    let mut sessions = Sessions::start(&fleet);
    for cuts in proxy.age_cuts() + 1..proxy.age_cuts() + 4 {
        wait_until("an old link is cut", limits.age * 3, || {
            proxy.age_cuts() >= cuts
        });
        sessions.move_again("cut by a proxy for its age", Instant::now(), BACK_MAX);
    }
    assert_eq!(
        proxy.idle_cuts(),
        0,
        "heartbeats keep a link from being idle"
    );
    sessions.finish();
}

#[test]
fn a_copy_arrives_whole_through_random_cuts() {
    let (mib, cuts) = if is_long() { (1024, 50) } else { (256, 15) };
    let fleet = Fleet::start(1, plain);
    let (file, copy) = (fleet.world.path("file"), fleet.world.path("copy"));
    let mut random = fs::File::open("/dev/urandom").unwrap();
    let mut source = (&mut random).take(mib << 20);
    std::io::copy(&mut source, &mut fs::File::create(&file).unwrap()).unwrap();
    let mut draw = || {
        let mut bytes = [0; 8];
        random.read_exact(&mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    };
    let mut places: Vec<u64> = (0..cuts).map(|_| draw() % (mib << 20)).collect();
    places.sort_unstable();
    println!("measured: cuts after {places:?} bytes");
    let start = Instant::now();
    let mut scp = fleet.ssh.command("scp");
    scp.args([
        "-q",
        &file.to_string_lossy(),
        &format!("nc:{}", copy.display()),
    ]);
    let mut child = fleet.networks.client.enter(|| scp.spawn().unwrap());
    for (number, place) in places.iter().enumerate() {
        wait_until("the copy grows", secs(60), || {
            fs::metadata(&copy).is_ok_and(|copy| copy.len() >= *place)
        });
        match number % 3 {
            0 => fleet.networks.edge_line().reset(),
            1 => fleet.networks.cloud.reset_connections("10.77.0.0/24"),
            _ => {
                fleet.networks.edge_line().cut(Cut::Reset);
                fleet.networks.edge_line().mend(Cut::Reset);
            }
        }
    }
    let status = child.wait().unwrap();
    assert!(status.success(), "scp: {status}");
    measured(
        &format!("scp of {mib} MiB through {cuts} cuts"),
        &[("took", start.elapsed())],
    );
    assert_eq!(sum(&file), sum(&copy));
    let resumed = fleet.cloud_metrics(1).sum("resumes_total", &[]);
    println!("measured: {resumed} streams resumed");
    // Cuts may fall together, while no link is there.
    assert!(resumed >= 5.0, "{resumed} resumes in {cuts} cuts");
}

fn sum(path: &Path) -> String {
    let file = fs::File::open(path).unwrap();
    let output = Command::new(program("sha256sum", "coreutils"))
        .stdin(file)
        .output()
        .unwrap();
    success("sha256sum", &output);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What it says, it says without being asked, so that whoever passes it on has bytes that nobody acks.
fn chatter() -> Target {
    Target::serve(|mut socket| {
        while socket.write_all(b".").is_ok() {
            thread::sleep(millis(50));
        }
    })
}

#[test]
fn a_black_hole_is_found_in_time() {
    let mut targets = Vec::new();
    let fleet = Fleet::start(1, |settings, networks, _| {
        targets = networks.edge.enter(|| vec![Target::echo(), chatter()]);
        settings
            .set("targets.map.22", targets[0].address())
            .set("targets.map.23", targets[1].address())
    });
    let connect = |port: u16| {
        fleet
            .networks
            .client
            .enter(|| Connect::open(&fleet.clouds[0].connect, &format!("node-A:{port}")))
    };
    let mut open = connect(22);
    for (waits, limit) in [(false, secs(15)), (true, secs(5))] {
        open.echo(b"here");
        let talking = waits.then(|| connect(23));
        if let Some(talking) = &talking {
            (&talking.socket).read_exact(&mut [0; 3]).unwrap();
        }
        let start = Instant::now();
        fleet.networks.edge_line().cut(Cut::Drop);
        if waits {
            open.socket.write_all(b"waits").unwrap();
        }
        let found_after = |links: &dyn Fn() -> Metrics| {
            wait_until("the link is given up", limit * 2, || {
                links().sum("links", &[]) == 0.0
            });
            start.elapsed()
        };
        let (at_cloud, at_edge) = thread::scope(|scope| {
            let cloud = scope.spawn(|| found_after(&|| fleet.cloud_metrics(1)));
            let edge = found_after(&|| fleet.edge_metrics());
            (cloud.join().unwrap(), edge)
        });
        let what = if waits {
            "black hole, streams waiting"
        } else {
            "black hole, idle"
        };
        measured(
            what,
            &[
                ("found by the cloud after", at_cloud),
                ("by the edge after", at_edge),
            ],
        );
        assert!(at_cloud <= limit && at_edge <= limit, "{what}");
        fleet.networks.edge_line().mend(Cut::Drop);
        if waits {
            let mut back = [0; 5];
            open.socket.read_exact(&mut back).unwrap();
            assert_eq!(&back, b"waits");
        }
    }
}

/// The same beneath `tunnel connect`. Three seconds after it has found out it says so.
#[test]
fn a_black_hole_at_the_user_s_is_found_in_time() {
    const TOLD_AFTER: Duration = secs(3);
    for (waits, limit) in [(false, secs(15)), (true, secs(5))] {
        let mut target = None;
        let fleet = Fleet::start(1, |settings, networks, _| {
            let serve = || if waits { chatter() } else { Target::echo() };
            let target = target.insert(networks.edge.enter(serve));
            settings.set("targets.map.22", target.address())
        });
        let grpc = &fleet.clouds[0].grpc;
        let start = || Client::start(&fleet.world, grpc, "node-A");
        let mut client = fleet.networks.client.enter(start);
        match waits {
            true => {
                let stdout = client.child.stdout.as_mut().unwrap();
                stdout.read_exact(&mut [0; 3]).unwrap();
            }
            false => client.echo(b"here"),
        }
        let mut words = BufReader::new(client.child.stderr.take().unwrap()).lines();
        let start = Instant::now();
        fleet.networks.client_line().cut(Cut::Drop);
        if waits {
            let stdin = client.child.stdin.as_mut().unwrap();
            stdin.write_all(b"waits").unwrap();
        }
        let (at_cloud, at_client) = thread::scope(|scope| {
            let cloud = scope.spawn(|| {
                wait_until("the link is given up", limit * 2, || {
                    let links = fleet.cloud_metrics(1);
                    links.sum("links", &[("kind", "client")]) == 0.0
                });
                start.elapsed()
            });
            let word = words.next().unwrap().unwrap();
            assert!(word.ends_with("reconnecting"), "{word}");
            (cloud.join().unwrap(), start.elapsed() - TOLD_AFTER)
        });
        let what = match waits {
            true => "black hole at the user's, a stream waiting",
            false => "black hole at the user's, idle",
        };
        measured(
            what,
            &[
                ("found by the cloud after", at_cloud),
                ("by tunnel after", at_client),
            ],
        );
        assert!(at_cloud <= limit && at_client <= limit, "{what}");
        fleet.networks.client_line().mend(Cut::Drop);
        let word = words.next().unwrap().unwrap();
        assert!(word.ends_with("connected again"), "{word}");
        if !waits {
            client.echo(b"and goes on");
        }
    }
}

/// The way is back at once; what counts is how soon the stream moves.
#[test]
fn a_detached_stream_moves_again_within_a_second() {
    const CUTS: usize = 100;
    let world = World::new();
    let echo = Target::echo();
    let cloud = world.cloud();
    let line = Cutter::to(&cloud.grpc);
    let settings = world.edge_settings("node-A", line.address(), &echo.address());
    let mut edge = world.edge_with("node-A", settings);
    edge.process.wait_status("link", "up", secs(10));
    let mut open = cloud.open("node-A");
    let mut times: Vec<Duration> = (0..CUTS)
        .map(|_| {
            let held = Instant::now();
            while held.elapsed() < millis(60) {
                open.echo(b"still here");
            }
            line.cut();
            let cut_at = Instant::now();
            open.echo(b"back again");
            cut_at.elapsed()
        })
        .collect();
    times.sort_unstable();
    let (median, p99) = (times[CUTS / 2], times[CUTS * 99 / 100]);
    measured(
        &format!("{CUTS} cuts"),
        &[
            ("median", median),
            ("p99", p99),
            ("longest", times[CUTS - 1]),
        ],
    );
    let resumed = cloud.metrics().sum("resumes_total", &[]);
    assert!(resumed >= CUTS as f64 * 0.9, "{resumed} resumes");
    assert!(p99 <= BACK_MAX, "p99 {p99:?}");
    open.socket.shutdown(Shutdown::Both).unwrap();
}
