//! Writing this replica's slices, and deleting those of replicas that are gone.
use kube::core::params::{DeleteParams, Preconditions};
use proto_core::name::NodeName;
use proto_core::registry::{Action, Write, Written};

use super::EndpointSlices;
use super::object::New;
use crate::kubernetes::Error;
use crate::registry::kept::Owner;

impl EndpointSlices {
    pub(super) async fn write(&self, write: &Write) -> Result<Written, Error> {
        self.common.uid().await?;
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
            owner: self.common.owner(),
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

    pub(super) async fn take_away(&self, owner: &Owner) -> Result<(), Error> {
        let slices = self.state().table.of(owner);
        for (name, version) in slices {
            tracing::info!(
                slice = name,
                pod = owner.pod,
                "nodes of a replica that is gone are taken away"
            );
            // Not if somebody has made it his meanwhile.
            let params = DeleteParams::default().preconditions(Preconditions {
                resource_version: Some(version),
                uid: None,
            });
            match self.slices.delete(&name, &params).await {
                Err(error) if error.is_missing() => {}
                other => other?,
            }
            self.common.metrics.registry_wrote("ok");
        }
        Ok(())
    }
}
