//! OpenSSH and its tools through the tunnel, by every ProxyCommand that people use.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use tunnel_tests::binaries::{binary, program};
use tunnel_tests::connect::dial;
use tunnel_tests::expect::Session;
use tunnel_tests::openssh::{PROXIES, Ssh, Sshd, nc, success};
use tunnel_tests::targets::Target;
use tunnel_tests::wait::{secs, wait_until};
use tunnel_tests::world::{Cloud, Edge, World};

/// A cloud, node-A with an SSH server, and a client that knows the way.
struct Login {
    ssh: Ssh,
    _edge: Edge,
    cloud: Cloud,
    sshd: Sshd,
    world: World,
}

impl Login {
    fn start() -> Self {
        let world = World::new();
        let sshd = Sshd::start(&world);
        let cloud = world.cloud();
        let edge = world.edge(&cloud, "node-A", &sshd.address());
        let ssh = Ssh::new(&world, &cloud);
        Self {
            ssh,
            _edge: edge,
            cloud,
            sshd,
            world,
        }
    }

    /// Every session has left nothing at the cloud.
    fn settle(&self) {
        wait_until("no stream is left", secs(10), || {
            self.cloud.streams() == 0.0
        });
        wait_until("no sshd is left", secs(10), || self.sshd.open() == 0);
    }
}

#[test]
fn a_command_runs_by_every_proxy_command_with_its_status_and_output() {
    let login = Login::start();
    for alias in PROXIES {
        let output = login.ssh.run(alias, "echo out; echo err >&2; exit 42");
        assert_eq!(output.status.code(), Some(42), "{alias}: {output:?}");
        assert_eq!(output.stdout, b"out\n", "{alias}");
        assert_eq!(output.stderr, b"err\n", "{alias}");
        let mut child = login
            .ssh
            .command("ssh")
            .args([alias, "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(&[b'x'; 300_000])
            .unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(
            output.stdout == [b'x'; 300_000],
            "{alias}: {} bytes of stdin came back",
            output.stdout.len()
        );
    }
    login.settle();
}

#[test]
fn a_shell_at_a_terminal_by_every_proxy_command() {
    let login = Login::start();
    for alias in PROXIES {
        let mut shell = Session::start(&format!(
            "{} -tt {alias} 'PS1=ready: exec sh -i'",
            login.ssh.shell()
        ));
        shell.expect("ready:");
        shell.send("stty size >/dev/null && echo a-$((40 + 2))-terminal\n");
        shell.expect("a-42-terminal");
        shell.send("cat\n");
        shell.send("typed\n");
        shell.expect("typed");
        shell.expect("typed");
        // An interrupt goes through as a byte and ends cat, not the session.
        shell.send("\u{3}");
        shell.expect("ready:");
        shell.send("exit 7\n");
        assert_eq!(shell.exit().code(), Some(7), "{alias}");
    }
    login.settle();
}

#[test]
fn scp_sftp_and_rsync_by_every_proxy_command() {
    let login = Login::start();
    let file = login.world.path("file");
    random_file(&file, 3 << 20);
    for alias in PROXIES {
        let far = login.world.path(&format!("far-{alias}"));
        let near = login.world.path(&format!("near-{alias}"));
        let remote = format!("{alias}:{}", far.display());
        success(
            "scp up",
            &login
                .ssh
                .command("scp")
                .arg("-q")
                .arg(&file)
                .arg(&remote)
                .output()
                .unwrap(),
        );
        same(&file, &far);
        success(
            "scp down",
            &login
                .ssh
                .command("scp")
                .arg("-q")
                .arg(&remote)
                .arg(&near)
                .output()
                .unwrap(),
        );
        same(&file, &near);

        let batch = login.world.write(
            "batch",
            &format!(
                "put {} {}.sftp\nget {}.sftp {}.sftp\nrm {}.sftp\n",
                file.display(),
                far.display(),
                far.display(),
                near.display(),
                far.display()
            ),
        );
        success(
            "sftp",
            &login
                .ssh
                .command("sftp")
                .arg("-q")
                .arg("-b")
                .arg(batch)
                .arg(alias)
                .output()
                .unwrap(),
        );
        same(&file, &near.with_extension("sftp"));
        assert!(!far.with_extension("sftp").exists());

        let folder = login.world.path(&format!("rsync-{alias}"));
        fs::create_dir_all(folder.join("sub")).unwrap();
        fs::copy(&file, folder.join("sub/one")).unwrap();
        fs::write(folder.join("two"), "two").unwrap();
        let copy = login.world.path(&format!("rsynced-{alias}"));
        let output = Command::new(program("rsync", "rsync"))
            .args(["-a", "-e", login.ssh.shell()])
            .arg(format!("{}/", folder.display()))
            .arg(format!("{alias}:{}/", copy.display()))
            .output()
            .unwrap();
        success("rsync", &output);
        same(&file, &copy.join("sub/one"));
        assert_eq!(fs::read_to_string(copy.join("two")).unwrap(), "two");
    }
    login.settle();
}

#[test]
fn forwards_inside_the_session() {
    let login = Login::start();
    let echo = Target::echo();
    for alias in ["nc", "tunnel"] {
        let (local, dynamic, remote) = (free_port(), free_port(), free_port());
        let forward = login
            .ssh
            .command("ssh")
            .args(["-N", "-o", "ExitOnForwardFailure=yes"])
            .args(["-L", &format!("127.0.0.1:{local}:{}", echo.address())])
            .args(["-D", &format!("127.0.0.1:{dynamic}")])
            .args(["-R", &format!("127.0.0.1:{remote}:{}", echo.address())])
            .arg(alias)
            .spawn()
            .unwrap();
        let _forward = Ended(forward);
        for port in [local, remote] {
            round_trip(accepted(port), alias);
        }
        let mut socks = accepted(dynamic);
        let port: u16 = echo.address().rsplit_once(':').unwrap().1.parse().unwrap();
        socks.write_all(&[5, 1, 0]).unwrap();
        let mut answer = [0; 2];
        socks.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [5, 0]);
        let [high, low] = port.to_be_bytes();
        socks
            .write_all(&[5, 1, 0, 1, 127, 0, 0, 1, high, low])
            .unwrap();
        let mut answer = [0; 10];
        socks.read_exact(&mut answer).unwrap();
        assert_eq!(answer[1], 0, "SOCKS reply");
        round_trip(socks, alias);
    }
    login.settle();
}

#[test]
fn a_control_master_carries_many_sessions_over_one_stream() {
    let login = Login::start();
    let path = login.world.path("master");
    let control = format!("ControlPath={}", path.display());
    let master = login
        .ssh
        .command("ssh")
        .args(["-M", "-N", "-o", &control, "tunnel"])
        .spawn()
        .unwrap();
    let master = Ended(master);
    wait_until("the master listens", secs(20), || path.exists());
    for n in 0..5 {
        let output = login
            .ssh
            .command("ssh")
            .args([
                "-o",
                &control,
                "-o",
                "ProxyCommand=false",
                "tunnel",
                &format!("echo {n}"),
            ])
            .output()
            .unwrap();
        success("a session of the master", &output);
        assert_eq!(output.stdout, format!("{n}\n").as_bytes());
    }
    assert_eq!(login.cloud.streams(), 1.0);
    let output = login
        .ssh
        .command("ssh")
        .args(["-O", "exit", "-o", &control, "tunnel"])
        .output()
        .unwrap();
    success("ssh -O exit", &output);
    drop(master);
    login.settle();
}

#[test]
fn one_gibibyte_by_scp_both_ways() {
    let login = Login::start();
    let (file, far, near) = (
        login.world.path("big"),
        login.world.path("far"),
        login.world.path("near"),
    );
    random_file(&file, 1 << 30);
    let sum = sum(&file);
    for alias in ["nc", "tunnel"] {
        let remote = format!("{alias}:{}", far.display());
        success(
            "scp up",
            &login
                .ssh
                .command("scp")
                .arg("-q")
                .arg(&file)
                .arg(&remote)
                .output()
                .unwrap(),
        );
        let output = login
            .ssh
            .run(alias, &format!("sha256sum < {}", far.display()));
        assert_eq!(String::from_utf8_lossy(&output.stdout), sum, "{alias} up");
        success(
            "scp down",
            &login
                .ssh
                .command("scp")
                .arg("-q")
                .arg(&remote)
                .arg(&near)
                .output()
                .unwrap(),
        );
        assert_eq!(self::sum(&near), sum, "{alias} down");
        fs::remove_file(&far).unwrap();
        fs::remove_file(&near).unwrap();
    }
    login.settle();
    let metrics = login.cloud.metrics();
    for direction in ["to_edge", "from_edge"] {
        let bytes = metrics.sum("stream_bytes_total", &[("direction", direction)]);
        assert!(
            bytes >= 2.0 * f64::from(1 << 30),
            "{direction}: {bytes} bytes counted"
        );
    }
}

#[test]
fn two_hundred_sessions_at_once() {
    let login = Login::start();
    let sessions: Vec<(usize, Child)> = (0..200)
        .map(|n| {
            // Each stays until it is told, so that all are there together.
            let line = format!("echo here-{n}; read word; echo $word-{n}");
            let child = login
                .ssh
                .command("ssh")
                .args(["-o", "ConnectTimeout=120", PROXIES[[0, 4][n % 2]], &line])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            (n, child)
        })
        .collect();
    wait_until("200 streams are open", secs(120), || {
        login.cloud.metrics().sum("streams", &[("state", "open")]) == 200.0
    });
    let ends: Vec<_> = sessions
        .into_iter()
        .map(|(n, mut child)| {
            child.stdin.take().unwrap().write_all(b"go\n").unwrap();
            thread::spawn(move || (n, child.wait_with_output().unwrap()))
        })
        .collect();
    for end in ends {
        let (n, output) = end.join().unwrap();
        success("one of 200", &output);
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            format!("here-{n}\ngo-{n}\n")
        );
    }
    login.settle();
}

#[test]
fn nc_that_ends_its_sending_side_gets_all_of_the_answer() {
    const ANSWER: usize = 10 << 20;
    let world = World::new();
    // Answers only once the question is over.
    let target = Target::serve(|mut socket| {
        let mut question = Vec::new();
        socket.read_to_end(&mut question).unwrap();
        socket
            .write_all(&vec![question.len() as u8; ANSWER])
            .unwrap();
    });
    let cloud = world.cloud();
    let _edge = world.edge(&cloud, "node-A", &target.address());
    let question = world.write("question", "seven b");
    for mut command in [nc_n(&cloud), tunnel_connect(&cloud)] {
        let output = command
            .stdin(File::open(&question).unwrap())
            .output()
            .unwrap();
        success("the client", &output);
        assert_eq!(output.stdout.len(), ANSWER);
        assert!(output.stdout.iter().all(|byte| *byte == 7));
    }
    wait_until("no stream is left", secs(10), || cloud.streams() == 0.0);
}

#[test]
fn a_server_that_ends_its_sending_side_gets_all_of_the_question() {
    const QUESTION: usize = 10 << 20;
    let world = World::new();
    let (got, gets) = std::sync::mpsc::channel();
    let got = std::sync::Mutex::new(got);
    // Says its word, ends its direction, and only then reads.
    let target = Target::serve(move |mut socket| {
        socket.write_all(b"word").unwrap();
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        let mut question = Vec::new();
        socket.read_to_end(&mut question).unwrap();
        got.lock().unwrap().send(question.len()).unwrap();
    });
    let cloud = world.cloud();
    let _edge = world.edge(&cloud, "node-A", &target.address());
    // nc itself leaves when its peer has ended; a socket and our own helper don't.
    let mut open = cloud.open("node-A");
    assert_eq!(open.rest().unwrap(), b"word");
    open.socket.write_all(&vec![1; QUESTION]).unwrap();
    open.finish();
    assert_eq!(gets.recv_timeout(secs(30)).unwrap(), QUESTION);

    let mut child = tunnel_connect(&cloud)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut word = [0; 4];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut word)
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&vec![1; QUESTION]).unwrap();
    drop(stdin);
    assert_eq!(gets.recv_timeout(secs(30)).unwrap(), QUESTION);
    success("tunnel connect", &child.wait_with_output().unwrap());
    drop(open);
    wait_until("no stream is left", secs(10), || cloud.streams() == 0.0);
}

#[test]
fn tunnel_connect_fails_as_ssh_helpers_do() {
    let world = World::new();
    let cloud = world.cloud();
    let output = tunnel_connect(&cloud)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(255), "{output:?}");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(error.lines().count(), 1, "one line: {error:?}");
    assert!(
        error.contains("node-A") && error.contains("offline"),
        "{error:?}"
    );
    assert!(output.stdout.is_empty());
}

#[test]
fn tunnel_ssh_wraps_ssh() {
    let login = Login::start();
    let mut command = Command::new(binary("tunnel"));
    command.args([
        "--server",
        &format!("http://{}", login.cloud.connect),
        "ssh",
        "node-A",
        "--",
    ]);
    let output = command
        .arg("-F")
        .arg(login.ssh.config())
        .args(["-o", "ProxyCommand=none", "true"])
        .output();
    // The configuration names keys and host keys; the ProxyCommand of `tunnel ssh` itself must be the one that counts.
    let output = output.unwrap();
    success("tunnel ssh", &output);
    login.settle();
}

#[test]
fn tunnel_connect_over_tls_with_credentials_from_files() {
    let world = World::new();
    let echo = Target::echo();
    let cloud = world.cloud();
    let _edge = world.edge(&cloud, "node-A", &echo.address());
    let word = world.write("word", "through TLS");
    let token = world.write("alice-token", "alice-bearer-token\n");
    let password = world.write("alice-password", "wonderland\n");
    let user = "user = \"alice\"\n";
    for credential in [
        format!("token_file = {token:?}\n"),
        format!("{user}password_file = {password:?}\n"),
    ] {
        for listener in [&cloud.connect_users, &cloud.connect_tls] {
            let server = listener.replace("127.0.0.1", "localhost");
            let config = world.write(
                "config.toml",
                &format!(
                    "server = \"https://{server}\"\nca = {:?}\n{credential}",
                    world.pki.ca()
                ),
            );
            let output = Command::new(binary("tunnel"))
                .env("TUNNEL_CONFIG", config)
                .args(["connect", "node-A", "22"])
                .stdin(File::open(&word).unwrap())
                .output()
                .unwrap();
            success("tunnel connect", &output);
            assert_eq!(output.stdout, b"through TLS");
        }
    }
}

/// A child that ends with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn nc_n(cloud: &Cloud) -> Command {
    let mut command = Command::new(nc());
    command.args(["-N", "-X", "connect", "-x", &cloud.connect, "node-A", "22"]);
    command
}

fn tunnel_connect(cloud: &Cloud) -> Command {
    let mut command = Command::new(binary("tunnel"));
    command.args([
        "--server",
        &format!("http://{}", cloud.connect),
        "connect",
        "node-A",
        "22",
    ]);
    command
}

fn round_trip(mut socket: TcpStream, what: &str) {
    let bytes: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
    let mut reader = socket.try_clone().unwrap();
    let len = bytes.len();
    let back = thread::spawn(move || {
        let mut back = vec![0; len];
        reader.read_exact(&mut back).unwrap();
        back
    });
    socket.write_all(&bytes).unwrap();
    assert!(
        back.join().unwrap() == bytes,
        "{what}: a forward changes bytes"
    );
}

/// A connection to a port that ssh opens once it has logged in.
fn accepted(port: u16) -> TcpStream {
    let address = format!("127.0.0.1:{port}");
    let mut socket = None;
    wait_until("ssh forwards", secs(20), || {
        socket = dial(&address).ok();
        socket.is_some()
    });
    socket.unwrap()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

fn random_file(path: &Path, len: u64) {
    let mut source = File::open("/dev/urandom").unwrap().take(len);
    std::io::copy(&mut source, &mut File::create(path).unwrap()).unwrap();
}

fn sum(path: &Path) -> String {
    let output = Command::new("sha256sum")
        .stdin(File::open(path).unwrap())
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn same(one: &Path, other: &Path) {
    assert!(
        fs::read(one).unwrap() == fs::read(other).unwrap(),
        "{} differs",
        other.display()
    );
}
