//! A cloud by tonic's own server, which sends what a test tells it to.

use std::net::TcpListener;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use futures_core::Stream;
use futures_util::stream::poll_fn;
use std::pin::Pin;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tonic::metadata::MetadataMap;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

use crate::wire::proto::stream_server::{Stream as Service, StreamServer};
use crate::wire::{Heartbeats, StreamMsg, Wire, wire};
use crate::world::World;

/// How the cloud behaves.
#[derive(Debug, Clone, Copy)]
pub struct CloudOptions {
    /// Whether its response says `tunnel-protocol: 1`.
    pub version_1: bool,
    /// Whether response headers wait for the first message, as SuperEdge's do.
    pub late_headers: bool,
    /// Heartbeats.
    pub heartbeats: Heartbeats,
}

/// A listening cloud.
#[derive(Debug)]
pub struct FakeCloud {
    /// Where edges connect.
    pub grpc: String,
    links: Receiver<CloudLink>,
    _runtime: Runtime,
}

/// The cloud's side of one link.
#[derive(Debug)]
pub struct CloudLink {
    /// The link.
    pub wire: Wire,
    /// The request's metadata.
    pub metadata: MetadataMap,
    release: Option<oneshot::Sender<()>>,
}

impl CloudOptions {
    /// As SuperEdge's cloud: headers with the first message, heartbeats echoed unchanged.
    pub fn base() -> Self {
        Self {
            version_1: false,
            late_headers: true,
            heartbeats: Heartbeats::Ignore,
        }
    }

    /// As ours.
    pub fn version_1() -> Self {
        Self {
            version_1: true,
            late_headers: false,
            heartbeats: Heartbeats::Answer,
        }
    }
}

impl FakeCloud {
    /// Listens on a free port with the world's cloud certificate.
    pub fn start(world: &World, options: CloudOptions) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let identity = world.cloud_identity();
        let (cert, key) = (std::fs::read(&identity.cert), std::fs::read(&identity.key));
        let tls = ServerTlsConfig::new().identity(Identity::from_pem(cert.unwrap(), key.unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let grpc = listener.local_addr().unwrap().to_string();
        listener.set_nonblocking(true).unwrap();
        let (to_test, links) = channel();
        let service = Handler {
            options,
            links: Mutex::new(to_test),
        };
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            Server::builder()
                .tls_config(tls)
                .unwrap()
                // Room for a flood of small messages: hyper's own limit on unread small frames is a share of it.
                .initial_connection_window_size(Some(64 << 20))
                .http2_keepalive_interval(Some(Duration::from_secs(5)))
                .http2_keepalive_timeout(Some(Duration::from_secs(1)))
                .add_service(StreamServer::new(service).max_decoding_message_size(16 << 20))
                .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
                .await
        });
        Self {
            grpc,
            links,
            _runtime: runtime,
        }
    }

    /// The next link that an edge opens.
    #[track_caller]
    pub fn link(&self, limit: Duration) -> CloudLink {
        self.links
            .recv_timeout(limit)
            .expect("an edge connects in time")
    }
}

impl CloudLink {
    /// Sends a message, and before the first one the headers.
    pub fn send(&mut self, message: StreamMsg) -> bool {
        if let Some(release) = self.release.take() {
            let _ = release.send(());
        }
        self.wire.send(message)
    }

    /// A metadata value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.metadata
            .get(name)
            .and_then(|value| value.to_str().ok())
    }
}

struct Handler {
    options: CloudOptions,
    links: Mutex<Sender<CloudLink>>,
}

#[tonic::async_trait]
impl Service for Handler {
    type TunnelStreamingStream = Pin<Box<dyn Stream<Item = Result<StreamMsg, Status>> + Send>>;

    async fn tunnel_streaming(
        &self,
        request: Request<Streaming<StreamMsg>>,
    ) -> Result<Response<Self::TunnelStreamingStream>, Status> {
        let metadata = request.metadata().clone();
        let (wire, pump, mut outgoing) = wire(self.options.heartbeats);
        tokio::spawn(pump.run(request.into_inner()));
        let (release, released) = oneshot::channel();
        let release = self.options.late_headers.then_some(release);
        let waits = release.is_some();
        let link = CloudLink {
            wire,
            metadata,
            release,
        };
        let _ = self.links.lock().unwrap().send(link);
        if waits {
            let _ = released.await;
        }
        let stream = poll_fn(move |context| outgoing.poll_recv(context));
        let mut response = Response::new(Box::pin(stream) as Self::TunnelStreamingStream);
        if self.options.version_1 {
            response
                .metadata_mut()
                .insert("tunnel-protocol", "1".parse().unwrap());
        }
        Ok(response)
    }
}
