//! Between replicas: many links on one HTTP/2 connection, each with a driver of its own, and a task that drives the connection.
use std::io;
use std::time::Duration;

use http::HeaderValue;
use proto_core::ReplicaId;
use proto_core::name::NodeName;

use super::connection::Io;
use super::link::{Link, broken};
use super::message::Outgoing;
use super::request;
use super::service::{self, LinkRequest};
use super::{Loss, client};
use crate::runtime::Runtime;

/// A connection to another replica, on which links can be made.
#[derive(Clone)]
pub struct PeerConnection {
    requests: h2::client::SendRequest<Outgoing>,
    authority: String,
    me: ReplicaId,
    message_bytes_max: usize,
}

impl PeerConnection {
    /// Begins HTTP/2. The future drives the connection, and ends with it: when nobody has it or a link of it any more.
    pub async fn begin<R: Runtime>(
        io: Io<R>,
        authority: String,
        me: ReplicaId,
        message_bytes_max: usize,
    ) -> io::Result<(PeerConnection, impl Future<Output = ()> + Send)> {
        let (requests, connection) = client::http2()
            .handshake::<_, Outgoing>(io)
            .await
            .map_err(io::Error::other)?;
        let peer = PeerConnection {
            requests,
            authority,
            me,
            message_bytes_max,
        };
        let drive = async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to another replica ended");
            }
        };
        Ok((peer, drive))
    }

    /// Makes a link: for a node, or (`None`) to say which there are. Done when the other side has taken it, with that side's
    /// `tunnel-replica`. The caller bounds the time.
    pub async fn open<R: Runtime>(
        &self,
        authorization: Option<HeaderValue>,
        node: Option<&NodeName>,
    ) -> Result<(Link<R>, ReplicaId), Loss> {
        let broken = |error: h2::Error| broken(&error);
        let request = service::of_peer(&self.authority, authorization, self.me, node)
            .ok_or_else(|| Loss::Broken("no authority".to_owned()))?;
        let mut requests = self.requests.clone().ready().await.map_err(broken)?;
        let (response, send) = requests.send_request(request, false).map_err(broken)?;
        let response = response.await.map_err(broken)?;
        if let Some(loss) = request::refusal(&response) {
            return Err(loss);
        }
        let (head, body) = response.into_parts();
        match service::replica(&head.headers) {
            Some(replica) if request::is_version1(&head.headers) => {
                let link = Link::of_shared_client(send, body, self.message_bytes_max);
                Ok((link, replica))
            }
            Some(_) | None => Err(Loss::Broken("it does not answer as a replica".to_owned())),
        }
    }
}

/// A connection from another replica, as it asks for links.
pub struct PeerRequests<R: Runtime> {
    pub(super) connection: Box<h2::server::Connection<Io<R>, Outgoing>>,
}

impl<R: Runtime> PeerRequests<R> {
    /// The next request for a link. This drives the connection, and with it all of its links. None: it has ended.
    pub async fn next(&mut self) -> Option<PeerRequest> {
        loop {
            let (http, mut respond) = self.connection.accept().await?.ok()?;
            let (head, body) = http.into_parts();
            match LinkRequest::parse(head) {
                Ok(request) => {
                    return Some(PeerRequest {
                        request,
                        respond,
                        body,
                    });
                }
                Err(response) => {
                    let _ = respond.send_response(response, true);
                }
            }
        }
    }
}

/// A replica's request for a link, to be accepted or refused.
pub struct PeerRequest {
    pub(super) request: LinkRequest,
    pub(super) respond: h2::server::SendResponse<Outgoing>,
    pub(super) body: h2::RecvStream,
}

impl PeerRequest {
    /// What it says.
    pub fn request(&self) -> &LinkRequest {
        &self.request
    }

    /// Takes the link; the other side hears who this is.
    pub fn accept<R: Runtime>(
        mut self,
        me: ReplicaId,
        message_bytes_max: usize,
    ) -> io::Result<Link<R>> {
        let send = self
            .respond
            .send_response(service::accept_peer(me), false)
            .map_err(io::Error::other)?;
        Ok(Link::of_shared_server(send, self.body, message_bytes_max))
    }

    /// Refuses it with a status.
    pub fn refuse(mut self, code: u16, text: &'static str, pushback: Option<Duration>) {
        // A connection that is gone needs no answer.
        let _ = self
            .respond
            .send_response(service::refuse(code, text, pushback), true);
    }
}
