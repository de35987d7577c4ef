//! Against a server that says what a test wants; the real one in the tests of the built programs.
use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::core::params::WatchParams;
use proto_core::auth::Secret;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use super::*;
use crate::test_tls;

#[test]
fn only_urls_of_https_without_a_path_are_servers() {
    let (_, tls) = test_tls::pair("127.0.0.1");
    for (server, is_good) in [
        ("https://10.96.0.1:443", true),
        ("https://[fd00::1]:6443/", true),
        ("http://10.96.0.1", false),
        ("https://proxy/cluster", false),
        ("10.96.0.1:443", false),
        ("", false),
    ] {
        let settings = Settings {
            server: server.to_owned(),
            tls: watch::channel(tls.clone()).1,
            token: watch::channel(None).1,
        };
        assert_eq!(Client::new(settings).is_some(), is_good, "{server}");
    }
}

#[test]
fn the_token_is_the_one_of_the_moment_and_shown_to_nobody_else() {
    run(async {
        let mut server = Server::start(vec![
            answer("200 OK", r#"{"metadata": {"name": "one"}}"#),
            answer("200 OK", r#"{"metadata": {"name": "one"}}"#),
        ])
        .await;
        let maps = server.client.namespaced::<ConfigMap>("edge-system");
        for token in ["first", "second"] {
            server.token.send_replace(Some(Secret::new(token.into())));
            let map = maps.get("one").await.expect("a map");
            assert_eq!(map.metadata.name.as_deref(), Some("one"));
            let asked = server.asked.recv().await.expect("a request");
            assert!(
                asked.starts_with("GET /api/v1/namespaces/edge-system/configmaps/one "),
                "{asked}"
            );
            let header = format!("authorization: Bearer {token}\n");
            assert!(asked.contains(&header), "{asked}");
            assert!(!format!("{:?}", server.client).contains(token));
        }
    });
}

#[test]
fn a_refusal_says_what_was_asked_of_whom_and_what_is_missing() {
    run(async {
        let status = r#"{"kind": "Status", "code": 403, "reason": "Forbidden", "message": "configmaps \"one\" is forbidden"}"#;
        let server = Server::start(vec![
            answer("403 Forbidden", status),
            answer("502 Bad Gateway", "a proxy's page"),
            answer("200 OK", "not JSON"),
        ])
        .await;
        let maps = server.client.namespaced::<ConfigMap>("edge-system");
        let error = maps.get("one").await.expect_err("forbidden");
        assert!(error.is_forbidden() && !error.is_missing());
        let text = error.to_string();
        for part in [
            "get configmaps in edge-system at https://127.0.0.1:",
            "403 Forbidden: configmaps \"one\" is forbidden",
            "the verb \"get\" is missing",
        ] {
            assert!(text.contains(part), "{text}");
        }
        let text = maps.get("one").await.expect_err("a proxy").to_string();
        assert!(text.contains("502 Bad Gateway: a proxy's page"), "{text}");
        let error = maps.get("one").await.expect_err("nonsense");
        assert!(matches!(error.why(), Why::Unintelligible(_)), "{error}");
        // It has no more answers, and is gone.
        let error = maps.get("one").await.expect_err("nobody");
        assert!(matches!(error.why(), Why::Unreachable(_)), "{error}");
    });
}

#[test]
fn a_strangers_certificate_is_refused_with_its_reason() {
    run(async {
        let server = Server::start(vec![answer("200 OK", "{}")]).await;
        let (_, other) = test_tls::pair("127.0.0.1");
        server.tls.send_replace(other);
        let maps = server.client.everywhere::<ConfigMap>();
        let text = maps.get("one").await.expect_err("a stranger").to_string();
        assert!(text.contains("invalid peer certificate"), "{text}");
    });
}

#[test]
fn changes_come_a_line_each_however_they_are_cut() {
    run(async {
        let lines = concat!(
            r#"{"type":"ADDED","object":{"metadata":{"name":"one"}}}"#,
            "\n",
            r#"{"type":"BOOKMARK","object":{"apiVersion":"v1","kind":"ConfigMap","metadata":{"resourceVersion":"7"}}}"#,
            "\n",
            r#"{"type":"DELETED","object":{"metadata":{"name":"one"}}}"#,
            "\n",
            r#"{"type":"ERROR","object":{"code":410,"reason":"Expired","message":"too old"}}"#,
            "\n",
        );
        let mut chunks = String::from("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        for piece in lines.as_bytes().chunks(7) {
            let text = String::from_utf8_lossy(piece);
            chunks.push_str(&format!("{:x}\r\n{text}\r\n", piece.len()));
        }
        chunks.push_str("0\r\n\r\n");
        let server = Server::start(vec![chunks]).await;
        let maps = server.client.everywhere::<ConfigMap>();
        let watched = maps.watch(&WatchParams::default(), "5").await;
        let mut watched = watched.expect("a watch");
        let name = |map: ConfigMap| map.metadata.name.unwrap_or_default();
        let mut seen = Vec::new();
        while let Some(change) = watched.next().await {
            seen.push(match change {
                Ok(Change::Applied(map)) => format!("applied {}", name(map)),
                Ok(Change::Deleted(map)) => format!("deleted {}", name(map)),
                Ok(Change::Bookmark(version)) => format!("bookmark {version}"),
                Err(error) => format!("expired: {}", error.is_expired()),
            });
        }
        let expected = ["applied one", "bookmark 7", "deleted one", "expired: true"];
        assert_eq!(seen, expected);
    });
}

/// A server with so many answers, one after the other on one connection, and the means of its client.
struct Server {
    client: Client,
    tls: watch::Sender<Arc<rustls::ClientConfig>>,
    token: watch::Sender<Option<Secret>>,
    asked: mpsc::UnboundedReceiver<String>,
}

impl Server {
    async fn start(answers: Vec<String>) -> Server {
        let (acceptor, config) = test_tls::pair("127.0.0.1");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (say, asked) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let (tcp, _) = listener.accept().await.expect("a connection");
            let Ok(io) = acceptor.accept(tcp).await else {
                return;
            };
            let mut io = BufReader::new(io);
            for answer in answers {
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    io.read_line(&mut head).await.expect("a request");
                }
                let _ = say.send(head.replace('\r', ""));
                io.write_all(answer.as_bytes()).await.expect("sent");
                io.flush().await.expect("sent");
            }
        });
        let (tls, tls_now) = watch::channel(config);
        let (token, token_now) = watch::channel(None);
        let settings = Settings {
            server: format!("https://{address}"),
            tls: tls_now,
            token: token_now,
        };
        Server {
            client: Client::new(settings).expect("a server"),
            tls,
            token,
            asked,
        }
    }
}

fn answer(status: &str, body: &str) -> String {
    let len = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Length: {len}\r\n\r\n{body}")
}

fn run(test: impl Future<Output = ()>) {
    crate::lanes::runtime()
        .build()
        .expect("a runtime")
        .block_on(test);
}
