//! The CONNECT listeners: a header, credentials, and then the socket goes to its node's hub.
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use proto_core::connect::{Connect, ConnectRequest, Context, Limits, Reply, Step};
use proto_core::reason::{ConnectRefusal, Reason};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use super::replica::Replica;
use super::{Directory, Identity, User};
use crate::Tokio;
use crate::net::accept::Acceptor;
use crate::net::homing::Homing;
use crate::net::options;
use crate::net::socket::Socket;
use runtime_shared::net::closing;

/// The first byte of every TLS connection, and of no HTTP request.
const TLS_HANDSHAKE: u8 = 0x16;
/// Read at once of a header; most are shorter.
const HEADER_READ_BYTES: usize = 2048;

/// Whether a CONNECT listener speaks TLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TlsMode {
    /// Never.
    Off,
    /// If the client's first byte says so.
    Optional,
    /// Always.
    Required,
}

/// A CONNECT listener.
#[derive(Clone, Copy, Debug)]
pub struct ConnectListener {
    /// Its address.
    pub listen: SocketAddr,
    /// Whether it speaks TLS.
    pub tls: TlsMode,
    /// Whether clients have to say who they are.
    pub users_only: bool,
    /// Whether the streams that are asked for here may outlive their links.
    pub resume: bool,
}

/// What all connections of a listener share.
pub(super) struct Front {
    pub(super) replica: Arc<Replica>,
    pub(super) listener: ConnectListener,
    pub(super) tls: watch::Receiver<Arc<rustls::ServerConfig>>,
    pub(super) directory: Arc<dyn Directory>,
    pub(super) limits: Limits,
    /// For connections up to their answer; afterwards the core counts them.
    pub(super) permits: Arc<Semaphore>,
}

/// Accepts for as long as it is polled.
pub(super) async fn run(front: Arc<Front>, mut acceptor: Acceptor) {
    loop {
        let (tcp, client) = acceptor
            .accept(|error| {
                front.replica.metrics().accept_failed();
                tracing::warn!(listener = %front.listener.listen, %error, "a CONNECT client could not be accepted");
            })
            .await;
        options::tune_local(&tcp);
        tokio::spawn(front.clone().serve(tcp, client));
    }
}

impl Front {
    async fn serve(self: Arc<Self>, tcp: TcpStream, client: SocketAddr) {
        let connect = Connect::new(self.limits, self.replica.clock().now());
        let Ok(_permit) = self.permits.clone().try_acquire_owned() else {
            return self
                .refuse(Socket::plain(tcp), Reason::OverLimit.into(), client)
                .await;
        };
        let until = self.replica.clock().to_std(connect.deadline()).into();
        let socket = match tokio::time::timeout_at(until, self.secure(tcp)).await {
            Ok(Ok(socket)) => socket,
            Ok(Err(error)) => {
                return tracing::debug!(%client, %error, "a CONNECT client's TLS failed");
            }
            Err(_) => {
                return self
                    .replica
                    .metrics()
                    .refused(ConnectRefusal::HeaderTimeout.as_str());
            }
        };
        self.read_header(socket, connect, client).await;
    }

    async fn secure(&self, tcp: TcpStream) -> io::Result<Socket> {
        let is_tls = match self.listener.tls {
            TlsMode::Off => false,
            TlsMode::Required => true,
            TlsMode::Optional => {
                let mut first = [0];
                tcp.peek(&mut first).await? == 1 && first[0] == TLS_HANDSHAKE
            }
        };
        if !is_tls {
            return Ok(Socket::plain(tcp));
        }
        let acceptor = TlsAcceptor::from(self.tls.borrow().clone());
        Ok(Socket::Tls(Box::new(
            acceptor.accept(Homing::new(tcp)).await?,
        )))
    }

    async fn read_header(&self, mut socket: Socket, mut connect: Connect, client: SocketAddr) {
        let until = self.replica.clock().to_std(connect.deadline()).into();
        let mut buffer = [0; HEADER_READ_BYTES];
        loop {
            let read = match tokio::time::timeout_at(until, socket.read(&mut buffer)).await {
                Ok(Ok(0)) => {
                    return tracing::debug!(%client, "a CONNECT client left before its request was complete");
                }
                Ok(Ok(read)) => read,
                Ok(Err(error)) => {
                    return tracing::debug!(%client, %error, "a CONNECT client was lost");
                }
                Err(_) => match connect.handle_timeout(self.replica.clock().now()) {
                    Ok(early) => {
                        connect = early;
                        continue;
                    }
                    Err(reply) => return self.reply(socket, reply, client).await,
                },
            };
            match connect.handle_bytes(&buffer[..read]) {
                Step::More(more) => connect = more,
                Step::Refuse(reply) => return self.reply(socket, reply, client).await,
                Step::Request(request) => {
                    buffer.fill(0);
                    return self.admit(socket, request, client).await;
                }
            }
        }
    }

    async fn admit(&self, socket: Socket, mut request: ConnectRequest, client: SocketAddr) {
        let user = match self.verify(&socket, &mut request).await {
            Ok(user) => user,
            Err(refusal) => return self.refuse(socket, refusal, client).await,
        };
        let resume = self.listener.resume;
        let taken = self
            .replica
            .connect(request, user.as_ref(), client, resume, socket);
        if let Err((socket, reply)) = taken {
            self.reply(socket, reply, client).await;
        }
    }

    async fn verify(
        &self,
        socket: &Socket,
        request: &mut ConnectRequest,
    ) -> Result<Option<User>, ConnectRefusal> {
        if !self.listener.users_only {
            return Ok(None);
        }
        if let Some(credentials) = request.credentials.take() {
            let verified = self.directory.verify(credentials, request.node()).await;
            return Ok(Some(verified?));
        }
        match socket
            .certificate()
            .and_then(|certificate| self.directory.identify(certificate))
        {
            Some(Identity::User(name)) => self
                .directory
                .user(&name)
                .map(Some)
                .ok_or(ConnectRefusal::AuthFailed),
            Some(Identity::Node(_) | Identity::Replica) => Err(ConnectRefusal::AuthFailed),
            None => Err(ConnectRefusal::AuthMissing),
        }
    }

    async fn refuse(&self, socket: Socket, refusal: ConnectRefusal, client: SocketAddr) {
        let context = Context {
            limits: self.limits,
            ..Context::default()
        };
        self.reply(socket, Reply::refused(refusal, &context), client)
            .await;
    }

    async fn reply(&self, socket: Socket, reply: Reply, client: SocketAddr) {
        let (code, reason) = (reply.status(), reply.reason_word());
        tracing::info!(code, reason, "a CONNECT was refused");
        tracing::debug!(%client, code, reason, "its client");
        self.replica.metrics().connect_reply(code, reason);
        self.replica.metrics().refused(reason);
        let bytes: Bytes = reply.into_bytes();
        closing::say::<Tokio>(socket, bytes).await;
    }
}
