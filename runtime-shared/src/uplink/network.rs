//! What the machine's network does to the links of an edge or a client.
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use proto_core::{Client, Edge, Instant};

use crate::driver::{Install, Mailbox};
use crate::net::changes::NetworkChanges;
use crate::runtime::Runtime;

/// A machine that keeps links to the cloud.
pub trait Uplinked: Send + 'static {
    /// The machine's network changed.
    fn network_changed(&mut self, now: Instant);
    /// The addresses that it has now.
    fn set_own_addresses(&mut self, addresses: Vec<IpAddr>);
}

impl Uplinked for Edge {
    fn network_changed(&mut self, now: Instant) {
        Edge::network_changed(self, now);
    }

    fn set_own_addresses(&mut self, addresses: Vec<IpAddr>) {
        Edge::set_own_addresses(self, addresses);
    }
}

impl Uplinked for Client {
    fn network_changed(&mut self, now: Instant) {
        Client::network_changed(self, now);
    }

    fn set_own_addresses(&mut self, _: Vec<IpAddr>) {}
}

/// Follows the network. Ends only by an error, or with the driver.
pub async fn follow_network<M: Uplinked, R: Runtime>(mailbox: Arc<Mailbox<M, R>>) {
    if let Err(error) = watch_network(&mailbox).await {
        tracing::warn!(%error, "changes of the machine's network go unnoticed from now on");
    }
}

/// Links from addresses that are gone are lost, and the next is tried for at once.
async fn watch_network<M: Uplinked, R: Runtime>(mailbox: &Mailbox<M, R>) -> io::Result<()> {
    let mut changes = NetworkChanges::<R>::watch()?;
    loop {
        let change = changes.next().await?;
        tracing::debug!("the machine's network changed");
        let lost = mailbox.post(Box::new(move |machine, _| {
            machine.set_own_addresses(change.addresses);
            Install::GoneAddresses(change.gone)
        }));
        // After the loss: the pause that follows it is what ends at once.
        let told = mailbox.post(Box::new(|machine, now| {
            machine.network_changed(now);
            Install::Nothing
        }));
        if lost.is_err() || told.is_err() {
            return Ok(());
        }
    }
}
