//! `tunnel connect` by a link of its own, as a program that is told and heard.

use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::binaries::binary;
use crate::openssh::client_config;
use crate::world::World;

/// A `tunnel connect` that runs.
#[derive(Debug)]
pub struct Client {
    /// The process, with pipes.
    pub child: Child,
}

impl Client {
    /// Starts one to port 22 of a node, in the network of the calling thread.
    pub fn start(world: &World, grpc: &str, node: &str) -> Client {
        Client::with_token(world, grpc, node, "alice-bearer-token")
    }

    /// The same with a user's token.
    pub fn with_token(world: &World, grpc: &str, node: &str, token: &str) -> Client {
        let config = client_config(world, grpc, token);
        let mut command = Command::new(binary("tunnel"));
        command
            .arg("--config")
            .arg(config)
            .args(["connect", node, "22"]);
        Client::by(command)
    }

    /// The same by a command line.
    pub fn by(mut command: Command) -> Client {
        let child = command
            .env_remove("TUNNEL_SERVER")
            .env_remove("TUNNEL_TOKEN")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Client { child }
    }

    /// Says something that an echo answers.
    #[track_caller]
    pub fn echo(&mut self, word: &[u8]) {
        self.child.stdin.as_mut().unwrap().write_all(word).unwrap();
        let mut back = vec![0; word.len()];
        let stdout = self.child.stdout.as_mut().unwrap();
        stdout.read_exact(&mut back).unwrap();
        assert_eq!(back, word);
    }

    /// Ends stdin; what comes after that, and how it ends.
    pub fn finish(mut self) -> (Vec<u8>, String, ExitStatus) {
        drop(self.child.stdin.take());
        let output = self.child.wait_with_output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.stdout, error, output.status)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }
}
