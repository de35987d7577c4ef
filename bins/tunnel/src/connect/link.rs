//! By gRPC: the stream outlives its links, and the resuming ends are this machine and the edge.

use std::cell::Cell;
use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto_core::Config;
use proto_core::client::{ClientConfig, Reconnect};
use proto_core::config::StreamConfig;
use proto_core::name::NodeName;
use proto_core::target::Target;
use runtime_tokio::client::{self, Broken as Ended, Notice};
use runtime_tokio::uplink::CloudAddresses;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::line::READ_BYTES;
use super::relay::{
    Broken, EARLY_BYTES_MAX, close_stdout, read_stdin, readable, stdin_has_something, widen,
    write_stdout,
};
use crate::kube::Forward;
use crate::settings::LinkServer;

/// The replica waits for its node and the edge dials before there is an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// ssh leaves before the last is said between here and the node: so long a stream has to end complete, and not by a reset.
const ENDS_WITHIN: Duration = Duration::from_secs(1);
/// All buffers of a command that carries one stream.
const BUFFERS_BYTES_MAX: u64 = 64 << 20;

/// Carries stdin and stdout until both directions have ended.
pub(super) fn run(mut server: LinkServer, host: &str, port: u16) -> Result<(), String> {
    let no_node = |_| format!("{host:?} is no node's name");
    let node = NodeName::parse(host).map_err(no_node)?;
    let target = Target::loopback(port).ok_or("the port must be 1 to 65535")?;
    let url = server.url.clone();
    let no_link = |why| format!("cannot connect to {url}: {why}");
    let forward = match server.cluster.take() {
        Some(cluster) => Some(Forward::start(&cluster).map_err(no_link)?),
        None => None,
    };
    if let Some(forward) = &forward {
        // A try for each replica.
        server.addresses = vec![forward.address.to_string(); forward.replicas];
    }
    carry(server, node, target).map_err(|ended| match ended {
        End::Abandoned => String::new(),
        End::Failed(error) => format!("cannot carry the stream: {error}"),
        End::Stream(Ended::NoLink(text)) => {
            let why = forward.as_ref().map(Forward::failure);
            no_link(why.filter(|why| !why.is_empty()).unwrap_or(text))
        }
        End::Stream(Ended::Refused(text) | Ended::Lost(text)) => text,
    })
}

/// How it ended badly.
enum End {
    /// Nobody reads stdout any more, or we were told to end: there is nobody to tell.
    Abandoned,
    Failed(io::Error),
    Stream(Ended),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> End {
        End::Failed(error)
    }
}

fn carry(server: LinkServer, node: NodeName, target: Target) -> Result<(), End> {
    widen(io::stdin().as_fd());
    widen(io::stdout().as_fd());
    let (ours, theirs) = UnixStream::pair()?;
    theirs.set_nonblocking(true)?;
    let ours = Arc::new(ours);
    let (early, ended) = early()?;
    let up = ours.clone();
    std::thread::Builder::new()
        .name("stdin".into())
        .spawn(move || {
            // Whoever takes it knows better what a broken stream means; here it only ends the sending.
            let _ = if ended { Ok(()) } else { send_stdin(&up) };
            let _ = up.shutdown(Shutdown::Write);
        })?;
    let (tell_gone, gone) = oneshot::channel();
    let down = std::thread::Builder::new()
        .name("stdout".into())
        .spawn(move || {
            if let Err(Broken::Abandoned) = fill_stdout(&ours) {
                let _ = tell_gone.send(());
            }
        })?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        let local = tokio::net::UnixStream::from_std(theirs)?;
        let told = Cell::new(false);
        let end = async {
            told_to_end(gone).await;
            told.set(true);
        };
        let name = node.to_string();
        let result = client::run(
            settings(server, node),
            target,
            early,
            local,
            end,
            |notice| say(&name, notice),
        )
        .await;
        match told.get() {
            true => Err(End::Abandoned),
            false => result.map_err(End::Stream),
        }
    });
    if !matches!(result, Err(End::Abandoned)) {
        let _ = down.join(); // What has come is still to be written.
    }
    result
}

fn settings(server: LinkServer, node: NodeName) -> client::Settings {
    client::Settings {
        client: ClientConfig {
            node,
            addresses: server.addresses.len(),
            reconnect: Reconnect::default(),
            limits: Config {
                streams: StreamConfig {
                    resume: !server.grace.is_zero(),
                    grace: server.grace,
                    answer_timeout: ANSWER_TIMEOUT,
                    ..StreamConfig::default()
                },
                ..Config::default()
            },
        },
        buffers_bytes_max: BUFFERS_BYTES_MAX,
        cloud: CloudAddresses {
            addresses: server.addresses,
            server_name: server.name,
        },
        tls: server.tls,
        token: server.token,
    }
}

/// What stdin has at this moment goes right behind the question. Whether it has ended.
fn early() -> io::Result<(Bytes, bool)> {
    if !stdin_has_something()? {
        return Ok((Bytes::new(), false));
    }
    let mut buffer = vec![0; EARLY_BYTES_MAX];
    let count = read_stdin(&mut buffer)?;
    buffer.truncate(count);
    Ok((buffer.into(), count == 0))
}

fn send_stdin(mut to: &UnixStream) -> io::Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match read_stdin(&mut buffer)? {
            0 => return Ok(()),
            count => to.write_all(&buffer[..count])?,
        }
    }
}

fn fill_stdout(mut from: &UnixStream) -> Result<(), Broken> {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match readable(from.as_fd(), None).and_then(|()| from.read(&mut buffer)) {
            Ok(0) => return close_stdout().map_err(Broken::Lost),
            Ok(count) => write_stdout(&buffer[..count])?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Err(Broken::Abandoned),
            Err(error) => return Err(Broken::Lost(error)),
        }
    }
}

/// Waits until whoever started us has left, as ssh hangs up on its helper when it ends, or tells us to end at once.
async fn told_to_end(gone: oneshot::Receiver<()>) {
    let next = |kind| async move {
        match signal(kind) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    let gone = async {
        // Without a word it has only ended in good order.
        if gone.await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let left = async {
        tokio::select! {
            () = gone => {}
            () = next(SignalKind::hangup()) => {}
        }
        tokio::time::sleep(ENDS_WITHIN).await;
    };
    tokio::select! {
        () = left => {}
        () = next(SignalKind::terminate()) => {}
        () = next(SignalKind::interrupt()) => {}
    }
}

/// A line on stderr. ssh has set the terminal so that a line's end alone doesn't return to its beginning.
fn say(node: &str, notice: Notice) {
    let text = match notice {
        Notice::Reconnecting => "the connection was lost, reconnecting",
        Notice::Back => "connected again",
    };
    let mut stderr = io::stderr().lock();
    let ends = match stderr.is_terminal() {
        true => ("\r", "\r\n"),
        false => ("", "\n"),
    };
    let _ = write!(stderr, "{}tunnel: {node}: {text}{}", ends.0, ends.1);
}
