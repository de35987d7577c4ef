//! Lines `address node` in a file, as SuperEdge has them in its ConfigMap: for a CoreDNS with the `hosts` plugin.
//!
//! The file is shared by all replicas. Each replaces only the lines with its own address, under a lock, by a temporary file that
//! takes the old one's place. One thread does that: nothing waits for a file system.
mod file;

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use proto_core::name::NodeName;
use proto_core::replica::Held;

use super::lines::{self, Table};
use super::{Answer, Dns, Found, NotFound, Registry};
use crate::metrics::Metrics;
use file::{HostsFile, Stamp};

/// How often the file is looked at, for what others have written.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// After a change, how long others are waited for, so that a thousand edges that come back make one new file.
const COALESCE: Duration = Duration::from_millis(50);
/// A disk that fails is tried again after this.
const RETRY: Duration = Duration::from_secs(1);
/// How long the end of the process waits for the last write.
const LAST_WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// What a `hosts` registry is made of.
#[derive(Debug)]
pub struct HostsSettings {
    /// The file. Beside it there will be one of the same name with `.lock` behind it.
    pub file: PathBuf,
    /// This replica's address, as the others know it.
    pub address: IpAddr,
    /// Who answers look-ups; none: they are answered from the file itself.
    pub dns: Option<Dns>,
    /// Where it counts.
    pub metrics: Arc<Metrics>,
}

/// See the module.
#[derive(Debug)]
pub struct Hosts {
    dns: Option<Dns>,
    table: Arc<Mutex<Table>>,
    changes: Option<Sender<Change>>,
    /// Ends when the writer has.
    over: Mutex<Receiver<()>>,
}

/// A node, by its name in lower case and as it is spelled, has come or gone.
struct Change {
    key: String,
    is_here: bool,
}

impl Hosts {
    /// Takes over the file, or makes one: lines that this replica's address had before are gone.
    ///
    /// # Errors
    /// The file can't be read, or its folder not written.
    pub fn start(settings: HostsSettings) -> io::Result<Hosts> {
        let mut writer = Writer {
            file: HostsFile::new(settings.file, settings.address)?,
            nodes: BTreeSet::new(),
            seen: None,
            table: Arc::default(),
            metrics: settings.metrics,
        };
        let table = writer.table.clone();
        writer.write()?;
        let (changes, receive) = channel();
        let (ends, over) = channel();
        std::thread::Builder::new()
            .name("hosts".to_owned())
            .spawn(move || {
                writer.run(&receive);
                drop(ends);
            })?;
        Ok(Hosts {
            dns: settings.dns,
            table,
            changes: Some(changes),
            over: Mutex::new(over),
        })
    }
}

impl Registry for Hosts {
    fn set(&self, node: &NodeName, held: &[Held]) {
        let change = Change {
            key: node.key().to_owned(),
            is_here: !held.is_empty(),
        };
        // Its thread ends after this, never before.
        if let Some(changes) = &self.changes {
            let _ = changes.send(change);
        }
    }

    fn find(&self, node: &NodeName) -> Found {
        let name = node.key().to_owned();
        if let Some(dns) = self.dns.clone() {
            return Box::pin(async move {
                Answer {
                    source: "dns",
                    result: dns.addresses(&name).await,
                }
            });
        }
        let found = lock(&self.table).get(&name).cloned();
        Box::pin(std::future::ready(Answer {
            source: "hosts",
            result: found.ok_or(NotFound::Nobody),
        }))
    }
}

/// Takes this replica's lines out of the file.
impl Drop for Hosts {
    fn drop(&mut self) {
        self.changes = None;
        let over = self.over.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = over.recv_timeout(LAST_WRITE_TIMEOUT);
    }
}

struct Writer {
    file: HostsFile,
    /// What this replica holds.
    nodes: BTreeSet<String>,
    /// The file as it was looked at last.
    seen: Option<Stamp>,
    table: Arc<Mutex<Table>>,
    metrics: Arc<Metrics>,
}

impl Writer {
    fn run(mut self, changes: &Receiver<Change>) {
        loop {
            let pause = match self.seen {
                Some(_) => LOOK_INTERVAL,
                None => RETRY,
            };
            match changes.recv_timeout(pause) {
                Ok(change) => {
                    self.apply(change);
                    self.wait_for_more(changes);
                    self.try_write();
                }
                Err(RecvTimeoutError::Timeout) if self.file.stamp() == self.seen => {}
                Err(RecvTimeoutError::Timeout) => self.try_write(),
                Err(RecvTimeoutError::Disconnected) => {
                    self.nodes.clear();
                    return self.try_write();
                }
            }
        }
    }

    fn apply(&mut self, change: Change) {
        if change.is_here {
            self.nodes.insert(change.key);
        } else {
            self.nodes.remove(&change.key);
        }
    }

    fn wait_for_more(&mut self, changes: &Receiver<Change>) {
        let until = Instant::now() + COALESCE;
        while let Ok(change) = changes.recv_timeout(until.saturating_duration_since(Instant::now()))
        {
            self.apply(change);
        }
    }

    fn try_write(&mut self) {
        let wrote = self.write();
        if let Err(error) = &wrote {
            self.seen = None;
            tracing::warn!(%error, file = %self.file.path().display(), "the hosts file could not be written");
        }
        self.metrics
            .registry_wrote(if wrote.is_ok() { "ok" } else { "failed" });
    }

    fn write(&mut self) -> io::Result<()> {
        let (text, stamp) = self.file.replace_own(&self.nodes)?;
        self.seen = stamp;
        *lock(&self.table) = lines::table(&text);
        Ok(())
    }
}

fn lock(table: &Mutex<Table>) -> std::sync::MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto_core::Instance;

    #[test]
    fn replicas_share_a_file_and_each_keeps_its_own_lines() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("hosts");
        std::fs::write(&path, "# kept\n10.0.0.1 left-over\n10.0.0.9 theirs\n").expect("written");
        let one = start(&path, "10.0.0.1");
        let two = start(&path, "10.0.0.2");
        for node in 0..50 {
            one.set(&name(&format!("Node-{node}")), &[held()]);
            two.set(&name(&format!("Other-{node}")), &[held()]);
        }
        two.set(&name("other-0"), &[]);
        until(&path, |text| {
            let lines = |of: &str| text.lines().filter(|line| line.starts_with(of)).count();
            (lines("10.0.0.1 "), lines("10.0.0.2 ")) == (50, 49)
        });
        drop(one);
        let text = std::fs::read_to_string(&path).expect("a file");
        assert!(!text.contains("10.0.0.1"), "gone in good order: {text}");
        assert!(text.starts_with("# kept\n10.0.0.9 theirs\n"), "{text}");
        assert!(text.contains("10.0.0.2 other-7\n"));
    }

    #[test]
    fn lines_that_somebody_took_away_come_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("hosts");
        let hosts = start(&path, "10.0.0.1");
        hosts.set(&name("node-A"), &[held()]);
        until(&path, |text| text == "10.0.0.1 node-a\n");
        std::fs::write(&path, "10.0.0.2 node-a\n").expect("written");
        until(&path, |text| text == "10.0.0.2 node-a\n10.0.0.1 node-a\n");
        let runtime = crate::lanes::runtime().build().expect("a runtime");
        let addresses = ["10.0.0.2", "10.0.0.1"].map(|ip| ip.parse::<IpAddr>().expect("one"));
        // The table is made of what was written, after that.
        let begun = Instant::now();
        while runtime.block_on(hosts.find(&name("NODE-A"))).result != Ok(addresses.to_vec()) {
            assert!(begun.elapsed() < Duration::from_secs(10));
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_dns_server_that_is_gone_costs_no_more_than_its_time() {
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
        let dns = Dns::new(super::super::DnsServer(silent.local_addr().expect("one")));
        let runtime = crate::lanes::runtime().build().expect("a runtime");
        let begun = Instant::now();
        let found = runtime.block_on(dns.expect("a resolver").addresses("node-a"));
        assert_eq!(found, Err(NotFound::Failed));
        assert!(begun.elapsed() < Duration::from_secs(3));
    }

    fn start(path: &std::path::Path, address: &str) -> Hosts {
        Hosts::start(HostsSettings {
            file: path.to_owned(),
            address: address.parse().expect("an address"),
            dns: None,
            metrics: Arc::new(Metrics::new("cloud")),
        })
        .expect("a registry")
    }

    /// Waits for the writer's thread, by looking at what it writes.
    fn until(path: &std::path::Path, is: impl Fn(&str) -> bool) {
        let begun = Instant::now();
        loop {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            if is(&text) {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "{text}");
            std::thread::yield_now();
        }
    }

    fn name(node: &str) -> NodeName {
        NodeName::parse(node).expect("a name")
    }

    fn held() -> Held {
        Held {
            spelling: "node-A".to_owned(),
            instance: Instance::parse("a.1").expect("well-formed"),
            since_ms: 1,
            draining: false,
        }
    }
}
