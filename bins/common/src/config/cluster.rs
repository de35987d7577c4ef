//! What `[peers]` and `[registry]` must be together.

use std::net::{IpAddr, SocketAddr};

use super::cloud::{CloudConfig, Peers, Registry, RegistryKind};
use super::values::HostPort;
use super::{Mistake, Places};

impl CloudConfig {
    pub(super) fn check_cluster(&self, places: &Places, found: &mut Vec<Mistake>) {
        let (peers, registry) = (&self.peers, &self.registry);
        if peers.is_set() {
            if peers.ca.as_os_str().is_empty() && self.grpc.client_ca.as_os_str().is_empty() {
                found.push(places.mistake(
                    "peers.ca",
                    "the other replicas could not be told from strangers: expected the path of their CA's PEM file",
                ));
            }
            if peers.cert.as_os_str().is_empty() != peers.key.as_os_str().is_empty() {
                found.push(places.mistake("peers.cert", "peers.cert and peers.key go together"));
            }
        }
        if let Err(text) = peers.dns(self.grpc.listen.port()) {
            found.push(places.mistake("peers.dns", text));
        }
        if let Err(text) = registry.dns_server() {
            found.push(places.mistake("registry.dns_server", text));
        }
        if registry.kind == RegistryKind::EndpointSlice {
            for (key, is_set, what) in [
                (
                    "registry.namespace",
                    !registry.namespace.is_empty(),
                    "the namespace of the Service; Pods have it from POD_NAMESPACE",
                ),
                (
                    "registry.service",
                    !registry.service.is_empty(),
                    "the headless Service's name",
                ),
                (
                    "registry.address",
                    registry.address.parse::<IpAddr>().is_ok(),
                    "this replica's own IP address, as the others reach it; Pods have it from POD_IP",
                ),
            ] {
                if !is_set {
                    found.push(places.mistake(
                        key,
                        format_args!("registry.kind = \"endpointslice\" needs it: expected {what}"),
                    ));
                }
            }
        }
        if registry.kind == RegistryKind::Hosts {
            if registry.hosts_file.as_os_str().is_empty() {
                found.push(places.mistake(
                    "registry.hosts_file",
                    "registry.kind = \"hosts\" needs it: expected the path of the file that CoreDNS' hosts plugin serves",
                ));
            }
            if registry.address.parse::<IpAddr>().is_err() {
                found.push(places.mistake(
                    "registry.address",
                    "registry.kind = \"hosts\" needs this replica's own IP address, as the others reach it",
                ));
            }
        }
    }
}

impl Peers {
    /// There are other replicas to look for.
    pub fn is_set(&self) -> bool {
        !self.addresses.is_empty() || !self.dns.is_empty()
    }

    /// The name whose addresses the replicas are, with the port: that of this replica's listener if none is given.
    ///
    /// # Errors
    /// It is no name.
    pub fn dns(&self, port: u16) -> Result<Option<HostPort>, String> {
        match self.dns.as_str() {
            "" => Ok(None),
            name if name.contains(':') => name.parse().map(Some),
            name => format!("{name}:{}", port.max(1)).parse().map(Some),
        }
    }
}

impl Registry {
    /// Who answers look-ups, if that is settled here: port 53 if none is given.
    ///
    /// # Errors
    /// It is no address.
    pub fn dns_server(&self) -> Result<Option<SocketAddr>, String> {
        let text = self.dns_server.as_str();
        if text.is_empty() {
            return Ok(None);
        }
        let address = text.parse::<SocketAddr>();
        let address = address.or_else(|_| text.parse::<IpAddr>().map(|ip| (ip, 53).into()));
        address.map(Some).map_err(|_| {
            format!("\"{text}\" is no address: expected an IP address, with a port or without")
        })
    }
}
