//! Who reads docs/kubernetes.md and types what stands there: the commands are the page's own, so neither drifts from the other.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tunnel_tests::World;
use tunnel_tests::binaries::{binary, program};
use tunnel_tests::kubernetes::programs;
use tunnel_tests::nodes::{CLOUD, Nodes};
use tunnel_tests::openssh::{Ssh, nc, success};
use tunnel_tests::pages::{between, read, repository, shell};
use tunnel_tests::world::{TOKEN, User};

/// The user's machine, in a network of its own; and the edge's, to which the newcomer carries its token.
pub(crate) struct Newcomer<'a> {
    nodes: &'a Nodes,
    /// The section `From nothing to a login`.
    page: String,
    /// The home folder, and where the commands are typed.
    home: PathBuf,
    /// What step 5 prints last.
    port: RefCell<String>,
}

impl<'a> Newcomer<'a> {
    pub(crate) fn new(world: &World, nodes: &'a Nodes) -> Self {
        let home = world.path("home");
        for folder in ["bin", "target", "own", ".config/tunnel"] {
            fs::create_dir_all(home.join(folder)).unwrap();
        }
        let binaries = binary("tunnel").parent().unwrap().to_owned();
        symlink(repository("deploy"), home.join("deploy")).unwrap();
        symlink(binaries, home.join("target/release")).unwrap();
        for (name, path) in [
            ("tunnel", binary("tunnel")),
            ("kubectl", programs(&[]).join("kubectl")),
            ("nc", nc()),
        ] {
            symlink(path, home.join("bin").join(name)).unwrap();
        }
        // The user's ssh has a configuration, and a command instead of a terminal.
        let ssh = Ssh::by(world, "edge-a", &[]);
        let real = program("ssh", "openssh-client");
        let wrapper = format!(
            "#!/bin/sh\nexec {} -F {} \"$@\" 'echo hello'\n",
            real.display(),
            ssh.config().display()
        );
        let wrapper_file = home.join("bin/ssh");
        fs::write(&wrapper_file, wrapper).unwrap();
        fs::set_permissions(&wrapper_file, fs::Permissions::from_mode(0o755)).unwrap();
        let page = read("docs/kubernetes.md");
        let newcomer = Self {
            nodes,
            page: between(&page, "## From nothing to a login\n", "\n## ").to_owned(),
            home,
            port: RefCell::default(),
        };
        newcomer.write_files(world);
        newcomer
    }

    /// What the text around the commands says is there.
    fn write_files(&self, world: &World) {
        let user = User {
            name: "ann",
            password: "wonderland",
            token: "anns-bearer-token",
            nodes: &["edge-*"],
            ports: &[22],
            admin: true,
        };
        world.write_users(&[user]);
        fs::copy(world.path("users.toml"), self.home.join("users.toml")).unwrap();
        self.write("tokens", &format!("edge-a:{TOKEN}\n"));
        secret(&self.home.join(".config/tunnel/token"), user.token);
        self.write(".config/tunnel/auth", "ann:wonderland");
        let token = self.nodes.folder("edge-a").join("etc-tunnel/token");
        secret(&token, TOKEN);
        chown(&token, Some(65532), Some(65532)).unwrap();
        let own = world.pki.replica("own");
        for (file, path) in [
            ("own/tls.crt", &own.cert),
            ("own/tls.key", &own.key),
            ("own/ca.crt", &world.pki.ca().to_owned()),
        ] {
            fs::copy(path, self.home.join(file)).unwrap();
        }
    }

    /// All of the section.
    pub(crate) fn logs_in(&self) {
        let mut typed = 0;
        let mut count = |lines: Vec<String>| {
            typed += lines.len();
            lines
        };

        let mut lines = count(self.commands(1)).into_iter();
        // ./test has just done that.
        let built = lines.next().unwrap();
        let test = read("test");
        assert!(
            test.contains(&built.replace("build", "build --locked")),
            "{built}"
        );
        for line in lines {
            match line.starts_with("ctr ") {
                true => self.on_both_nodes(&line),
                false => drop(self.types(&line)),
            }
        }
        // With certificates of one's own: beside the rest, which has the Job's.
        for line in count(self.commands(2)) {
            let line = line.replace("edge-system", "edge-own");
            self.types(&format!("cd own && {line}"));
        }
        for step in 3..=5 {
            for line in count(self.commands(step)) {
                let said = self.types(&line);
                *self.port.borrow_mut() = said.trim().to_owned();
            }
        }
        let config = self.block(6, "toml").concat();
        let (_, ca) = config
            .split_once("# kubectl ")
            .expect("where the CA is from");
        let ca = self.types(&format!("kubectl {}", ca.lines().next().unwrap()));
        self.write(".config/tunnel/ca.crt", &ca);
        self.write(".config/tunnel/config.toml", &self.here(&config));
        assert_eq!(self.types("tunnel ssh root@edge-a"), "hello\n");
        // The one by nc needs another configuration of the cloud: `logs_in_by_nc`.
        let by_password = count(self.commands(6));
        assert_eq!(self.types(&by_password[0]), "hello\n");
        let all: usize = shell(&self.page).map(|block| block.lines().count()).sum();
        assert_eq!(typed, all, "each command of the section is typed");
    }

    /// The page's line by nc, once the cloud asks for no credentials.
    pub(crate) fn logs_in_by_nc(&self) {
        let port = "kubectl -n edge-system get svc tunnel-cloud";
        let lines = self.commands(5);
        let line = lines.iter().find(|line| line.starts_with(port)).unwrap();
        *self.port.borrow_mut() = self.types(line).trim().to_owned();
        assert_eq!(self.types(&self.commands(6)[1]), "hello\n");
    }

    /// The line of a step that begins so.
    pub(crate) fn line(&self, step: usize, begins: &str) -> String {
        let mut lines = self.commands(step).into_iter();
        lines
            .find(|line| line.starts_with(begins))
            .expect("a line of the page")
    }

    /// As the page's user, for ssh.
    pub(crate) fn proxy_command(&self) -> String {
        let (tunnel, config) = (
            self.home.join("bin/tunnel"),
            self.home.join(".config/tunnel/config.toml"),
        );
        format!(
            "env HOME={} {} --config {} connect %h %p",
            self.home.display(),
            tunnel.display(),
            config.display()
        )
    }

    /// Types a line on the user's machine; what it prints.
    #[track_caller]
    pub(crate) fn types(&self, line: &str) -> String {
        let output = self.tries(line);
        success(line, &output);
        String::from_utf8(output.stdout).unwrap()
    }

    /// The same, whatever comes of it.
    pub(crate) fn tries(&self, line: &str) -> Output {
        let mut command = self.shell(line);
        let client = &self.nodes.networks.client;
        client.enter(|| command.output().unwrap())
    }

    fn shell(&self, line: &str) -> Command {
        let mut command = Command::new("timeout");
        command
            .args(["180", "bash", "-euo", "pipefail", "-c", &self.here(line)])
            .current_dir(&self.home)
            .env("HOME", &self.home)
            .env("PATH", self.path())
            .env("KUBECONFIG", self.nodes.plane.kubeconfig())
            .env_remove("TUNNEL_SERVER")
            .env_remove("TUNNEL_TOKEN")
            .stdin(Stdio::null());
        command
    }

    /// Where that machine's programs are.
    pub(crate) fn path(&self) -> String {
        let others = std::env::var("PATH").unwrap();
        format!("{}:{others}", self.home.join("bin").display())
    }

    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    #[track_caller]
    fn on_both_nodes(&self, line: &str) {
        for node in ["cloud-a", "edge-a"] {
            let mut command = self.shell(line);
            let socket = self.nodes.folder(node).join("containerd.sock");
            let output = command.env("CONTAINERD_ADDRESS", socket).output().unwrap();
            success(line, &output);
        }
    }

    /// The page's places as they are here.
    fn here(&self, text: &str) -> String {
        let text = text.replace(
            "cloud.example.com:PORT",
            &format!("{CLOUD}:{}", self.port.borrow()),
        );
        let text = text.replace(
            "cloud.example.com PORT",
            &format!("{CLOUD} {}", self.port.borrow()),
        );
        text.replace("cloud.example.com", CLOUD)
    }

    /// The commands of a step, without what stands behind them for the reader.
    fn commands(&self, step: usize) -> Vec<String> {
        let lines = self.block(step, "sh").into_iter();
        let command = |line: String| line.split("  #").next().unwrap().trim().to_owned();
        lines.map(command).collect()
    }

    /// The lines of a step's block.
    fn block(&self, step: usize, language: &str) -> Vec<String> {
        let step = between(
            &self.page,
            &format!("\n**{step}. "),
            &format!("\n**{}. ", step + 1),
        );
        let block = between(step, &format!("```{language}\n"), "```");
        block.split_inclusive('\n').map(str::to_owned).collect()
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.home.join(file), text).unwrap();
    }
}

/// A file for its owner only.
fn secret(file: &Path, text: &str) {
    fs::write(file, text).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}
