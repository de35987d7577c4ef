//! The few HTTP requests that the tests make.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// `GET path` of an admin listener: status and body.
pub fn get(address: &str, path: &str) -> (u16, String) {
    request(address, "GET", path, &[])
}

/// The same of one that may not be there.
pub fn try_get(address: &str, path: &str) -> std::io::Result<(u16, String)> {
    try_request(address, "GET", path, &[])
}

/// A request with headers: status and body.
pub fn request(address: &str, method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
    try_request(address, method, path, headers)
        .unwrap_or_else(|error| panic!("{method} {address}{path}: {error}"))
}

fn try_request(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> std::io::Result<(u16, String)> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut text = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: 0\r\n"
    );
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    socket.write_all(text.as_bytes())?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let code = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or(0);
    let chunked = head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked");
    Ok((
        code,
        if chunked {
            unchunk(body)
        } else {
            body.to_owned()
        },
    ))
}

fn unchunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let len = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if len == 0 || rest.len() < len {
            break;
        }
        whole.push_str(&rest[..len]);
        body = rest[len..].trim_start_matches("\r\n");
    }
    whole
}
