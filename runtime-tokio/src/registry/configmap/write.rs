//! Writing this replica's lines, and taking away those of replicas that are gone.
use std::net::IpAddr;
use std::sync::atomic::Ordering;

use k8s_openapi::api::core::v1;
use kube::core::params::ListParams;
use proto_core::name::NodeName;
use proto_core::registry::{Action, Write, Written};

use super::ConfigMap;
use super::object::{self, BYTES_MAX, Seen};
use crate::kubernetes::Error;
use crate::registry::kept::{Failure, Owner, has_ended};

impl ConfigMap {
    pub(super) async fn write(&self, write: &Write) -> Result<Written, Failure> {
        let nodes: &[NodeName] = match &write.action {
            Action::Create(nodes) | Action::Replace(nodes) => nodes,
            Action::Delete => &[],
        };
        let owner = self.own().await;
        let (mut map, is_there) = match self.maps.get(&self.name).await {
            Ok(map) => (map, true),
            Err(error) if error.is_missing() => (self.empty(), false),
            Err(error) => return Err(error.into()),
        };
        if !object::set(&mut map, self.address, nodes, owner.as_ref()) {
            self.see(Seen::of(&map, self.address));
            return Ok(Written::Done);
        }
        let bytes = object::bytes(&map);
        if bytes > BYTES_MAX {
            return Err(Failure::TooLarge(format!(
                "ConfigMap {} in {} would have {bytes} bytes, and Kubernetes takes {BYTES_MAX} at most; look-ups go on by what the replicas tell each other, but CoreDNS won't know of these nodes: registry.kind = \"endpointslice\" has no such limit",
                self.name, self.namespace
            )));
        }
        let put = match is_there {
            true => self.maps.replace(&map).await,
            false => self.maps.create(&map).await,
        };
        match put {
            Ok(map) => {
                self.see(Seen::of(&map, self.address));
                Ok(Written::Done)
            }
            Err(error) if error.is_missing() && is_there => Ok(Written::Missing),
            Err(error) => Err(error.into()),
        }
    }

    /// Whose this replica's lines are; `None`: that can't be told.
    async fn own(&self) -> Option<Owner> {
        match self.common.uid().await {
            Ok(_) => Some(self.common.owner()),
            Err(error) => {
                if !self.is_unowned.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "this replica's Pod is not known: if it dies, nobody takes its lines out of the ConfigMap");
                }
                None
            }
        }
    }

    fn empty(&self) -> v1::ConfigMap {
        let mut map = v1::ConfigMap::default();
        map.metadata.name = Some(self.name.clone());
        map
    }

    pub(super) async fn take_away(&self, owner: &Owner) -> Result<(), Failure> {
        let addresses: Vec<IpAddr> = {
            let replicas = &self.state().replicas;
            let of = replicas.iter().filter(|(_, of)| *of == owner);
            of.map(|(address, _)| *address).collect()
        };
        for address in addresses.into_iter().filter(|of| *of != self.address) {
            let is_passed_on = self.has_somebody(address).await?;
            let mut map = self.maps.get(&self.name).await?;
            // Not if it is another's by now.
            let is_theirs = Seen::of(&map, self.address)
                .replicas
                .get(&address)
                .is_some_and(|of| of == owner);
            if is_theirs && object::take_away(&mut map, address, is_passed_on) {
                tracing::info!(
                    pod = owner.pod,
                    is_passed_on,
                    "lines of a replica that is gone are taken away"
                );
                let map = self.maps.replace(&map).await?;
                self.common.metrics.registry_wrote("ok");
                self.see(Seen::of(&map, self.address));
            }
        }
        Ok(())
    }

    /// Whether a Pod that runs has the address.
    async fn has_somebody(&self, address: IpAddr) -> Result<bool, Error> {
        let params = ListParams::default().fields(&format!("status.podIP={address}"));
        let pods = self.common.pods().list(&params).await?;
        Ok(pods.items.iter().any(|pod| !has_ended(pod)))
    }
}
