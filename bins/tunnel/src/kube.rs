//! The way to the cloud through a cluster's API server: by its port-forward, with the user's kubeconfig.
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// The Service whose Pods are tunnel-cloud's, and its port for links.
const SERVICE: &str = "tunnel-cloud";
const PORT: &str = "grpc";
/// How long the API server and a Pod's kubelet may take to make a way.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(5);

/// What the user says.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    /// The context in the kubeconfig.
    pub(crate) context: String,
    /// `None`: `KUBECONFIG`, else `~/.kube/config`.
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Where tunnel-cloud is.
    pub(crate) namespace: String,
}

/// A port on loopback that leads to a replica; each connection to one that is ready then. Closed when dropped.
pub(crate) struct Forward {
    pub(crate) address: SocketAddr,
    failure: Arc<Mutex<String>>,
    accepting: AbortHandle,
}

/// What connections share.
struct Forwarder {
    slices: Api<EndpointSlice>,
    pods: Api<Pod>,
    namespace: String,
    /// Counts connections, so that the one after a broken one leads to another Pod.
    turn: AtomicUsize,
    failure: Arc<Mutex<String>>,
}

impl Forward {
    /// Finds the cluster and a replica in it, so that what can't be had is said at once.
    pub(crate) async fn start(cluster: &Cluster) -> Result<Forward, String> {
        let client = client(cluster).await?;
        let failure = Arc::<Mutex<String>>::default();
        let forwarder = Arc::new(Forwarder {
            slices: Api::namespaced(client.clone(), &cluster.namespace),
            pods: Api::namespaced(client, &cluster.namespace),
            namespace: cluster.namespace.clone(),
            // Users spread over the replicas.
            turn: AtomicUsize::new(std::process::id() as usize),
            failure: failure.clone(),
        });
        forwarder.ready().await?;
        let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = bound.map_err(|error| format!("no port on loopback: {error}"))?;
        let address = listener
            .local_addr()
            .map_err(|error| format!("no port on loopback: {error}"))?;
        let accepting = tokio::spawn(accept(listener, forwarder)).abort_handle();
        Ok(Forward {
            address,
            failure,
            accepting,
        })
    }

    /// Why the last connection led nowhere; empty if none did.
    pub(crate) fn failure(&self) -> String {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.clone()
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn client(cluster: &Cluster) -> Result<Client, String> {
    let read = match &cluster.kubeconfig {
        Some(file) => Kubeconfig::read_from(file),
        None => Kubeconfig::read(),
    };
    let kubeconfig = read.map_err(|error| format!("the kubeconfig: {}", causes(&error)))?;
    let options = KubeConfigOptions {
        context: Some(cluster.context.clone()),
        ..KubeConfigOptions::default()
    };
    let config = Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .map_err(|error| format!("context {}: {}", cluster.context, causes(&error)))?;
    Client::try_from(config)
        .map_err(|error| format!("context {}: {}", cluster.context, causes(&error)))
}

async fn accept(listener: TcpListener, forwarder: Arc<Forwarder>) {
    loop {
        // No descriptors left, for example: the next try to connect comes by itself.
        let Ok((local, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let forwarder = forwarder.clone();
        tokio::spawn(async move {
            if let Err(text) = forwarder.carry(local).await {
                let failure = forwarder.failure.lock();
                *failure.unwrap_or_else(PoisonError::into_inner) = text;
            }
        });
    }
}

impl Forwarder {
    /// Leads a connection to a Pod, until either has ended.
    async fn carry(&self, mut local: TcpStream) -> Result<(), String> {
        let _ = local.set_nodelay(true);
        let pods = self.ready().await?;
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut why = String::new();
        for at in 0..pods.len() {
            let (pod, port) = &pods[first.wrapping_add(at) % pods.len()];
            let ports = [*port];
            let made = tokio::time::timeout(FORWARD_TIMEOUT, self.pods.portforward(pod, &ports));
            let mut forwarded = match made.await {
                Ok(Ok(forwarded)) => forwarded,
                Ok(Err(error)) => {
                    why = format!("port-forward to Pod {pod}: {}", answer(&error));
                    continue;
                }
                Err(_) => {
                    why =
                        format!("port-forward to Pod {pod}: no answer within {FORWARD_TIMEOUT:?}");
                    continue;
                }
            };
            let (Some(mut stream), Some(failed)) =
                (forwarded.take_stream(*port), forwarded.take_error(*port))
            else {
                continue;
            };
            let ended = tokio::select! {
                copied = copy_bidirectional(&mut local, &mut stream) => copied.map(drop),
                // Without a word it has only ended.
                Some(text) = failed => Err(io::Error::other(text)),
            };
            forwarded.abort();
            return ended.map_err(|error| format!("port-forward to Pod {pod}: {error}"));
        }
        Err(why)
    }

    /// The Pods that are ready, each with its port for links.
    async fn ready(&self) -> Result<Vec<(String, u16)>, String> {
        let of_service = format!("kubernetes.io/service-name={SERVICE}");
        let params = ListParams::default().labels(&of_service);
        let asked = tokio::time::timeout(FORWARD_TIMEOUT, self.slices.list(&params));
        let slices = match asked.await {
            Ok(Ok(slices)) => slices,
            Ok(Err(error)) => return Err(answer(&error)),
            Err(_) => {
                return Err(format!(
                    "the API server did not answer within {FORWARD_TIMEOUT:?}"
                ));
            }
        };
        let mut pods: Vec<(String, u16)> = slices.items.iter().flat_map(of_slice).collect();
        pods.sort();
        pods.dedup();
        match pods.is_empty() {
            false => Ok(pods),
            true => Err(format!(
                "Service {SERVICE} in namespace {} has no Pod that is ready (--kube-namespace)",
                self.namespace
            )),
        }
    }
}

fn of_slice(slice: &EndpointSlice) -> impl Iterator<Item = (String, u16)> {
    let ports = slice.ports.iter().flatten();
    let port = ports
        .filter(|port| port.name.as_deref() == Some(PORT))
        .find_map(|port| u16::try_from(port.port?).ok());
    let endpoints = slice.endpoints.iter();
    let ready = endpoints.filter(|endpoint| {
        let conditions = endpoint.conditions.as_ref();
        // Not to know it counts as ready, by the API's rules.
        conditions.and_then(|conditions| conditions.ready) != Some(false)
    });
    let pods = ready.filter_map(|endpoint| {
        let target = endpoint.target_ref.as_ref();
        let target = target.filter(|target| target.kind.as_deref() == Some("Pod"));
        target?.name.clone()
    });
    let named: Vec<_> = pods.filter_map(|pod| Some((pod, port?))).collect();
    named.into_iter()
}

/// What the API server said, or why it said nothing.
fn answer(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.replace('\n', " "),
        other => causes(other),
    }
}

/// An error with what lies behind it, in one line.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = cause.source();
    }
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_that_are_ready_are_found_with_their_port() {
        let slice = serde_json::from_str(
            r#"{"addressType": "IPv4", "metadata": {"name": "s"},
            "ports": [{"name": "ssh", "port": 2222}, {"name": "grpc", "port": 9000}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": "a"}},
                {"addresses": ["10.0.0.2"], "targetRef": {"kind": "Pod", "name": "b"}, "conditions": {"ready": false}},
                {"addresses": ["10.0.0.3"], "targetRef": {"kind": "Pod", "name": "c"}, "conditions": {"ready": true}},
                {"addresses": ["10.0.0.4"]}
            ]}"#,
        );
        let slice: EndpointSlice = slice.expect("a slice");
        let found: Vec<_> = of_slice(&slice).collect();
        assert_eq!(found, [("a".to_owned(), 9000), ("c".to_owned(), 9000)]);
    }
}
