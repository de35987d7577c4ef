//! `tunnel nodes` and `tunnel streams`: what the cloud's admin address tells.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::args::{Format, List};
use crate::connect::printable;
use crate::kube;
use crate::settings::Settings;
use crate::table;

const TIMEOUT: Duration = Duration::from_secs(10);

/// More than 10,000 nodes or streams take; what is longer is no answer of ours.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Prints the nodes.
pub(crate) fn nodes(settings: &Settings, list: &List) -> Result<(), String> {
    let headings = [
        "NAME", "STATE", "AGE", "REPLICA", "DIALECT", "REMOTE", "RTT", "STREAMS",
    ];
    print(
        settings,
        list,
        "/api/v1/nodes",
        &headings,
        &["name"],
        one_each,
        |node, now| {
            let rtt = node.get("rttMs").and_then(Value::as_f64);
            vec![
                text(node, "name"),
                text(node, "state"),
                table::age(&text(node, "since"), now),
                text(node, "replica"),
                text(node, "dialect"),
                text(node, "remote"),
                rtt.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1}ms")),
                text(node, "streams"),
            ]
        },
    )
}

/// Prints the streams.
pub(crate) fn streams(settings: &Settings, list: &List) -> Result<(), String> {
    let headings = [
        "NODE",
        "TARGET",
        "USER",
        "CLIENT",
        "STATE",
        "AGE",
        "TO-EDGE",
        "FROM-EDGE",
        "TOPIC",
    ];
    print(
        settings,
        list,
        "/api/v1/streams",
        &headings,
        &["node", "since", "topic"],
        |_| (),
        |stream, now| {
            let count = |key| {
                stream
                    .get(key)
                    .and_then(Value::as_u64)
                    .map_or_else(|| "-".to_owned(), table::bytes)
            };
            vec![
                text(stream, "node"),
                text(stream, "target"),
                text(stream, "user"),
                text(stream, "client"),
                text(stream, "state"),
                table::age(&text(stream, "since"), now),
                count("bytesToEdge"),
                count("bytesFromEdge"),
                text(stream, "topic"),
            ]
        },
    )
}

/// A replica tells of a node that it has no link to as offline, whether or not another one has it.
fn one_each(nodes: &mut Vec<Value>) {
    let is_offline = |node: &Value| text(node, "state") == "offline";
    let there = nodes.iter().filter(|node| !is_offline(node));
    let mut told: BTreeSet<String> = there.map(|node| text(node, "name")).collect();
    nodes.retain(|node| !is_offline(node) || told.insert(text(node, "name")));
}

/// Asks all addresses and prints their items together, sorted by `order`.
fn print(
    settings: &Settings,
    list: &List,
    path: &str,
    headings: &[&str],
    order: &[&str],
    merge: impl FnOnce(&mut Vec<Value>),
    row: impl Fn(&Value, SystemTime) -> Vec<String>,
) -> Result<(), String> {
    // Credentials matter only where the address is not loopback; then a missing one is said by the server.
    let authorization = settings.authorization();
    let mut items = Vec::new();
    let ask = |admin: &str| items_of(admin, path, authorization.as_deref());
    match settings.cluster() {
        Some(cluster) => {
            let asked = cluster.each(kube::ADMIN, |address| ask(&address.to_string()))?;
            items.extend(asked.into_iter().flatten());
        }
        None => {
            for admin in &list.admin {
                items.append(&mut ask(admin)?);
            }
        }
    }
    merge(&mut items);
    items.sort_by_cached_key(|item| order.iter().map(|key| text(item, key)).collect::<Vec<_>>());
    match list.output {
        Format::Json => {
            let all = serde_json::to_string_pretty(&json!({ "items": items }))
                .map_err(|error| error.to_string())?;
            table::print(&format!("{all}\n"))
        }
        Format::Table if items.is_empty() => {
            eprintln!("None.");
            Ok(())
        }
        Format::Table => {
            let now = SystemTime::now();
            let rows: Vec<Vec<String>> = items.iter().map(|item| row(item, now)).collect();
            table::print(&table::render(headings, &rows))
        }
    }
}

/// A field as a cell: what is missing or empty is a dash.
fn text(item: &Value, key: &str) -> String {
    match item.get(key) {
        Some(Value::String(text)) if !text.is_empty() => printable(text),
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::Bool(yes)) => yes.to_string(),
        _ => "-".to_owned(),
    }
}

fn items_of(admin: &str, path: &str, authorization: Option<&str>) -> Result<Vec<Value>, String> {
    let failed = |what: String| format!("{admin}: {what}");
    let authority = authority_of(admin).map_err(failed)?;
    let answer = fetch(&authority, path, authorization).map_err(|error| match error.kind() {
        ErrorKind::ConnectionRefused => failed("nothing listens there (see --admin)".to_owned()),
        ErrorKind::WouldBlock | ErrorKind::TimedOut => failed("no answer".to_owned()),
        _ => failed(error.to_string()),
    })?;
    let (code, body) = split(&answer).ok_or_else(|| failed("its answer is not HTTP".to_owned()))?;
    let value: Result<Value, _> = serde_json::from_slice(body);
    match (code, value) {
        (200, Ok(Value::Object(mut object))) => match object.remove("items") {
            Some(Value::Array(items)) => Ok(items),
            _ => Err(failed("its answer has no items".to_owned())),
        },
        (200, _) => Err(failed("its answer is not JSON".to_owned())),
        (code, value) => {
            let message = value
                .ok()
                .map(|value| text(&value, "message"))
                .filter(|message| message != "-");
            Err(failed(message.map_or_else(
                || format!("status {code}"),
                |message| format!("{message} ({code})"),
            )))
        }
    }
}

/// `HOST:PORT` of `http://HOST:PORT/`.
fn authority_of(admin: &str) -> Result<String, String> {
    let rest = match admin.split_once("://") {
        None => admin,
        Some(("http", rest)) => rest,
        Some((scheme, _)) => {
            return Err(format!(
                "{scheme}:// is not spoken there; use http://HOST:PORT"
            ));
        }
    };
    let authority = rest.trim_end_matches('/');
    let clean = authority.bytes().all(|byte| byte.is_ascii_graphic())
        && !authority.contains(['/', '@', '?']);
    let port = authority
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse::<u16>().ok());
    if clean && port.is_some() {
        Ok(authority.to_owned())
    } else {
        Err("expected http://HOST:PORT".to_owned())
    }
}

/// One request on a connection of its own. HTTP/1.0, so that the answer ends where the connection does.
fn fetch(authority: &str, path: &str, authorization: Option<&str>) -> std::io::Result<Vec<u8>> {
    let mut last = std::io::Error::new(ErrorKind::NotFound, "the name has no address");
    for address in authority.to_socket_addrs()? {
        let mut socket = match TcpStream::connect_timeout(&address, TIMEOUT) {
            Ok(socket) => socket,
            Err(error) => {
                last = error;
                continue;
            }
        };
        socket.set_read_timeout(Some(TIMEOUT))?;
        // In plaintext a credential stays on this machine.
        let credential = authorization.filter(|_| address.ip().is_loopback());
        let credential =
            credential.map_or_else(String::new, |value| format!("Authorization: {value}\r\n"));
        let request = format!(
            "GET {path} HTTP/1.0\r\nHost: {authority}\r\nAccept: application/json\r\n{credential}\r\n"
        );
        socket.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        socket.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
        return Ok(answer);
    }
    Err(last)
}

/// The status code and the body.
fn split(answer: &[u8]) -> Option<(u16, &[u8])> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(answer) {
        Ok(httparse::Status::Complete(length)) => Some((response.code?, &answer[length..])),
        Ok(httparse::Status::Partial) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn addresses_with_and_without_scheme() {
        assert_eq!(
            authority_of("http://127.0.0.1:6000/").as_deref(),
            Ok("127.0.0.1:6000")
        );
        assert_eq!(authority_of("cloud:6000").as_deref(), Ok("cloud:6000"));
        for bad in [
            "https://x:1",
            "http://x",
            "http://u@x:1",
            "http://x:1/y",
            "",
        ] {
            assert!(authority_of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_node_that_another_replica_has_is_not_offline() {
        let node = |name, state, replica| json!({"name": name, "state": state, "replica": replica});
        let mut nodes = vec![
            node("a", "offline", 1),
            node("b", "offline", 1),
            node("a", "online", 2),
            node("b", "offline", 2),
        ];
        one_each(&mut nodes);
        assert_eq!(nodes, [node("b", "offline", 1), node("a", "online", 2)]);
    }

    #[test]
    fn items_and_errors_are_read() {
        let serve = |answer: &'static str| {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let address = listener.local_addr().expect("its address").to_string();
            std::thread::spawn(move || {
                let (mut socket, _) = listener.accept().expect("a client");
                let mut buffer = [0; 1024];
                let count = socket.read(&mut buffer).expect("a request");
                assert!(buffer[..count].starts_with(b"GET /api/v1/nodes HTTP/1.0\r\n"));
                socket.write_all(answer.as_bytes()).expect("answered");
            });
            items_of(&address, "/api/v1/nodes", Some("Bearer t"))
        };
        let good = serve(
            "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{\"items\":[{\"name\":\"a\"}]}",
        );
        assert_eq!(good.expect("items").len(), 1);
        let bad = serve(
            "HTTP/1.0 403 Forbidden\r\n\r\n{\"reason\":\"user-forbidden\",\"message\":\"not you\"}",
        );
        assert!(bad.expect_err("refused").ends_with("not you (403)"));
        assert!(
            serve("nonsense")
                .expect_err("refused")
                .ends_with("not HTTP")
        );
    }
}
