use super::*;
use crate::auth::UserName;
use crate::name::NodeName;
use crate::reason::Reason;
use crate::target::Target;
use crate::time::WallTime;
use alloc::format;
use alloc::string::{String, ToString};
use proptest::prelude::*;

#[test]
fn real_clients_are_understood() {
    for header in [
        "CONNECT node-A:22 HTTP/1.0\r\n\r\n", // nc -X connect, corkscrew
        "CONNECT node-A:22 HTTP/1.0\r\nProxy-Connection: Keep-Alive\r\n\r\n", // ncat
        "CONNECT node-A:22 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", // kube-apiserver
        "CONNECT node-A:22 HTTP/1.1\r\nHost: node-A:22\r\nUser-Agent: curl/8\r\nX: caf\u{e9}\r\n\r\n", // curl
        "CONNECT node-A:22 HTTP/1.0\n\n", // a person with printf
        "\r\n\r\nCONNECT node-A:22 HTTP/1.1\r\n\n",
    ] {
        let request = request(header.as_bytes());
        assert_eq!(
            (request.to_string().as_str(), request.early.len()),
            ("node-A:22", 0),
            "{header:?}"
        );
        assert_eq!(request.credentials, None);
        assert_eq!(request.node().expect("a node").as_str(), "node-A");
    }
}

#[test]
fn what_follows_the_header_is_early_data() {
    let request = request(b"CONNECT a:22 HTTP/1.0\r\n\r\n\r\nSSH-2.0-x\r\n\0\xff");
    assert_eq!(request.early, b"\r\nSSH-2.0-x\r\n\0\xff"[..]);
}

#[test]
fn addresses_may_be_asked_for() {
    let v6 = request(b"CONNECT [2001:DB8::0:1]:10250 HTTP/1.1\r\n\r\n");
    assert_eq!((v6.host.as_str(), v6.port), ("2001:db8::1", 10250));
    assert_eq!(v6.to_string(), "[2001:db8::1]:10250");
    assert_eq!(v6.node(), None);
    assert_eq!(
        request(b"CONNECT 10.0.0.7:22 HTTP/1.1\r\n\r\n").host,
        "10.0.0.7"
    );
}

#[test]
fn bad_requests_have_replies_of_their_own() {
    use ConnectRefusal::*;
    for (header, refusal) in [
        ("hello\r\n\r\n", Malformed),
        ("CONNECT a:22\r\n\r\n", Malformed),
        ("CONNECT a:22 HTTP/2.0\r\n\r\n", Malformed),
        ("CONNECT a b:22 HTTP/1.1\r\n\r\n", Malformed),
        ("CONNECT :22 HTTP/1.1\r\n\r\n", Malformed),
        ("CONNECT a/b:22 HTTP/1.1\r\n\r\n", Malformed),
        ("CONNECT user@a:22 HTTP/1.1\r\n\r\n", Malformed),
        ("CONNECT [::1:22 HTTP/1.1\r\n\r\n", Malformed),
        ("CONNECT ::1:22 HTTP/1.1\r\n\r\n", Malformed),
        ("CONNECT a:22 HTTP/1.1\r\nno colon\r\n\r\n", Malformed),
        ("\x16\x03\x01\x02", Malformed),
        ("CONNECT \u{f6}", Malformed),
        ("CONNECT a HTTP/1.1\r\n\r\n", BadPort),
        ("CONNECT [::1] HTTP/1.1\r\n\r\n", BadPort),
        ("CONNECT a: HTTP/1.1\r\n\r\n", BadPort),
        ("CONNECT a:0 HTTP/1.1\r\n\r\n", BadPort),
        ("CONNECT a:65536 HTTP/1.1\r\n\r\n", BadPort),
        ("CONNECT a:-1 HTTP/1.1\r\n\r\n", BadPort),
        ("CONNECT a:ssh HTTP/1.1\r\n\r\n", BadPort),
        ("GET / HTTP/1.1\r\n\r\n", Method),
        ("connect a:22 HTTP/1.1\r\n\r\n", Method),
        ("SSH-2.0 a:22 HTTP/1.1\r\n\r\n", Method),
    ] {
        assert_eq!(refusal_of(header.as_bytes()), refusal, "{header:?}");
    }
    let fields = "a: b\r\n".repeat(HEADER_FIELDS_MAX + 1);
    let header = format!("CONNECT a:22 HTTP/1.1\r\n{fields}\r\n");
    assert_eq!(refusal_of(header.as_bytes()), HeaderTooLong);
}

#[test]
fn the_limit_is_exact_and_counts_everything() {
    let limits = Limits {
        header_bytes_max: 64,
        ..Limits::default()
    };
    let header_of = |length: usize, start: &str| {
        let start = format!("{start}CONNECT a:22 HTTP/1.0\r\nx: ");
        let filling = "y".repeat(length - start.len() - 4);
        format!("{start}{filling}\r\n\r\n")
    };
    for start in ["", "\r\n"] {
        let fits = header_of(64, start)
            + "early data that is longer than the limit, which does not count it";
        assert!(matches!(
            connect(limits).handle_bytes(fits.as_bytes()),
            Step::Request(_)
        ));
        let long = header_of(65, start);
        match connect(limits).handle_bytes(long.as_bytes()) {
            Step::Refuse(reply) => assert_eq!(reply.reason_word(), "header-too-long"),
            other => panic!("{other:?}"),
        }
    }
    let endless = connect(limits).handle_bytes(&[b'\n'; 65]);
    assert!(matches!(endless, Step::Refuse(_)));
}

#[test]
fn a_header_that_does_not_end_is_refused_in_time() {
    let start = Instant::from_nanos(5);
    let connect = Connect::new(Limits::default(), start);
    let deadline = start + Duration::from_secs(10);
    assert_eq!(connect.deadline(), deadline);
    let Step::More(connect) = connect.handle_bytes(b"CONNECT") else {
        panic!("no end of a line")
    };
    let connect = connect.handle_timeout(start).expect("there is time left");
    assert_eq!(connect.deadline(), deadline);
    let reply = connect
        .handle_timeout(deadline)
        .expect_err("the time is over");
    assert_eq!(
        text(reply).lines().next(),
        Some("HTTP/1.1 408 the request header was not complete within 10s")
    );
}

#[test]
fn credentials_are_read_and_not_shown() {
    let basic = credentials("Basic YWxpY2U6b3BlbjpzZXNhbWU=");
    assert_eq!(
        basic,
        Some(ProxyCredentials::Basic {
            user: UserName::parse("alice").expect("a user"),
            password: crate::auth::Secret::new("open:sesame".into())
        })
    );
    assert_eq!(
        format!("{basic:?}"),
        "Some(Basic { user: \"alice\", password: Secret(…) })"
    );
    assert_eq!(
        credentials("bearer  t0ken"),
        Some(ProxyCredentials::Bearer(crate::auth::Secret::new(
            "t0ken".into()
        )))
    );
    for unreadable in [
        "",
        "Basic",
        "Basic !",
        "Basic YWxpY2U=",
        "Basic OnB3",
        "Bearer ",
        "Bearer a b",
        "Digest x",
        "Basic YQ",
    ] {
        assert_eq!(
            credentials(unreadable),
            Some(ProxyCredentials::Unreadable),
            "{unreadable:?}"
        );
    }
    let twice = request(b"CONNECT a:22 HTTP/1.1\r\nProxy-Authorization: Bearer t\r\nproxy-authorization: Bearer t\r\n\r\n");
    assert_eq!(twice.credentials, Some(ProxyCredentials::Unreadable));
}

#[test]
fn what_is_half_read_is_not_shown() {
    let step = connect(Limits::default())
        .handle_bytes(b"CONNECT a:22 HTTP/1.1\r\nProxy-Authorization: Bearer t0ken");
    assert!(!format!("{step:?}").contains("t0ken"));
}

#[test]
fn trace_ids_are_kept_if_they_are_harmless() {
    let trace_id = |value: &str| {
        request(format!("CONNECT a:22 HTTP/1.1\r\nTraceid: {value}\r\n\r\n").as_bytes()).trace_id
    };
    assert_eq!(trace_id("4bf92f35-1").as_deref(), Some("4bf92f35-1"));
    assert_eq!(trace_id("a b"), None);
    assert_eq!(trace_id("\u{f6}"), None);
    assert_eq!(trace_id(&"t".repeat(TRACE_ID_BYTES_MAX + 1)), None);
}

#[test]
fn success_is_exact() {
    let reply = Reply::established();
    assert_eq!((reply.status(), reply.reason_word()), (200, "established"));
    assert_eq!(text(reply), "HTTP/1.1 200 Connection established\r\n\r\n");
}

#[test]
fn refusals_say_what_a_person_can_do() {
    let node = NodeName::parse("node-A").expect("a name");
    let (ssh, mysql) = (Target::loopback(22), Target::loopback(3306));
    let user = UserName::parse("alice").expect("a user");
    let context = Context {
        node: Some(&node),
        target: ssh.as_ref(),
        user: Some(&user),
        ..Context::default()
    };
    for (reason, line) in [
        (
            Reason::Refused,
            "502 node-A: nothing listens on 127.0.0.1:22",
        ),
        (
            Reason::DialTimeout,
            "504 node-A: 127.0.0.1:22 did not answer the dial in time",
        ),
        (Reason::NodeOffline, "503 node-A is offline"),
        (
            Reason::UserForbidden,
            "403 user alice may not reach port 22 of node-A",
        ),
        (Reason::UnknownNode, "404 no node node-A is known here"),
        (
            Reason::NoAnswer,
            "504 node-A is connected but did not answer in time, try again",
        ),
        (
            Reason::FlowControl,
            "502 node-A broke the protocol (flow-control), see the log of tunnel-cloud",
        ),
    ] {
        assert_eq!(
            first_line(Reply::refused(reason, &context)),
            format!("HTTP/1.1 {line}")
        );
    }
    let since = Context {
        offline_since: Some(WallTime::from_unix_seconds(43_391)),
        ..context
    };
    assert_eq!(
        first_line(Reply::refused(Reason::NodeOffline, &since)),
        "HTTP/1.1 503 node-A is offline since 12:03:11Z"
    );
    let forbidden = Context {
        target: mysql.as_ref(),
        ..context
    };
    assert_eq!(
        first_line(Reply::refused(Reason::TargetForbidden, &forbidden)),
        "HTTP/1.1 403 node-A does not allow 127.0.0.1:3306 (targets.allow)"
    );
}

#[test]
fn replies_carry_what_their_status_asks_for() {
    let context = Context {
        retry_after: Some(Duration::from_millis(2001)),
        ..Context::default()
    };
    assert_eq!(
        text(Reply::refused(Reason::OverLimit, &context)),
        "HTTP/1.1 503 the node: too many streams or waiting connects, try again later\r\n\
         Retry-After: 3\r\nContent-Type: text/plain\r\nContent-Length: 64\r\nConnection: close\r\n\r\n\
         the node: too many streams or waiting connects, try again later\n"
    );
    let auth = text(Reply::refused(
        ConnectRefusal::AuthMissing,
        &Context::default(),
    ));
    assert!(
        auth.starts_with("HTTP/1.0 407 credentials are needed"),
        "{auth}"
    );
    assert!(
        auth.contains("\r\nProxy-Authenticate: Basic realm=\"tunnel\"\r\n"),
        "{auth}"
    );
    assert!(
        auth.contains("\r\nProxy-Authenticate: Bearer realm=\"tunnel\"\r\n"),
        "{auth}"
    );
    let method = text(Reply::refused(ConnectRefusal::Method, &Context::default()));
    assert!(method.contains("\r\nAllow: CONNECT\r\n"), "{method}");
}

#[test]
fn every_reply_is_one_line_of_ascii_with_its_status() {
    let node = NodeName::parse("node-A").expect("a name");
    let known = Context {
        node: Some(&node),
        ..Context::default()
    };
    let of_streams = Reason::ALL
        .iter()
        .map(|reason| ConnectRefusal::Stream(*reason));
    for refusal in ConnectRefusal::HTTP_ONLY.iter().copied().chain(of_streams) {
        for context in [&known, &Context::default()] {
            let reply = Reply::refused(refusal, context);
            let (status, word) = (reply.status(), reply.reason_word());
            let text = text(reply);
            assert!(text.is_ascii());
            let (head, body) = text.split_once("\r\n\r\n").expect("a head");
            assert!(
                head.contains("\r\nContent-Type: text/plain\r\n")
                    && head.ends_with("\r\nConnection: close"),
                "{head}"
            );
            let line = head.lines().next().expect("a status line");
            assert_eq!(line[9..], format!("{status} {}", body.trim_end()), "{word}");
            assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
        }
    }
}

proptest! {
    #[test]
    fn where_the_bytes_are_cut_makes_no_difference(
        input in "(\r?\n){0,2}(CONNECT|GET|\\PC{0,4})( [a-z\\[\\]:.]{0,8}(:[0-9]{0,6})?)( HTTP/1\\.[01])?\r?\n([a-z]{1,3}: ?[ -~]{0,9}\r?\n){0,3}\r?\n?\\PC{0,9}",
        cuts in prop::collection::vec(0usize..120, 0..6),
        header_bytes_max in 20usize..120,
    ) {
        let limits = Limits { header_bytes_max, ..Limits::default() };
        let whole = outcome(limits, [input.as_bytes()].into_iter());
        let (bytes, mut cuts) = (input.as_bytes(), cuts);
        cuts.sort_unstable();
        let mut pieces = alloc::vec::Vec::new();
        let mut from = 0;
        for cut in cuts.into_iter().map(|cut| cut.min(bytes.len())) {
            pieces.push(&bytes[from..cut]);
            from = cut;
        }
        pieces.push(&bytes[from..]);
        prop_assert_eq!(outcome(limits, pieces.into_iter()), whole.clone());
        prop_assert_eq!(outcome(limits, bytes.chunks(1)), whole);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = connect(Limits::default()).handle_bytes(&bytes);
        let _ = connect(Limits::default()).handle_bytes(&[b"CONNECT a:1 HTTP/1.1\r\n", bytes.as_slice(), b"\r\n\r\n"].concat());
    }
}

/// All that a caller sees of some input, as text.
fn outcome<'a>(limits: Limits, mut pieces: impl Iterator<Item = &'a [u8]>) -> String {
    let mut connect = connect(limits);
    while let Some(piece) = pieces.next() {
        match connect.handle_bytes(piece) {
            Step::More(more) => connect = more,
            Step::Request(mut request) => {
                // What the driver reads later follows the early data.
                let mut early = request.early.to_vec();
                pieces.for_each(|later| early.extend_from_slice(later));
                request.early = early.into();
                return format!("{request:?}");
            }
            Step::Refuse(reply) => return text(reply),
        }
    }
    "more".into()
}

fn connect(limits: Limits) -> Connect {
    Connect::new(limits, Instant::ZERO)
}

fn request(bytes: &[u8]) -> ConnectRequest {
    match connect(Limits::default()).handle_bytes(bytes) {
        Step::Request(request) => request,
        other => panic!("{other:?}"),
    }
}

fn refusal_of(bytes: &[u8]) -> ConnectRefusal {
    match connect(Limits::default()).handle_bytes(bytes) {
        Step::Refuse(reply) => reply.refusal().expect("a refusal"),
        other => panic!("{other:?}"),
    }
}

fn credentials(value: &str) -> Option<ProxyCredentials> {
    request(format!("CONNECT a:22 HTTP/1.1\r\nProxy-Authorization: {value}\r\n\r\n").as_bytes())
        .credentials
}

fn first_line(reply: Reply) -> String {
    text(reply).lines().next().unwrap_or_default().into()
}

fn text(reply: Reply) -> String {
    String::from_utf8(reply.into_bytes().to_vec()).expect("text")
}
