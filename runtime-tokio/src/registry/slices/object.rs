//! What an EndpointSlice says, in the core's words, and back.
use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use proto_core::name::NodeName;
use proto_core::registry::Label;

use crate::registry::kept::Owner;

/// Which slices are ours, all replicas'.
const MANAGED_BY: (&str, &str) = ("endpointslice.kubernetes.io/managed-by", "tunnel-cloud");
/// The label that ties a slice to its Service.
const SERVICE: &str = "kubernetes.io/service-name";
/// Nobody needs to balance anything.
const HEADLESS: &str = "service.kubernetes.io/headless";

/// A slice as it was seen.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) owner: Owner,
    pub(super) endpoints: Vec<(String, IpAddr)>,
    pub(super) nodes: Vec<NodeName>,
    /// Each endpoint is a node at one address, and named once.
    pub(super) is_plain: bool,
}

/// Selects the slices of all replicas.
pub(super) fn selector(service: &str) -> String {
    let (label, value) = MANAGED_BY;
    format!("{SERVICE}={service},{label}={value}")
}

/// A slice to be written.
pub(super) struct New<'a> {
    pub(super) name: String,
    pub(super) service: &'a str,
    pub(super) address: IpAddr,
    pub(super) owner: Owner,
    pub(super) nodes: &'a [NodeName],
    /// The one that it replaces.
    pub(super) version: Option<String>,
}

impl New<'_> {
    pub(super) fn object(self) -> EndpointSlice {
        let (managed_by, us) = MANAGED_BY;
        let labels = [(SERVICE, self.service), (managed_by, us), (HEADLESS, "")];
        let owner = OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            name: self.owner.pod,
            uid: self.owner.uid,
            ..OwnerReference::default()
        };
        let address = self.address.to_string();
        let metadata = ObjectMeta {
            name: Some(self.name),
            labels: Some(labels.map(|(key, value)| (key.into(), value.into())).into()),
            owner_references: Some(vec![owner]),
            resource_version: self.version,
            ..ObjectMeta::default()
        };
        EndpointSlice {
            metadata,
            address_type: match self.address {
                IpAddr::V4(_) => "IPv4".to_owned(),
                IpAddr::V6(_) => "IPv6".to_owned(),
            },
            endpoints: self
                .nodes
                .iter()
                .map(|node| endpoint(node, &address))
                .collect(),
            ports: None,
        }
    }
}

/// A name that can't be read back from its label stands beside it, as the node that the endpoint is of.
fn endpoint(node: &NodeName, address: &str) -> Endpoint {
    let label = Label::of(node);
    let target_ref = label.is_digest().then(|| ObjectReference {
        kind: Some("Node".to_owned()),
        name: Some(node.key().to_owned()),
        ..ObjectReference::default()
    });
    Endpoint {
        addresses: vec![address.to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(true),
            ..EndpointConditions::default()
        }),
        hostname: Some(label.as_str().to_owned()),
        target_ref,
        ..Endpoint::default()
    }
}

impl Seen {
    pub(super) fn of(slice: EndpointSlice) -> Seen {
        let metadata = slice.metadata;
        let mut owners = metadata.owner_references.unwrap_or_default().into_iter();
        let owner = owners.find(|owner| owner.kind == "Pod");
        let mut seen = Seen {
            name: metadata.name.unwrap_or_default(),
            version: metadata.resource_version.unwrap_or_default(),
            owner: owner.map_or_else(Owner::default, |owner| Owner {
                pod: owner.name,
                uid: owner.uid,
            }),
            endpoints: Vec::new(),
            nodes: Vec::new(),
            is_plain: true,
        };
        let mut names: BTreeMap<String, usize> = BTreeMap::new();
        for endpoint in slice.endpoints {
            let beside = endpoint.target_ref.and_then(|of| of.name);
            let hostname = endpoint.hostname.unwrap_or_default();
            let node = Label::read(&hostname, beside.as_deref());
            let addresses: Vec<IpAddr> = endpoint
                .addresses
                .iter()
                .filter_map(|text| text.parse().ok())
                .collect();
            let times = names.entry(hostname.clone()).or_default();
            *times += 1;
            seen.is_plain &= addresses.len() == 1 && node.is_some() && *times == 1;
            seen.nodes.extend(node);
            for address in addresses {
                seen.endpoints.push((hostname.clone(), address));
            }
        }
        seen
    }

    /// It says that its nodes are at this address, and nothing else.
    pub(super) fn is_exact(&self, address: IpAddr, owner: &Owner) -> bool {
        self.is_plain && self.owner == *owner && self.endpoints.iter().all(|(_, at)| *at == address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let long = "n".repeat(200);
        let names = ["node-A", "Edge_7.eu", &long];
        let nodes = names.map(|name| NodeName::parse(name).expect("a name"));
        let owner = Owner {
            pod: "cloud-1".to_owned(),
            uid: "u".to_owned(),
        };
        let address: IpAddr = "10.0.0.7".parse().expect("an address");
        let new = New {
            name: "nodes-cloud-1-0".to_owned(),
            service: "nodes",
            address,
            owner: owner.clone(),
            nodes: &nodes,
            version: Some("7".to_owned()),
        };
        let object = new.object();
        let seen = Seen::of(object.clone());
        assert_eq!(seen.nodes, nodes);
        assert!(seen.is_exact(address, &owner));
        assert!(!seen.is_exact(address, &Owner::default()));
        assert!(!seen.is_exact("10.0.0.8".parse().expect("one"), &owner));
        assert_eq!((seen.version.as_str(), seen.endpoints.len()), ("7", 3));
        let mut twice = object.clone();
        twice.endpoints.push(object.endpoints[0].clone());
        assert!(!Seen::of(twice).is_exact(address, &owner));
        let mut strange = object;
        strange.endpoints[0].hostname = None;
        let seen = Seen::of(strange);
        assert!(!seen.is_exact(address, &owner));
        assert_eq!(seen.nodes, nodes[1..]);
    }
}
