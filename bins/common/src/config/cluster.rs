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
        self.check_registry(places, found);
    }

    fn check_registry(&self, places: &Places, found: &mut Vec<Mistake>) {
        let registry = &self.registry;
        let (kind, named) = match registry.kind {
            RegistryKind::Memory => return,
            RegistryKind::EndpointSlice => (
                "endpointslice",
                Some((
                    "registry.service",
                    &registry.service,
                    "the headless Service's name",
                )),
            ),
            RegistryKind::Hosts if registry.is_in_kubernetes() => (
                "hosts",
                Some((
                    "registry.configmap",
                    &registry.configmap,
                    "the ConfigMap's name, if there is no registry.hosts_file",
                )),
            ),
            RegistryKind::Hosts => ("hosts", None),
        };
        let namespace = (
            "registry.namespace",
            &registry.namespace,
            "the namespace that it is in; Pods have it from POD_NAMESPACE",
        );
        let namespace = registry.is_in_kubernetes().then_some(namespace);
        let empty = named.into_iter().chain(namespace);
        let empty = empty.filter(|(_, value, _)| value.is_empty());
        let mut missing: Vec<(&str, &str)> = empty.map(|(key, _, what)| (key, what)).collect();
        if registry.address.parse::<IpAddr>().is_err() {
            let what =
                "this replica's own IP address, as the others reach it; Pods have it from POD_IP";
            missing.push(("registry.address", what));
        }
        for (key, what) in missing {
            let text = format_args!("registry.kind = \"{kind}\" needs it: expected {what}");
            found.push(places.mistake(key, text));
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
    /// The API server keeps it: also `hosts`, if no file is named.
    pub fn is_in_kubernetes(&self) -> bool {
        match self.kind {
            RegistryKind::Memory => false,
            RegistryKind::EndpointSlice => true,
            RegistryKind::Hosts => self.hosts_file.as_os_str().is_empty(),
        }
    }

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
