//! A thousand idle edges in one thread: each a TLS connection with one version-1 link that only answers heartbeats.

use std::pin::pin;
use std::thread::{self, JoinHandle};

use futures_util::stream::{self, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tunnel_tests::wire::StreamMsg;
use tunnel_tests::wire::proto::stream_client::StreamClient;
use tunnel_tests::world::TOKEN;

use crate::Result;
use crate::columns::Ours;

/// Links that are up until this is dropped.
#[derive(Debug)]
pub(crate) struct Fleet {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Fleet {
    /// Brings up one link for each name, and returns when all of them are.
    pub(crate) fn start(ours: &Ours, names: Vec<String>) -> Result<Self> {
        let ca = Certificate::from_pem(ours.world.pki.ca_pem());
        let tls = ClientTlsConfig::new()
            .ca_certificate(ca)
            .domain_name("tunnel.cloud.io");
        let endpoint =
            Endpoint::from_shared(format!("https://{}", ours.cloud.grpc))?.tls_config(tls)?;
        let (stop, stopped) = oneshot::channel();
        let (up, all_up) = std::sync::mpsc::channel::<Result<()>>();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                let mut links = pin!(
                    stream::iter(names.into_iter().enumerate())
                        .map(|(n, name)| link(endpoint.clone(), n, name))
                        .buffer_unordered(16)
                );
                let mut result = Ok(());
                while let Some(link) = links.next().await {
                    result = result.and(link);
                }
                let _ = up.send(result);
                let _ = stopped.await;
            });
        });
        let fleet = Self {
            stop: Some(stop),
            thread: Some(thread),
        };
        all_up.recv().map_err(|_| "the fleet's thread ended")??;
        Ok(fleet)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn link(endpoint: Endpoint, n: usize, name: String) -> Result<()> {
    let channel = endpoint.connect().await?;
    let (send, mut outgoing) = mpsc::channel(4);
    let mut request = Request::new(stream::poll_fn(move |context| outgoing.poll_recv(context)));
    let mut put = |key: &'static str, value: String| -> Result<()> {
        let value: MetadataValue<Ascii> = value.parse()?;
        request.metadata_mut().insert(key, value);
        Ok(())
    };
    put(
        "authorization",
        format!("Bearer {{\"nodename\":\"{name}\",\"token\":\"{TOKEN}\"}}"),
    )?;
    put("tunnel-protocol", "1".to_owned())?;
    put(
        "tunnel-instance",
        format!("6f1c3f0e-57a1-4a3b-9d2b-{n:012x}.1"),
    )?;
    let mut incoming = StreamClient::new(channel)
        .tunnel_streaming(request)
        .await?
        .into_inner();
    tokio::spawn(async move {
        while let Ok(Some(message)) = incoming.message().await {
            if message.r#type == "heartbeat" {
                let echo = StreamMsg {
                    r#type: "heartbeat-echo".into(),
                    ..message
                };
                if send.send(echo).await.is_err() {
                    return;
                }
            }
        }
    });
    Ok(())
}
