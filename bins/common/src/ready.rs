//! Readiness as systemd wants to hear it: datagrams to NOTIFY_SOCKET. Tests and `tunnel demo` wait on them as well.

use std::io;
#[cfg(target_os = "linux")]
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The one who waits for this process, if anybody does.
#[derive(Debug, Default)]
pub struct Notify {
    to: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notify {
    /// By NOTIFY_SOCKET and WATCHDOG_USEC; without the former all that follows does nothing.
    pub fn from_env(env: &dyn Fn(&str) -> Option<String>) -> io::Result<Self> {
        let Some(path) = env("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else {
            return Ok(Self::default());
        };
        let address = match path.strip_prefix('@') {
            #[cfg(target_os = "linux")]
            Some(name) => SocketAddr::from_abstract_name(name)?,
            #[cfg(not(target_os = "linux"))]
            Some(_) => return Err(io::Error::from(io::ErrorKind::Unsupported)),
            None => SocketAddr::from_pathname(&path)?,
        };
        let is_ours = env("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let watchdog = env("WATCHDOG_USEC")
            .filter(|_| is_ours)
            .and_then(|text| text.parse().ok());
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            to: Some((socket, address)),
            watchdog: watchdog.filter(|usec| *usec > 0).map(Duration::from_micros),
        })
    }

    /// Listening, with the bound addresses in `status`: `grpc=127.0.0.1:43211 admin=…`.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}", one_line(status)));
    }

    /// The same in the place of another process, which needn't be a child of the waiting one's.
    pub fn take_over(&self, status: &str) {
        let (id, status) = (std::process::id(), one_line(status));
        self.send(&format!("MAINPID={id}\nREADY=1\nSTATUS={status}"));
    }

    /// Something changed.
    pub fn status(&self, status: &str) {
        self.send(&format!("STATUS={}", one_line(status)));
    }

    /// On its way out.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// Still alive; due twice per [`Self::watchdog_interval`].
    pub fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    /// How long the waiting one puts up with silence; `None`: for ever.
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog
    }

    /// A word that gets lost harms nobody here.
    fn send(&self, text: &str) {
        if let Some((socket, address)) = &self.to
            && let Err(error) = socket.send_to_addr(text.as_bytes(), address)
        {
            tracing::debug!(%error, "NOTIFY_SOCKET doesn't listen");
        }
    }
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn the_words_arrive_on_both_kinds_of_sockets() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("notify").display().to_string();
        let name = format!("tunnel-test-{}", std::process::id());
        let by_name = SocketAddr::from_abstract_name(&name).expect("name");
        for (socket, value) in [
            (UnixDatagram::bind(&path).expect("bind"), path),
            (
                UnixDatagram::bind_addr(&by_name).expect("bind"),
                format!("@{name}"),
            ),
        ] {
            let notify = Notify::from_env(&|name| match name {
                "NOTIFY_SOCKET" => Some(value.clone()),
                "WATCHDOG_USEC" => Some("2000000".to_owned()),
                _ => None,
            })
            .expect("socket");
            notify.ready("admin=127.0.0.1:1\nlink=down");
            notify.stopping();
            let mut buffer = [0; 256];
            let size = socket.recv(&mut buffer).expect("datagram");
            assert_eq!(
                &buffer[..size],
                b"READY=1\nSTATUS=admin=127.0.0.1:1 link=down"
            );
            let size = socket.recv(&mut buffer).expect("datagram");
            assert_eq!(&buffer[..size], b"STOPPING=1");
            assert_eq!(notify.watchdog_interval(), Some(Duration::from_secs(2)));
        }
        let silent = Notify::from_env(&|_| None).expect("none");
        silent.ready("to nobody");
    }
}
