//! Both sides of a link over real sockets and TLS.
use std::future::poll_fn;
use std::time::Duration;

use proto_core::output::LinkLoss;
use proto_core::proto::StreamMsg;
use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use runtime_shared::grpc::server;
use runtime_shared::grpc::{Introduction, Loss, PingPace, Received, client, code};

use crate::Tokio;
use crate::net::homing::Homing;
use crate::test_tls;

type Link = runtime_shared::grpc::Link<Tokio>;
type Incoming = server::Incoming<Tokio>;

const MESSAGE_BYTES_MAX: usize = 262_144;
const PACE: PingPace = PingPace {
    interval: Duration::from_secs(10),
    patience: Duration::from_secs(5),
};

#[tokio::test]
async fn messages_go_both_ways_and_large_ones_whole() {
    let (mut edge, incoming) = meet(true).await;
    assert_eq!(incoming.request().instance(), Some("uuid.1"));
    let mut cloud = incoming
        .accept(true, MESSAGE_BYTES_MAX, PACE)
        .expect("taken");
    let (there, back) = tokio::join!(
        async {
            assert!(matches!(
                receive(&mut edge).await,
                Ok(Received::Established { version1: true })
            ));
            send(&mut edge, message(200_000)).await;
            receive(&mut edge).await
        },
        async {
            let there = receive(&mut cloud).await;
            send(&mut cloud, message(5)).await;
            let _ = tokio::time::timeout(
                Duration::from_millis(50),
                poll_fn(|cx| cloud.poll_connection(cx)),
            )
            .await;
            there
        }
    );
    assert!(matches!(there, Ok(Received::Message(got)) if got == message(5)));
    assert!(matches!(back, Ok(Received::Message(got)) if got == message(200_000)));
}

#[tokio::test]
async fn a_refusal_arrives_with_its_pushback() {
    let (mut edge, incoming) = meet(true).await;
    let refused = incoming.refuse(code::UNAVAILABLE, "full", Some(Duration::from_millis(1500)));
    let (loss, ()) = tokio::join!(receive(&mut edge), refused);
    let pushback = Some(Duration::from_millis(1500));
    assert_eq!(
        loss.map(drop).map_err(|loss| loss.to_core()),
        Err(LinkLoss::Unavailable { pushback })
    );
}

#[tokio::test]
async fn an_end_arrives_with_its_status_and_a_base_link_as_such() {
    let (mut edge, incoming) = meet(false).await;
    assert!(!incoming.request().offers_version1());
    let cloud = incoming
        .accept(false, MESSAGE_BYTES_MAX, PACE)
        .expect("taken");
    let ((), loss) = tokio::join!(cloud.end(code::ABORTED, "replaced"), async {
        assert!(matches!(
            receive(&mut edge).await,
            Ok(Received::Established { version1: false })
        ));
        let loss = receive(&mut edge).await.map(drop);
        edge.end(code::OK, "").await;
        loss
    });
    assert_eq!(loss.map_err(|loss| loss.to_core()), Err(LinkLoss::Replaced));
}

#[tokio::test]
async fn an_edge_that_leaves_in_order_is_no_loss() {
    let (edge, incoming) = meet(true).await;
    let mut cloud = incoming
        .accept(true, MESSAGE_BYTES_MAX, PACE)
        .expect("taken");
    let ((), loss) = tokio::join!(edge.end(code::OK, ""), async {
        let loss = receive(&mut cloud).await.map(drop);
        cloud.end(code::OK, "").await;
        loss
    });
    assert_eq!(loss, Err(Loss::Closed));
}

fn message(bytes: usize) -> StreamMsg {
    StreamMsg {
        r#type: "content".into(),
        data: vec![7; bytes].into(),
        ..StreamMsg::default()
    }
}

async fn send(link: &mut Link, message: StreamMsg) {
    let mut message = Some(message);
    poll_fn(|cx| {
        let _ = link.poll_connection(cx);
        link.poll_room(cx)
    })
    .await;
    link.send(message.take().expect("once"));
}

/// The next of what comes, while the connection is kept moving.
async fn receive(link: &mut Link) -> Result<Received, Loss> {
    poll_fn(|cx| {
        let over = link.poll_connection(cx);
        match link.poll_received(cx) {
            std::task::Poll::Pending => over.map(Err),
            ready => ready,
        }
    })
    .await
}

/// A link that was asked for.
async fn meet(version1: bool) -> (Link, Incoming) {
    let (acceptor, config) = test_tls::pair("cloud");
    let connector = TlsConnector::from(config);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let introduction = Introduction {
        authority: address.to_string(),
        kind: "edge",
        authorization: None,
        instance: "uuid.1".into(),
        node: None,
        draining: false,
        version1,
    };
    let asking = async {
        let tcp = TcpStream::connect(address).await.expect("a connection");
        let name = ServerName::try_from("cloud").expect("a name");
        let io = client::secure::<Tokio>(Homing::new(tcp), connector, name)
            .await
            .expect("TLS");
        let mut link = client::open(io, introduction, MESSAGE_BYTES_MAX)
            .await
            .expect("a request");
        // The request leaves with the first poll.
        poll_fn(|cx| {
            let _ = link.poll_connection(cx);
            std::task::Poll::Ready(())
        })
        .await;
        link
    };
    let asked = async {
        let (tcp, _) = listener.accept().await.expect("a connection");
        server::handshake(Homing::new(tcp), acceptor, |_| 1)
            .await
            .expect("a request")
    };
    tokio::join!(asking, asked)
}
