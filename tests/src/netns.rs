//! Networks of a test's own: namespaces that nobody else sees and that go with the test, and lines between them that
//! it cuts as lines are cut outside.
//!
//! A namespace is entered by a thread: what is bound, started or dialed there, processes included, belongs to it. So
//! everything else in this harness works in one as it is. Needs root.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::geteuid;

use crate::binaries::program;
use crate::wait::{secs, wait_until};

/// A network namespace. It goes with the value and the processes in it.
#[derive(Debug)]
pub struct Namespace {
    file: File,
}

/// A cloud's network and an edge's and a client's, which are joined to it by a line each. The edge's lets nobody in.
#[derive(Debug)]
pub struct Networks {
    /// Where the replicas run, each at an address of its own: [`replica_address`].
    pub cloud: Namespace,
    /// Where the edge runs. It reaches the cloud by [`LINE`]; nothing that the cloud begins gets in.
    pub edge: Namespace,
    /// Where users run.
    pub client: Namespace,
}

/// The interface at the edge's end of its line.
pub const LINE: &str = "line";
/// The interface at the user's end of theirs.
pub const DESK: &str = "desk";
/// The edge's address at first.
pub const EDGE_ADDRESS: &str = "10.77.0.2";
/// The user's.
pub const CLIENT_ADDRESS: &str = "10.77.1.2";
/// Replicas that the cloud's network has addresses for.
pub const REPLICAS: usize = 3;

/// The address of a replica, from 1 on.
pub fn replica_address(number: usize) -> String {
    format!("10.77.2.{number}")
}

/// A way to cut a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The interface is down: the end's machine knows.
    Down,
    /// Nothing gets through in either direction, and nobody is told.
    Drop,
    /// Connections are reset, and new ones refused.
    Reset,
}

impl Namespace {
    /// A new one, with its loopback up.
    pub fn new() -> Self {
        assert!(
            geteuid().is_root(),
            "tests with networks of their own need root: sudo ./test faults"
        );
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let namespace = Self {
            file: made.join().unwrap(),
        };
        namespace.ip("link set lo up");
        namespace
    }

    /// Does something in it, in a thread that ends with it; threads and processes that it starts stay in it.
    pub fn enter<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let entered = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET).expect("the namespace is entered");
                action()
            });
            entered
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// `ip …` in it.
    #[track_caller]
    pub fn ip(&self, line: &str) {
        self.run("ip", "iproute2", line);
    }

    /// `iptables …` in it.
    #[track_caller]
    pub fn iptables(&self, line: &str) {
        self.run("iptables", "iptables", &format!("-w {line}"));
    }

    /// Resets every connection to or from an address: both ends hear of it.
    #[track_caller]
    pub fn reset_connections(&self, with: &str) {
        self.run("ss", "iproute2", &format!("-K dst {with}"));
    }

    /// Its path, for `ip link … netns` and `nsenter`.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    #[track_caller]
    fn run(&self, name: &str, package: &str, line: &str) -> String {
        let mut command = Command::new(program(name, package));
        command.args(line.split_whitespace());
        let output = self.enter(|| command.output().unwrap());
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name} {line}: {text}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self::new()
    }
}

impl Networks {
    /// Makes them.
    pub fn new() -> Self {
        let networks = Self {
            cloud: Namespace::new(),
            edge: Namespace::new(),
            client: Namespace::new(),
        };
        let Self {
            cloud,
            edge,
            client,
        } = &networks;
        for (far, name, net) in [(edge, LINE, 0), (client, DESK, 1)] {
            far.ip(&format!(
                "link add name {name} type veth peer name to-{name} netns {}",
                cloud.path()
            ));
            cloud.ip(&format!("addr add 10.77.{net}.1/24 dev to-{name}"));
            cloud.ip(&format!("link set dev to-{name} up"));
            far.ip(&format!("addr add 10.77.{net}.2/24 dev {name}"));
            far.ip(&format!("link set dev {name} up"));
            far.ip(&format!("route add default via 10.77.{net}.1"));
        }
        for number in 1..=REPLICAS {
            cloud.ip(&format!("addr add {}/32 dev lo", replica_address(number)));
        }
        // The kernel tells of a carrier with a delay: that must not be the first thing that happens in a test.
        for (far, name) in [(edge, LINE), (client, DESK)] {
            wait_until("the line is up", secs(10), || {
                let shown = far.run("ip", "iproute2", &format!("-brief link show dev {name}"));
                shown.split_whitespace().any(|word| word == "UP")
            });
        }
        edge.iptables(&format!(
            "-A INPUT -i {LINE} -m conntrack --ctstate NEW,INVALID -j DROP"
        ));
        networks
    }

    /// The edge's line to the cloud.
    pub fn edge_line(&self) -> Line<'_> {
        Line {
            end: &self.edge,
            name: LINE,
            gateway: "10.77.0.1",
        }
    }

    /// The user's line to the cloud.
    pub fn client_line(&self) -> Line<'_> {
        Line {
            end: &self.client,
            name: DESK,
            gateway: "10.77.1.1",
        }
    }
}

/// An end's line to the cloud's network.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    end: &'a Namespace,
    name: &'static str,
    gateway: &'static str,
}

impl Line<'_> {
    /// Cuts it until [`Line::mend`].
    pub fn cut(&self, how: Cut) {
        let both_ways = |target: &str| {
            for (chain, direction) in [("INPUT", "-i"), ("OUTPUT", "-o")] {
                self.end.iptables(&format!(
                    "-I {chain} {direction} {} -p tcp -j {target}",
                    self.name
                ));
            }
        };
        match how {
            Cut::Down => self.end.ip(&format!("link set dev {} down", self.name)),
            Cut::Drop => both_ways("DROP"),
            Cut::Reset => {
                both_ways("REJECT --reject-with tcp-reset");
                self.reset();
            }
        }
    }

    /// Mends what was cut.
    pub fn mend(&self, how: Cut) {
        match how {
            Cut::Down => {
                self.end.ip(&format!("link set dev {} up", self.name));
                self.restore_route(); // It went with the interface.
            }
            Cut::Drop | Cut::Reset => {
                for chain in ["INPUT", "OUTPUT"] {
                    self.end.iptables(&format!("-D {chain} 1"));
                }
            }
        }
    }

    /// Resets the connections to the replicas, and takes new ones.
    pub fn reset(&self) {
        self.end.reset_connections("10.77.2.0/24");
    }

    /// Gives the machine another address instead of its own.
    pub fn move_to(&self, from: &str, to: &str) {
        self.end
            .ip(&format!("addr del {from}/24 dev {}", self.name));
        self.end.ip(&format!("addr add {to}/24 dev {}", self.name));
        self.restore_route();
    }

    fn restore_route(&self) {
        self.end
            .ip(&format!("route replace default via {}", self.gateway));
    }
}

impl Default for Networks {
    fn default() -> Self {
        Self::new()
    }
}
