//! Writing this replica's slices: what the core says is due, one request at a time.
use std::sync::Arc;

use kube::core::params::DeleteParams;
use proto_core::name::NodeName;
use proto_core::registry::{Action, Write, Written};

use super::object::{New, Owner};
use super::{Shared, State};
use crate::kubernetes::Error;

/// Writes for ever.
pub(super) async fn run(shared: Arc<Shared>) {
    // What an earlier process of this Pod wrote is taken over, if it can be read.
    let mut looked = shared.looked.subscribe();
    let _ = looked.wait_for(|looked| *looked).await;
    let mut is_failing = false;
    loop {
        let (write, deadline) = shared.state().next(shared.clock.now());
        let Some(write) = write else {
            tokio::select! {
                () = shared.sleep_until(deadline) => {}
                () = shared.to_write.notified() => {}
            }
            continue;
        };
        let result = shared.write(&write).await;
        let (written, word) = match &result {
            Ok(written) => (*written, "ok"),
            Err(error) if error.is_conflict() => (Written::Failed, "conflict"),
            Err(error) if error.is_forbidden() => (Written::Failed, "forbidden"),
            Err(_) => (Written::Failed, "failed"),
        };
        shared.metrics.registry_wrote(word);
        let is_new = std::mem::replace(&mut is_failing, result.is_err()) != result.is_err();
        match &result {
            // One more try and it is told.
            Err(error) if error.is_conflict() => {}
            Err(error) if is_new => {
                tracing::warn!(%error, slice = shared.name(write.slice), "this replica's nodes could not be written; the next tries are told at DEBUG")
            }
            Err(error) => tracing::debug!(%error, "this replica's nodes could not be written"),
            Ok(_) if is_new => tracing::info!("this replica's nodes are written again"),
            Ok(_) => {}
        }
        let (address, owner) = (shared.address, shared.owner());
        let state = &mut *shared.state();
        let now = shared.clock.now();
        state.is_writing = false;
        state.slices.handle_written(written, now);
        state.settle(address, &owner, now);
    }
}

impl State {
    fn next(&mut self, now: proto_core::Instant) -> (Option<Write>, Option<proto_core::Instant>) {
        self.slices.handle_timeout(now);
        let write = self.slices.poll_write(now);
        self.is_writing = write.is_some();
        (write, self.slices.deadline())
    }
}

impl Shared {
    async fn write(&self, write: &Write) -> Result<Written, Error> {
        self.uid().await?;
        let number = write.slice;
        let result = match &write.action {
            Action::Create(nodes) => self.slices.create(&self.object(number, nodes)).await,
            Action::Replace(nodes) => self.slices.replace(&self.object(number, nodes)).await,
            Action::Delete => return self.delete(number).await,
        };
        let is_new = matches!(write.action, Action::Create(_));
        let versions = &mut self.state().versions;
        match result {
            Ok(slice) => {
                let version = slice.metadata.resource_version.unwrap_or_default();
                versions.insert(number, version);
                Ok(Written::Done)
            }
            Err(error) if is_new && error.is_conflict() => Ok(Written::Exists),
            Err(error) if !is_new && error.is_missing() => {
                versions.remove(&number);
                Ok(Written::Missing)
            }
            Err(error) => {
                // Whoever was quicker: the next try doesn't ask.
                if error.is_conflict() {
                    versions.remove(&number);
                }
                Err(error)
            }
        }
    }

    fn object(
        &self,
        number: u32,
        nodes: &[NodeName],
    ) -> k8s_openapi::api::discovery::v1::EndpointSlice {
        New {
            name: self.name(number),
            service: &self.service,
            address: self.address,
            owner: self.owner(),
            nodes,
            version: self.state().versions.get(&number).cloned(),
        }
        .object()
    }

    async fn delete(&self, number: u32) -> Result<Written, Error> {
        let name = self.name(number);
        match self.slices.delete(&name, &DeleteParams::default()).await {
            Ok(()) => {
                self.state().versions.remove(&number);
                Ok(Written::Done)
            }
            Err(error) if error.is_missing() => Ok(Written::Missing),
            Err(error) => Err(error),
        }
    }

    /// What this replica's slices belong to.
    pub(super) fn owner(&self) -> Owner {
        Owner {
            pod: self.pod.clone(),
            uid: self.uid.get().cloned().unwrap_or_default(),
        }
    }
}
