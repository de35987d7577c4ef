//! `tunnel demo`: the product on one machine, in one folder that goes when it ends.

mod child;
mod folder;
mod front;
mod orders;
mod orphans;
mod pki;
mod programs;
mod replicas;
mod sshd;
mod torture;
mod words;

pub(crate) use child::{command as child_command, exec_child};

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};

use child::{Service, command, status_of};
use folder::{CloudAddresses, Folder, Login, NODES};
use orders::Order;
use programs::Programs;
use replicas::{Cluster, Ports};
use sshd::Sshd;
use tunnel_common::exit::{Exit, report};

/// The hidden command that a child is started by.
pub(crate) const CHILD_COMMAND: &str = "run-as-child";
/// Its exit status if the program couldn't be run, as a shell's.
pub(crate) const NO_PROGRAM: u8 = 127;

/// For everything to be up. It takes well under a second; a machine may be busy.
const UP_TIMEOUT: Duration = Duration::from_secs(30);

/// What happens while the demo runs.
pub(super) enum Event {
    /// A service's word to its NOTIFY_SOCKET.
    Notified(usize, String),
    /// A signal that asks us to end.
    Signal(Signal),
    /// Some child has ended.
    ChildEnded,
    /// A second terminal asks for something.
    Order(Order),
}

/// Why the demo ends before the shell does.
enum Stop {
    Failed(String),
    Signal(Signal),
}

impl From<String> for Stop {
    fn from(line: String) -> Self {
        Self::Failed(line)
    }
}

/// Runs the demo; the status is that of `cmd` or the shell.
pub(crate) fn run(replicas: usize, torture: bool, cmd: &[String]) -> Exit {
    if torture && replicas < 2 {
        report(
            "tunnel",
            &"demo: --torture kills and replaces replicas: it takes --replicas 2 or more",
        );
        return Exit::Usage;
    }
    if torture {
        return match prepare().and_then(|mut demo| demo.play_torture(replicas)) {
            Ok(()) => Exit::Passed(0),
            Err(stop) => stopped(stop),
        };
    }
    match prepare().and_then(|mut demo| demo.play(replicas, cmd)) {
        Ok(status) => {
            words::ended(cmd);
            Exit::Passed(status_code(status))
        }
        Err(stop) => stopped(stop),
    }
}

fn stopped(stop: Stop) -> Exit {
    match stop {
        Stop::Failed(line) => {
            eprintln!("tunnel: demo: {line}");
            Exit::Failed
        }
        Stop::Signal(signal) => Exit::Signal(u8::try_from(signal as i32).unwrap_or(0)),
    }
}

fn prepare() -> Result<Demo, Stop> {
    let programs = Programs::find()?;
    let login = Login::current()?;
    let (sender, events) = channel();
    let signals = block_signals()?;
    orphans::adopt().map_err(|error| format!("cannot adopt orphans: {error}"))?;
    let folder = Folder::make(&programs, &login)?;
    watch_signals(signals, sender.clone(), folder.path().to_owned())?;
    let made_privsep = login.root && sshd::make_privsep().map_err(|error| error.to_string())?;
    Ok(Demo {
        programs,
        login,
        sender,
        events,
        services: Vec::new(),
        statuses: Vec::new(),
        sshds: Vec::new(),
        cluster: None,
        orders: VecDeque::new(),
        shell: None,
        made_privsep,
        folder,
    })
}

/// A running demo. Dropped, it ends its children and takes the folder away.
struct Demo {
    programs: Programs,
    login: Login,
    sender: Sender<Event>,
    events: Receiver<Event>,
    services: Vec<Service>,
    /// What each service said last.
    statuses: Vec<Option<BTreeMap<String, String>>>,
    sshds: Vec<Sshd>,
    /// Where there are several replicas.
    cluster: Option<Cluster>,
    /// Asked for and not done yet.
    orders: VecDeque<Order>,
    shell: Option<Child>,
    made_privsep: bool,
    folder: Folder,
}

impl Demo {
    fn play(&mut self, replicas: usize, cmd: &[String]) -> Result<ExitStatus, Stop> {
        let cloud = self.set_up(replicas)?;
        words::second_terminal(&self.folder, &self.programs, &cloud);
        if self.cluster.is_some() {
            let control = self.folder.join("control");
            orders::listen(&control, self.sender.clone())?;
            words::orders(&control);
        }
        words::shell(cmd);
        self.run_shell(cmd)
    }

    fn play_torture(&mut self, replicas: usize) -> Result<(), Stop> {
        self.set_up(replicas)?;
        self.torture()
    }

    fn set_up(&mut self, replicas: usize) -> Result<CloudAddresses, Stop> {
        let begun = Instant::now();
        let deadline = begun + UP_TIMEOUT;
        words::folder(self.folder.path());
        let cloud = match replicas {
            0 | 1 => self.start_cloud(deadline)?,
            _ => self.start_replicas(replicas, deadline)?,
        };
        words::cloud_up(&cloud, replicas, begun);
        self.start_nodes(&cloud, deadline, begun)?;
        self.folder
            .write_user_files(&self.programs, &self.login, &cloud)
            .map_err(|error| format!("{}: {error}", self.folder.path().display()))?;
        Ok(cloud)
    }

    fn start_replicas(
        &mut self,
        replicas: usize,
        deadline: Instant,
    ) -> Result<CloudAddresses, Stop> {
        let ports = Ports::find(replicas).map_err(|error| format!("no ports: {error}"))?;
        self.folder
            .add_replicas(&ports)
            .map_err(|error| format!("{}: {error}", self.folder.path().display()))?;
        let mut started = Vec::new();
        for number in 1..=replicas {
            let name = format!("cloud-{number}");
            let config = self.folder.join(&format!("{name}/cloud.toml"));
            started.push(self.start(&name, self.programs.cloud.clone(), config)?);
        }
        for who in &started {
            self.wait_until(*who, deadline, "listens", |status| {
                status.contains_key("connect")
            })?;
        }
        let cluster = Cluster::make(started, &ports).map_err(|error| format!("front: {error}"))?;
        let addresses = cluster.addresses(&ports);
        self.cluster = Some(cluster);
        Ok(addresses)
    }

    fn start_cloud(&mut self, deadline: Instant) -> Result<CloudAddresses, Stop> {
        let config = self.folder.join("cloud-1/cloud.toml");
        let who = self.start("tunnel-cloud", self.programs.cloud.clone(), config)?;
        self.wait_until(who, deadline, "listens", |status| {
            status.contains_key("connect")
        })?;
        let status = self.statuses[who].clone().unwrap_or_default();
        let address = |name: &str, index: usize| -> Result<SocketAddr, String> {
            let of = status.get(name).and_then(|all| all.split(',').nth(index));
            of.and_then(|text| text.parse().ok()).ok_or_else(|| {
                self.services[who].obituary(&format!("did not say where its {name} port is"))
            })
        };
        Ok(CloudAddresses {
            grpc: address("grpc", 0)?,
            plain: address("connect", 0)?,
            tls: address("connect", 1)?,
            admin: address("admin", 0)?,
        })
    }

    fn start_nodes(
        &mut self,
        cloud: &CloudAddresses,
        deadline: Instant,
        begun: Instant,
    ) -> Result<(), Stop> {
        let mut started = Vec::new();
        for (index, node) in NODES.into_iter().enumerate() {
            let grpc = self
                .cluster
                .as_ref()
                .map_or(cloud.grpc, |cluster| cluster.edge(index));
            let failed = |error| format!("{node}: {error}");
            let sshd = Sshd::start(&self.programs, self.folder.path(), node, self.login.root)
                .map_err(failed)?;
            let config = self
                .folder
                .write_edge_toml(node, grpc, sshd.address())
                .map_err(failed)?;
            self.sshds.push(sshd);
            started.push(self.start(node, self.programs.edge.clone(), config)?);
        }
        for (index, who) in started.into_iter().enumerate() {
            self.wait_until(who, deadline, "has its link up", |status| {
                status.get("link").is_some_and(|link| link == "up")
            })?;
            words::node_up(NODES[index], self.sshds[index].address(), begun);
        }
        Ok(())
    }

    fn start(&mut self, name: &str, program: PathBuf, config: PathBuf) -> Result<usize, Stop> {
        let who = self.services.len();
        let command = self.service_command(&program, config);
        let service = Service::start(name, command, self.folder.path(), who, self.sender.clone())
            .map_err(|error| format!("{name}: {error}"))?;
        self.services.push(service);
        self.statuses.push(None);
        Ok(who)
    }

    fn service_command(&self, program: &Path, config: PathBuf) -> Command {
        let mut command = command(&self.programs.own, program);
        command
            .arg("--config")
            .arg(config)
            .env_remove("TUNNEL_CONFIG");
        command
    }

    fn wait_until(
        &mut self,
        who: usize,
        deadline: Instant,
        what: &str,
        met: impl Fn(&BTreeMap<String, String>) -> bool,
    ) -> Result<(), Stop> {
        while !self.statuses[who].as_ref().is_some_and(&met) {
            self.next_event(Some(deadline)).map_err(|stop| match stop {
                Some(stop) => stop,
                None => self.services[who]
                    .obituary(&format!(
                        "is not up: nothing says that it {what} after {} s",
                        UP_TIMEOUT.as_secs()
                    ))
                    .into(),
            })?;
        }
        Ok(())
    }

    /// Takes in one event; `None`: the deadline came first.
    fn next_event(&mut self, deadline: Option<Instant>) -> Result<(), Option<Stop>> {
        let event = match deadline {
            None => self
                .events
                .recv()
                .map_err(|_| RecvTimeoutError::Disconnected),
            Some(deadline) => self
                .events
                .recv_timeout(deadline.saturating_duration_since(Instant::now())),
        };
        match event {
            Ok(Event::Notified(who, text)) => {
                if let Some(status) = status_of(&text) {
                    self.statuses[who] = Some(status);
                }
                Ok(())
            }
            // While something is being done to the cluster the next waits.
            Ok(Event::Order(order)) => {
                self.orders.push_back(order);
                Ok(())
            }
            Ok(Event::Signal(signal)) => Err(Some(Stop::Signal(signal))),
            Ok(Event::ChildEnded) => {
                self.sshds.iter().for_each(Sshd::reap);
                for service in &mut self.services {
                    if let Some(status) = service.died() {
                        return Err(Some(
                            service.obituary(&format!("has ended ({status})")).into(),
                        ));
                    }
                }
                Ok(())
            }
            Err(_) => Err(None),
        }
    }

    fn run_shell(&mut self, cmd: &[String]) -> Result<ExitStatus, Stop> {
        let mut ssh = command(&self.programs.own, &self.programs.ssh);
        ssh.arg("-F")
            .arg(self.folder.join("ssh/config"))
            .arg(NODES[0])
            .args(cmd);
        let child = ssh
            .spawn()
            .map_err(|error| format!("cannot run ssh: {error}"))?;
        self.shell = Some(child);
        loop {
            let ended = self.shell.as_mut().map(Child::try_wait).transpose();
            if let Some(status) = ended.map_err(|error| format!("ssh: {error}"))?.flatten() {
                self.shell = None;
                if status.code() == Some(255) {
                    // ssh's own failure, or the command's; the other end knows more.
                    words::log(&self.folder.join(&format!("log/sshd-{}.log", NODES[0])));
                }
                return Ok(status);
            }
            // Not through next_event: a service that dies under the shell is told by the shell.
            match self.events.recv() {
                Ok(Event::Signal(signal)) => return Err(Stop::Signal(signal)),
                Ok(Event::ChildEnded) => self.sshds.iter().for_each(Sshd::reap),
                Ok(Event::Notified(..)) => {}
                Ok(Event::Order(order)) => {
                    self.orders.push_back(order);
                    while let Some(order) = self.orders.pop_front() {
                        self.obey(order)?;
                    }
                }
                Err(_) => return Err("its signals went away".to_owned().into()),
            }
        }
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if let Some(mut shell) = self.shell.take() {
            child::end(&mut shell);
        }
        for service in &mut self.services {
            service.ask_to_end();
        }
        for service in &mut self.services {
            service.end();
        }
        self.sshds.iter().for_each(Sshd::end);
        // What sessions left in the background.
        orphans::end_all();
        if self.made_privsep {
            sshd::remove_privsep();
        }
    }
}

/// Keeps signals for [`watch_signals`], before there is anything to clean up. Threads and programs started from here on
/// inherit it; [`exec_child`] gives them up again.
fn block_signals() -> Result<SigSet, String> {
    let mut set = SigSet::empty();
    for signal in [
        Signal::SIGCHLD,
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGQUIT,
    ] {
        set.add(signal);
    }
    set.thread_block()
        .map_err(|error| format!("signals: {error}"))?;
    Ok(set)
}

/// Turns signals into events. A second one that asks us to end is obeyed at once.
fn watch_signals(set: SigSet, events: Sender<Event>, folder: PathBuf) -> Result<(), String> {
    let watch = move || {
        let mut asked = false;
        while let Ok(signal) = set.wait() {
            if signal == Signal::SIGCHLD {
                let _ = events.send(Event::ChildEnded);
                continue;
            }
            if std::mem::replace(&mut asked, true) {
                // Children end with us, by the kernel.
                let _ = std::fs::remove_dir_all(&folder);
                std::process::exit(128 + signal as i32);
            }
            let _ = events.send(Event::Signal(signal));
        }
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(watch)
        .map_err(|error| format!("signals: {error}"))?;
    Ok(())
}

/// As a shell has it: the status, or 128 and the signal.
fn status_code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}
