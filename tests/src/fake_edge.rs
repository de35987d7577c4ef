//! An edge by tonic's own client, which sends what a test tells it to.

use std::time::Duration;

use futures_util::stream::poll_fn;
use tokio::runtime::Runtime;
use tonic::Status;
use tonic::metadata::{MetadataKey, MetadataMap};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::pki;
use crate::wire::proto::stream_client::StreamClient;
use crate::wire::{Heartbeats, StreamMsg, Wire, wire};
use crate::world::{TOKEN, World};

/// How to connect.
#[derive(Debug, Clone)]
pub struct EdgeOptions {
    /// The `authorization` header, if any.
    pub authorization: Option<String>,
    /// Further metadata.
    pub metadata: Vec<(&'static str, String)>,
    /// Heartbeats.
    pub heartbeats: Heartbeats,
    /// A client certificate.
    pub identity: Option<pki::Identity>,
}

/// An edge's side of one link.
#[derive(Debug)]
pub struct FakeEdge {
    /// The link.
    pub wire: Wire,
    /// The response's initial metadata.
    pub headers: MetadataMap,
    // Last: the wire ends before what drives it.
    _runtime: Runtime,
}

impl EdgeOptions {
    /// As SuperEdge's edge connects.
    pub fn base(node: &str, token: &str) -> Self {
        Self {
            authorization: Some(format!(
                "Bearer {{\"nodename\":\"{node}\",\"token\":\"{token}\"}}"
            )),
            metadata: Vec::new(),
            heartbeats: Heartbeats::Count,
            identity: None,
        }
    }

    /// As an edge of ours connects, instance and link number given.
    pub fn version_1(node: &str, token: &str, instance: &str) -> Self {
        Self {
            metadata: vec![
                ("tunnel-protocol", "1".to_owned()),
                ("tunnel-instance", instance.to_owned()),
            ],
            heartbeats: Heartbeats::Answer,
            ..Self::base(node, token)
        }
    }
}

impl FakeEdge {
    /// Opens a link, or gives the status with which it was refused.
    pub fn connect(world: &World, grpc: &str, options: &EdgeOptions) -> Result<Self, Status> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let ca = std::fs::read(world.pki.ca()).unwrap();
        let (wire, headers) = runtime.block_on(link(&ca, grpc, options))?;
        Ok(Self {
            wire,
            headers,
            _runtime: runtime,
        })
    }

    /// A base edge's link, which must come up.
    #[track_caller]
    pub fn base(world: &World, grpc: &str, node: &str) -> Self {
        Self::connect(world, grpc, &EdgeOptions::base(node, TOKEN)).expect("a base link comes up")
    }

    /// A version-1 edge's link, which must come up as that.
    #[track_caller]
    pub fn version_1(world: &World, grpc: &str, node: &str) -> Self {
        let options = EdgeOptions::version_1(node, TOKEN, &instance(1));
        let edge = Self::connect(world, grpc, &options).expect("a link comes up");
        let protocol = edge
            .headers
            .get("tunnel-protocol")
            .and_then(|value| value.to_str().ok());
        assert_eq!(
            protocol,
            Some("1"),
            "version 1 in the response's initial metadata"
        );
        edge
    }

    /// Answers a `connecting` as an edge that dialed: version 1, with a limit.
    #[track_caller]
    pub fn accept(&self, limit: u64) -> StreamMsg {
        let connecting = self.wire.expect_type("connecting");
        self.wire.send(StreamMsg {
            r#type: "connected".into(),
            data: instance(1).into_bytes(),
            limit,
            addr: String::new(),
            key: Vec::new(),
            ack: 0,
            ..connecting.clone()
        });
        connecting
    }
}

/// A fixed process's n-th link.
pub fn instance(n: u32) -> String {
    format!("6f1c3f0e-57a1-4a3b-9d2b-0d6a3c8e1a77.{n}")
}

/// Opens a link that the runtime drives from then on.
pub(crate) async fn link(
    ca: &[u8],
    grpc: &str,
    options: &EdgeOptions,
) -> Result<(Wire, MetadataMap), Status> {
    let (wire, pump, mut outgoing) = wire(options.heartbeats);
    let endpoint = endpoint(ca, grpc, options);
    let mut request = tonic::Request::new(poll_fn(move |context| {
        outgoing
            .poll_recv(context)
            .map(|message| message.and_then(Result::ok))
    }));
    if let Some(value) = &options.authorization {
        request
            .metadata_mut()
            .insert("authorization", value.parse().unwrap());
    }
    for (name, value) in &options.metadata {
        let key = MetadataKey::from_static(name);
        request.metadata_mut().insert(key, value.parse().unwrap());
    }
    let channel = endpoint
        .connect()
        .await
        .map_err(|error| Status::unavailable(format!("{error:?}")))?;
    let response = StreamClient::new(channel)
        .max_decoding_message_size(16 << 20)
        .tunnel_streaming(request)
        .await?;
    let headers = response.metadata().clone();
    tokio::spawn(pump.run(response.into_inner()));
    Ok((wire, headers))
}

fn endpoint(ca: &[u8], grpc: &str, options: &EdgeOptions) -> Endpoint {
    let ca = Certificate::from_pem(ca);
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(ca)
        .domain_name("tunnel.cloud.io");
    if let Some(identity) = &options.identity {
        let (cert, key) = (std::fs::read(&identity.cert), std::fs::read(&identity.key));
        tls = tls.identity(Identity::from_pem(cert.unwrap(), key.unwrap()));
    }
    Endpoint::from_shared(format!("https://{grpc}"))
        .unwrap()
        .tls_config(tls)
        .unwrap()
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(1))
}
