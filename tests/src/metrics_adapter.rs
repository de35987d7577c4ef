//! What serves `custom.metrics.k8s.io` in a cluster, for one metric of Pods, read from their pages at each question: an
//! autoscaler's way to it, without Prometheus.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use crate::pki::Identity;

const GROUP: &str = "/apis/custom.metrics.k8s.io/v1beta1";

/// What the metric of each Pod is now, by the Pod's name.
pub type Read = Arc<dyn Fn() -> Vec<(String, f64)> + Send + Sync>;

/// Serves `metric` of the Pods in `namespace` on a port of this address, in the calling thread's network, until the test ends.
pub fn serve(
    address: &str,
    identity: &Identity,
    namespace: &'static str,
    metric: &'static str,
    read: Read,
) -> SocketAddr {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = CertificateDer::pem_file_iter(&identity.cert)
        .unwrap()
        .collect::<Result<Vec<_>, _>>()
        .unwrap();
    let key = PrivateKeyDer::from_pem_file(&identity.key).unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind((address, 0)).unwrap();
    let local = listener.local_addr().unwrap();
    thread::spawn(move || {
        for connection in listener.incoming().map_while(Result::ok) {
            let (config, read) = (config.clone(), read.clone());
            thread::spawn(move || {
                // Whoever asks may go at any time.
                let _ = talk(connection, config, &|path| {
                    answer(path, namespace, metric, &read)
                });
            });
        }
    });
    local
}

fn talk(
    connection: TcpStream,
    config: Arc<ServerConfig>,
    answer: &dyn Fn(&str) -> Option<Value>,
) -> io::Result<()> {
    let tls = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut connection = BufReader::new(StreamOwned::new(tls, connection));
    loop {
        let mut request = String::new();
        connection.read_line(&mut request)?;
        let Some(path) = request.split(' ').nth(1) else {
            return Ok(());
        };
        let mut header = String::from(" ");
        while header.trim_end() != "" {
            header.clear();
            connection.read_line(&mut header)?;
        }
        let (status, body) = match answer(path) {
            Some(body) => ("200 OK", body.to_string()),
            None => ("404 Not Found", String::from("{}")),
        };
        write!(
            connection.get_mut(),
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )?;
    }
}

fn answer(path: &str, namespace: &str, metric: &str, read: &Read) -> Option<Value> {
    let path = path.split('?').next()?.strip_prefix(GROUP)?;
    if path.trim_matches('/').is_empty() {
        let resource = json!({"name": format!("pods/{metric}"), "singularName": "", "namespaced": true,
            "kind": "MetricValueList", "verbs": ["get"]});
        return Some(
            json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": GROUP.strip_prefix("/apis/")?,
            "resources": [resource]}),
        );
    }
    let of = |all: &str| path == format!("/namespaces/{namespace}/pods/{all}/{metric}");
    if !of("*") && !of("%2A") {
        return None;
    }
    let item = |(pod, value): (String, f64)| {
        json!({"describedObject": {"kind": "Pod", "namespace": namespace, "name": pod, "apiVersion": "v1"},
            "metricName": metric, "timestamp": "2020-01-01T00:00:00Z", "value": value.to_string()})
    };
    let items: Vec<Value> = read().into_iter().map(item).collect();
    Some(
        json!({"kind": "MetricValueList", "apiVersion": GROUP.strip_prefix("/apis/")?, "metadata": {}, "items": items}),
    )
}
