//! The edge's admin pages: HTTP as far as probes, Prometheus and curl need it, one request a connection.
use std::future::{pending, poll_fn};
use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use runtime_shared::admin::{
    AUTH_FAILED, AUTH_MISSING, Denied, NO_DRAIN, NO_SUCH_PAGE, OPEN_METRICS, api,
};
use runtime_shared::edge::Pages;
use runtime_shared::{Runtime, Task, within};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::net::Stream;
use crate::reactor::Watched;
use crate::runtime::Smol;

/// Requests at once; others wait in the kernel.
const AT_ONCE: usize = 16;
/// A request and its answer take no longer.
const PATIENCE: Duration = Duration::from_secs(10);
const HEAD_BYTES_MAX: usize = 8192;
const HEADERS_MAX: usize = 64;
/// After an accept that failed: descriptors may be back by then.
const PAUSE: Duration = Duration::from_millis(100);

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// Serves for as long as it is polled.
pub(crate) async fn serve(listener: Watched<TcpListener>, pages: Pages<Smol>) {
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    while let Ok(slot) = slots.clone().acquire_owned().await {
        let accepted = poll_fn(|cx| listener.poll_read(cx, TcpListener::accept)).await;
        let stream = accepted.and_then(|(stream, peer)| {
            let is_here = peer.ip().to_canonical().is_loopback();
            Ok((Stream::accepted(stream)?, is_here))
        });
        match stream {
            Ok((stream, is_here)) => begin(stream, is_here, pages.clone(), slot),
            Err(error) => pause(&error).await,
        }
    }
}

/// The same by a Unix socket: whoever may use it is this machine's own administrator.
pub(crate) async fn serve_at(listener: Watched<UnixListener>, pages: Pages<Smol>) {
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    while let Ok(slot) = slots.clone().acquire_owned().await {
        let accepted = poll_fn(|cx| listener.poll_read(cx, UnixListener::accept)).await;
        match accepted.and_then(|(stream, _)| Stream::accepted(stream)) {
            Ok(stream) => begin(stream, true, pages.clone(), slot),
            Err(error) => pause(&error).await,
        }
    }
}

async fn pause(error: &io::Error) {
    tracing::warn!(%error, "the admin listener took no connection");
    let _ = within::<Smol, _>(PAUSE, pending::<()>()).await;
}

fn begin(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    is_here: bool,
    pages: Pages<Smol>,
    slot: OwnedSemaphorePermit,
) {
    let exchange = async move {
        let _slot = slot;
        // Who asks and goes away, or never asks, gets no answer.
        let _ = within::<Smol, _>(PATIENCE, exchange(stream, is_here, pages)).await;
    };
    Smol::spawn(exchange).detach();
}

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    is_here: bool,
    pages: Pages<Smol>,
) -> io::Result<()> {
    let mut head = Vec::new();
    let answer = loop {
        if (&mut stream).take(1024).read_buf(&mut head).await? == 0 {
            return Ok(());
        }
        match Request::parse(&head) {
            Ok(Some(request)) => break answer(request, is_here, pages).await,
            Ok(None) if head.len() < HEAD_BYTES_MAX => {}
            Ok(None) | Err(()) => break Answer::empty("400 Bad Request"),
        }
    };
    stream.write_all(&answer.into_bytes()).await?;
    stream.shutdown().await
}

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Request<'a> {
    method: &'a str,
    path: &'a str,
    /// It comes with credentials.
    authorized: bool,
}

impl Request<'_> {
    /// None while there is more to come.
    fn parse(head: &[u8]) -> Result<Option<Request<'_>>, ()> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        if request.parse(head).map_err(drop)?.is_partial() {
            return Ok(None);
        }
        let target = request.path.unwrap_or_default();
        let authorization = |name: &str| name.eq_ignore_ascii_case("authorization");
        Ok(Some(Request {
            method: request.method.unwrap_or_default(),
            path: target.split_once('?').map_or(target, |(path, _)| path),
            authorized: request.headers.iter().any(|h| authorization(h.name)),
        }))
    }
}

async fn answer(request: Request<'_>, is_here: bool, pages: Pages<Smol>) -> Answer {
    let is_read = matches!(request.method, "GET" | "HEAD");
    let answer = match request.path {
        path if path.starts_with("/api/v1/") && !is_here => refuse_stranger(request.authorized),
        "/api/v1/drain" if request.method == "POST" => refuse("404 Not Found", NO_DRAIN),
        "/healthz" | "/readyz" | "/metrics" | "/api/v1/nodes" | "/api/v1/streams" if !is_read => {
            Answer::empty("405 Method Not Allowed")
        }
        "/healthz" => Answer::text("200 OK", "ok\n"),
        "/readyz" if pages.is_ready() => Answer::text("200 OK", "ready\n"),
        "/readyz" => Answer::text("503 Service Unavailable", "not ready\n"),
        "/metrics" => {
            pages.clone().refresh().await;
            Answer::new("200 OK", OPEN_METRICS, pages.metrics().render())
        }
        // An edge knows of no node but itself, and `tunnel` asks the cloud.
        "/api/v1/nodes" => items::<api::Node>(Vec::new()),
        "/api/v1/streams" => items(pages.streams().await),
        _ => refuse("404 Not Found", NO_SUCH_PAGE),
    };
    match request.method {
        "HEAD" => answer.without_body(),
        _ => answer,
    }
}

/// Loopback is the machine's own administrator, and an edge has no users.
fn refuse_stranger(authorized: bool) -> Answer {
    let why = match authorized {
        true => AUTH_FAILED,
        false => AUTH_MISSING,
    };
    Answer {
        challenge: true,
        ..refuse("401 Unauthorized", why)
    }
}

fn refuse(status: &'static str, why: Denied) -> Answer {
    json(status, &api::Refusal::from(why))
}

fn items<T: Serialize>(items: Vec<T>) -> Answer {
    json("200 OK", &api::Items { items })
}

fn json(status: &'static str, value: &impl Serialize) -> Answer {
    match serde_json::to_string(value) {
        Ok(body) => Answer::new(status, JSON, body),
        Err(_) => Answer::empty("500 Internal Server Error"),
    }
}

/// What is answered.
struct Answer {
    status: &'static str,
    kind: &'static str,
    body: String,
    bytes: usize,
    challenge: bool,
}

impl Answer {
    fn new(status: &'static str, kind: &'static str, body: String) -> Answer {
        Answer {
            status,
            kind,
            bytes: body.len(),
            body,
            challenge: false,
        }
    }

    fn text(status: &'static str, body: &str) -> Answer {
        Answer::new(status, TEXT, body.to_owned())
    }

    fn empty(status: &'static str) -> Answer {
        Answer::text(status, "")
    }

    /// As HEAD wants it: the length stays.
    fn without_body(mut self) -> Answer {
        self.body.clear();
        self
    }

    fn into_bytes(self) -> Vec<u8> {
        let challenge = match self.challenge {
            true => "WWW-Authenticate: Basic realm=\"tunnel\"\r\n",
            false => "",
        };
        let head = format!(
            "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{challenge}Connection: close\r\n\r\n",
            self.status, self.kind, self.bytes
        );
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(self.body.as_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_whole_or_awaited_or_no_request() {
        let whole = b"GET /readyz?verbose HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer x\r\n\r\n";
        let request = Request {
            method: "GET",
            path: "/readyz",
            authorized: true,
        };
        assert_eq!(Request::parse(whole), Ok(Some(request)));
        for end in 0..whole.len() {
            assert_eq!(Request::parse(&whole[..end]), Ok(None));
        }
        assert_eq!(Request::parse(b"\x16\x03\x01\x02\0"), Err(()));
    }

    #[test]
    fn head_is_answered_with_the_length_alone() {
        let bytes = Answer::text("200 OK", "ok\n").without_body().into_bytes();
        let text = String::from_utf8(bytes).expect("text");
        assert!(text.contains("Content-Length: 3\r\n"));
        assert!(text.ends_with("\r\n\r\n"));
    }
}
