//! Look-ups by DNS, of one server. What it says is for the moment: nothing is kept here.
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::Name;

use super::NotFound;

/// A datagram may be lost: one is sent again after this.
const TRY_TIMEOUT: Duration = Duration::from_millis(700);
/// Whoever asks has a CONNECT waiting.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1500);

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DnsServer(pub SocketAddr);

/// A resolver without a cache.
#[derive(Clone)]
pub struct Dns {
    resolver: TokioResolver,
}

impl std::fmt::Debug for Dns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dns").finish_non_exhaustive()
    }
}

impl Dns {
    /// Asks `server` from now on.
    pub fn new(server: DnsServer) -> io::Result<Dns> {
        let at_port = |mut connection: ConnectionConfig| {
            connection.port = server.0.port();
            connection
        };
        let ways = vec![
            at_port(ConnectionConfig::udp()),
            at_port(ConnectionConfig::tcp()),
        ];
        let server = NameServerConfig::new(server.0.ip(), true, ways);
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        let mut builder =
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let options = builder.options_mut();
        options.timeout = TRY_TIMEOUT;
        options.attempts = 1;
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        let resolver = builder.build().map_err(io::Error::other)?;
        Ok(Dns { resolver })
    }

    /// The addresses of a name, which is taken as it is: no search list applies to it.
    pub async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, NotFound> {
        // A node's name may be none of DNS.
        let name = Name::from_ascii(format!("{}.", name.trim_end_matches('.')))
            .map_err(|_| NotFound::Nobody)?;
        match tokio::time::timeout(ANSWER_TIMEOUT, self.resolver.lookup_ip(name)).await {
            Ok(Ok(found)) => match found.iter().collect::<Vec<_>>() {
                none if none.is_empty() => Err(NotFound::Nobody),
                some => Ok(some),
            },
            Ok(Err(error)) if error.is_no_records_found() || error.is_nx_domain() => {
                Err(NotFound::Nobody)
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "the DNS server was of no help");
                Err(NotFound::Failed)
            }
            Err(_) => Err(NotFound::Failed),
        }
    }
}
