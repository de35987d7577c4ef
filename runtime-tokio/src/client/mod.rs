//! The operator's command on tokio: one stream to one node, by links that come and go beneath it.
mod shell;

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use proto_core::auth::Secret;
use proto_core::client::{ClientConfig, explain};
use proto_core::output::{ClientOutput, LinkLoss, NotOpened};
use proto_core::reason::Reason;
use proto_core::target::Target;
use proto_core::{Budget, Client};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::driver::{Driver, Install, Mailbox};
use crate::net::socket::Socket;
use crate::uplink::{CloudAddresses, Connector, Credential, FIELDS_BYTES_MAX, follow_network};
use shell::ClientShell;

/// What a client is told at its start.
pub struct Settings {
    /// For the core.
    pub client: ClientConfig,
    /// All buffers of the process.
    pub buffers_bytes_max: u64,
    /// Where the cloud is.
    pub cloud: CloudAddresses,
    /// TLS for links, with the user's certificate if that is the credential.
    pub tls: Arc<rustls::ClientConfig>,
    /// The user's token.
    pub token: Option<Secret>,
}

/// What is said while a stream goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notice {
    /// It stands still: there is no link.
    Reconnecting,
    /// It moves again.
    Back,
}

/// Why there is no stream, or none any more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Broken {
    /// The cloud can't be reached, or doesn't take the credential.
    NoLink(String),
    /// The cloud or the edge said no: a line for people.
    Refused(String),
    /// The stream was open and ended badly: a line for people.
    Lost(String),
}

/// What the shell passes on.
enum Told {
    Output(ClientOutput),
    Ended(Reason),
}

/// How long streams and links may take to end.
const PATIENCE: Duration = Duration::from_secs(3);

/// Opens a stream to `target` at the node and carries it between there and `local` until both directions have ended, or
/// until `end`. `early` goes right behind the question.
pub async fn run(
    settings: Settings,
    target: Target,
    early: Bytes,
    local: UnixStream,
    end: impl Future<Output = ()>,
    mut notice: impl FnMut(Notice),
) -> Result<(), Broken> {
    let (clock, mailbox) = (Clock::start(), Mailbox::new());
    let node = settings.client.node.clone();
    let (_tls, tls) = watch::channel(settings.tls);
    let connector = Connector::new(
        settings.cloud,
        tls,
        Credential::Client {
            token: settings.token,
            node: node.to_string(),
        },
        settings.client.limits.links.message_bytes_max + FIELDS_BYTES_MAX,
    );
    let machine = Client::new(
        settings.client,
        Budget::new(settings.buffers_bytes_max),
        crate::seed(),
        clock.now(),
    );
    let (tell, mut told) = mpsc::unbounded_channel();
    let failure = Arc::new(Mutex::new(String::new()));
    let shell = ClientShell::new(connector, mailbox.clone(), tell, failure.clone());
    let driver = tokio::spawn(tokio::task::unconstrained(Driver::new(
        machine,
        shell,
        clock,
        mailbox.clone(),
    )));
    let network = tokio::spawn(follow_network(mailbox.clone()));
    let asked = target.clone();
    let _ = mailbox.post(Box::new(move |client: &mut Client, now| {
        let id = client.open(&asked, early, now);
        Install::Socket(id, Socket::Unix(local))
    }));
    let watched = async {
        while let Some(told) = told.recv().await {
            match told {
                Told::Output(ClientOutput::Opened { .. }) => {}
                Told::Output(ClientOutput::NotOpened { why, .. }) => {
                    return Err(match why {
                        NotOpened::NoLink(why) => Broken::NoLink(no_link(why, &failure)),
                        NotOpened::Refused { text, .. } => Broken::Refused(text),
                    });
                }
                Told::Output(ClientOutput::Reconnecting) => notice(Notice::Reconnecting),
                Told::Output(ClientOutput::Back) => notice(Notice::Back),
                Told::Ended(Reason::Done) => return Ok(()),
                Told::Ended(reason) => {
                    return Err(Broken::Lost(explain(reason, &node, &target)));
                }
            }
        }
        Err(Broken::Lost("the driver has ended".into()))
    };
    let result = tokio::select! {
        // How the stream ended is known before whoever reads it sees the end and tells us to go, as ssh tells its helper: what is
        // to be said of it is not to be lost by a slow machine.
        biased;
        result = watched => result,
        () = end => Ok(()),
    };
    network.abort();
    shut_down(&mailbox, driver).await;
    result
}

async fn shut_down(mailbox: &Mailbox<Client>, driver: JoinHandle<()>) {
    let told = mailbox.post(Box::new(|client, now| {
        client.shut_down(now);
        Install::Nothing
    }));
    if told.is_ok() {
        let _ = tokio::time::timeout(PATIENCE, driver).await;
    }
}

/// What became of the last try, for people.
fn no_link(why: LinkLoss, failure: &Mutex<String>) -> String {
    let said = failure.lock().unwrap_or_else(PoisonError::into_inner);
    match why {
        LinkLoss::Unauthenticated => "it does not take this token or certificate".into(),
        LinkLoss::Fault => {
            "it does not speak our protocol: is this the cloud's gRPC port, and of this version?"
                .into()
        }
        LinkLoss::Unavailable { .. } => "it takes no connections just now".into(),
        _ if said.is_empty() => format!("no answer ({})", why.as_str()),
        _ => said.clone(),
    }
}
