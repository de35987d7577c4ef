//! The registry that the configuration names.
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use runtime_tokio::kubernetes::Client;
use runtime_tokio::metrics::Metrics;
use runtime_tokio::registry::{
    ConfigMapSettings, Dns, DnsServer, EndpointSlicesSettings, Hosts, HostsSettings, Memory,
    Registry,
};
use tokio::runtime::Handle;
use tunnel_common::config::{CloudConfig, ConfigError, RegistryKind};

use crate::run::Error;

/// Where a Pod, and any other process, has the system's resolver from.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// What a registry may need.
pub(crate) struct Kind<'a> {
    pub(crate) config: &'a CloudConfig,
    /// This replica's, which is its Pod's.
    pub(crate) name: &'a str,
    pub(crate) kubernetes: Option<&'a Client>,
    pub(crate) runtime: &'a Handle,
    pub(crate) metrics: &'a Arc<Metrics>,
}

impl Kind<'_> {
    pub(crate) fn start(&self) -> Result<Arc<dyn Registry>, Error> {
        let registry = &self.config.registry;
        // The configuration was checked: all but memory has an address.
        let Ok(address) = registry.address.parse::<IpAddr>() else {
            return Ok(Arc::new(Memory));
        };
        match (registry.kind, self.kubernetes) {
            (RegistryKind::Hosts, Some(client)) if registry.is_in_kubernetes() => {
                let settings = ConfigMapSettings {
                    client: client.clone(),
                    namespace: registry.namespace.clone(),
                    name: registry.configmap.clone(),
                    pod: self.name.to_owned(),
                    address,
                    dns: self.dns(registry.dns_server().ok().flatten())?,
                    metrics: self.metrics.clone(),
                };
                Ok(settings.start(self.runtime))
            }
            (RegistryKind::Hosts, _) => self.hosts(address),
            (RegistryKind::EndpointSlice, Some(client)) => {
                let settings = EndpointSlicesSettings {
                    client: client.clone(),
                    namespace: registry.namespace.clone(),
                    service: registry.service.clone(),
                    pod: self.name.to_owned(),
                    address,
                    dns: self.dns_or_the_systems()?,
                    dns_zone: registry.dns_zone.clone(),
                    metrics: self.metrics.clone(),
                };
                Ok(settings.start(self.runtime))
            }
            (RegistryKind::EndpointSlice, None) | (RegistryKind::Memory, _) => Ok(Arc::new(Memory)),
        }
    }

    fn hosts(&self, address: IpAddr) -> Result<Arc<dyn Registry>, Error> {
        let registry = &self.config.registry;
        let settings = HostsSettings {
            file: registry.hosts_file.clone(),
            address,
            dns: self.dns(registry.dns_server().ok().flatten())?,
            metrics: self.metrics.clone(),
        };
        let hosts = Hosts::start(settings)
            .map_err(|error| ConfigError::of_file(&registry.hosts_file, error))?;
        Ok(Arc::new(hosts))
    }

    fn dns_or_the_systems(&self) -> Result<Option<Dns>, Error> {
        let named = self.config.registry.dns_server().ok().flatten();
        self.dns(named.or_else(system_resolver))
    }

    fn dns(&self, server: Option<SocketAddr>) -> Result<Option<Dns>, Error> {
        let dns = server.map(|server| Dns::new(DnsServer(server)));
        Ok(dns.transpose()?)
    }
}

/// The first server that the system asks.
fn system_resolver() -> Option<SocketAddr> {
    first_server(&std::fs::read_to_string(RESOLV_CONF).ok()?)
}

fn first_server(text: &str) -> Option<SocketAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let is_server = words.next() == Some("nameserver");
        words.next().filter(|_| is_server)?.parse::<IpAddr>().ok()
    });
    servers.map(|ip| SocketAddr::new(ip, 53)).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_first_server_is_asked() {
        let text = "# nameserver 1.1.1.1\nsearch a b\nnameserver nonsense\nnameserver fd00::a\nnameserver 10.96.0.10\n";
        let server = first_server(text).map(|server| server.to_string());
        assert_eq!(server.as_deref(), Some("[fd00::a]:53"));
        assert_eq!(first_server("options ndots:5"), None);
    }
}
