//! What a client's driver does: it makes links, and passes on what its user is to hear.
use std::sync::{Arc, Mutex, PoisonError};

use proto_core::connect::Reply;
use proto_core::output::{ClientOutput, ClusterOutput, ConnectAttempt};
use proto_core::target::Target;
use proto_core::{Client, Event, Instant, LinkId, Machine, StreamId};
use tokio::sync::mpsc;

use super::Told;
use crate::driver::{Install, Mailbox, Moved, Shell};
use crate::uplink::Connector;
use crate::{Tokio, TokioTask};
use runtime_shared::grpc::Loss;

pub(super) struct ClientShell {
    connector: Connector<Tokio>,
    mailbox: Arc<Mailbox<Client>>,
    tell: mpsc::UnboundedSender<Told>,
    /// What the last try failed of, for the user.
    failure: Arc<Mutex<String>>,
}

impl ClientShell {
    pub(super) fn new(
        connector: Connector<Tokio>,
        mailbox: Arc<Mailbox<Client>>,
        tell: mpsc::UnboundedSender<Told>,
        failure: Arc<Mutex<String>>,
    ) -> ClientShell {
        ClientShell {
            connector,
            mailbox,
            tell,
            failure,
        }
    }
}

fn note(failure: &Mutex<String>, text: String) {
    *failure.lock().unwrap_or_else(PoisonError::into_inner) = text;
}

impl Shell for ClientShell {
    type Machine = Client;
    type Runtime = Tokio;

    fn established(&mut self, client: &mut Client, link: LinkId, version1: bool, now: Instant) {
        client.link_established(link, version1, now);
    }

    fn lost(&mut self, client: &mut Client, link: LinkId, loss: &Loss, now: Instant) {
        tracing::debug!(%link, %loss, "the link was lost");
        note(&self.failure, loss.to_string());
        client.link_lost(link, loss.to_core(), now);
    }

    fn dial(&mut self, _: StreamId, _: Target) -> Option<TokioTask> {
        None
    }

    fn connect(&mut self, attempt: ConnectAttempt) {
        let (connector, mailbox, id) = (
            self.connector.clone(),
            self.mailbox.clone(),
            attempt.attempt,
        );
        let failure = self.failure.clone();
        tokio::spawn(async move {
            let made = connector.connect(attempt).await;
            let _ = mailbox.post(Box::new(move |client, now| match made {
                Ok((link, remote)) => client
                    .link_started(id, remote, now)
                    .map_or(Install::Nothing, |id| Install::Link(id, link)),
                Err(failed) => {
                    tracing::debug!(error = failed.text, "the cloud could not be reached");
                    note(&failure, failed.text);
                    client.connect_failed(id, failed.why, now);
                    Install::Nothing
                }
            }));
        });
    }

    fn cluster(&mut self, _: ClusterOutput) {}

    fn told(&mut self, told: ClientOutput) {
        let _ = self.tell.send(Told::Output(told));
    }

    fn replied(&mut self, _: &Reply) {}

    fn moved(&mut self, _: Moved) {}

    fn event(&mut self, _: &Client, event: Event) {
        match event {
            Event::StreamEnded(record) => {
                let _ = self.tell.send(Told::Ended(record.reason));
            }
            event => tracing::debug!(?event),
        }
    }

    fn is_over(&mut self, client: &Client) -> bool {
        client.has_ended() && self.mailbox.close_if_empty()
    }
}
