//! The admin listener: health, metrics, and what is connected, for operators and their tools.
pub use runtime_shared::admin::api;
#[cfg(feature = "cloud")]
pub(crate) use runtime_shared::admin::infos;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use proto_core::connect::ProxyCredentials;
use runtime_shared::admin::{
    AUTH_FAILED, AUTH_MISSING, Denied, NO_DRAIN, NO_SUCH_PAGE, OPEN_METRICS,
};
use tokio::net::{TcpListener, UnixListener};

use crate::metrics::Metrics;

/// A future in a box.
pub type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Where the pages' content comes from.
pub trait Source: Send + Sync + 'static {
    /// The process does what it is for: the cloud listens, the edge is linked.
    fn is_ready(&self) -> bool;
    /// Brings up to date what is measured only when somebody looks.
    fn refresh(&self) -> Answer<()>;
    /// What is shown after that.
    fn metrics(&self) -> &Metrics;
    /// The nodes that this process knows.
    fn nodes(&self) -> Answer<Vec<api::Node>>;
    /// The streams that this process carries.
    fn streams(&self) -> Answer<Vec<api::Stream>>;
    /// Leave: take nothing new, move or finish what is there. How far that has come; none: not by this way.
    fn drain(&self) -> Answer<Option<api::Drain>> {
        Box::pin(std::future::ready(None))
    }
    /// Whose credentials these are.
    fn login(&self, credentials: ProxyCredentials) -> Answer<Login>;
}

/// Whose credentials they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Login {
    /// Of one who may do everything here.
    Administrator,
    /// Of another user.
    User,
    /// Nobody's.
    Wrong,
    /// Who could tell can't be asked now.
    Unavailable,
}

type Shared = State<Arc<dyn Source>>;

/// Whether a request comes from this machine itself.
#[derive(Clone, Copy, Debug)]
struct FromHere(bool);

impl Connected<IncomingStream<'_, TcpListener>> for FromHere {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> FromHere {
        FromHere(stream.remote_addr().ip().to_canonical().is_loopback())
    }
}

impl Connected<IncomingStream<'_, UnixListener>> for FromHere {
    fn connect_info(_: IncomingStream<'_, UnixListener>) -> FromHere {
        FromHere(true)
    }
}

/// Serves for as long as it is polled.
pub async fn run(listener: TcpListener, source: Arc<dyn Source>) -> std::io::Result<()> {
    let pages = pages(source).into_make_service_with_connect_info::<FromHere>();
    axum::serve(listener, pages).await
}

/// The same by a Unix socket: whoever may use it is this machine's own administrator.
pub async fn run_at(listener: UnixListener, source: Arc<dyn Source>) -> std::io::Result<()> {
    let pages = pages(source).into_make_service_with_connect_info::<FromHere>();
    axum::serve(listener, pages).await
}

fn pages(source: Arc<dyn Source>) -> Router {
    let api = Router::new()
        .route(
            "/nodes",
            get(async |State(source): Shared| {
                Json(api::Items {
                    items: source.nodes().await,
                })
            }),
        )
        .route(
            "/streams",
            get(async |State(source): Shared| {
                Json(api::Items {
                    items: source.streams().await,
                })
            }),
        )
        .route("/drain", post(drain))
        .layer(middleware::from_fn_with_state(source.clone(), admins_only));
    Router::new()
        // Alive is who answers: nothing else may restart a process that only waits for its uplink.
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .nest("/api/v1", api)
        .fallback(async || refuse(StatusCode::NOT_FOUND, NO_SUCH_PAGE))
        .with_state(source)
}

async fn readyz(State(source): Shared) -> Response {
    match source.is_ready() {
        true => "ready\n".into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response(),
    }
}

async fn drain(State(source): Shared) -> Response {
    match source.drain().await {
        Some(drain) => Json(drain).into_response(),
        None => refuse(StatusCode::NOT_FOUND, NO_DRAIN),
    }
}

async fn metrics(State(source): Shared) -> Response {
    const KIND: HeaderValue = HeaderValue::from_static(OPEN_METRICS);
    source.refresh().await;
    ([(header::CONTENT_TYPE, KIND)], source.metrics().render()).into_response()
}

/// Loopback is the machine's own administrator; everybody else has to be a user with `admin = true`.
async fn admins_only(
    State(source): Shared,
    ConnectInfo(FromHere(is_here)): ConnectInfo<FromHere>,
    request: Request,
    next: Next,
) -> Response {
    if is_here {
        return next.run(request).await;
    }
    let Some(value) = request.headers().get(header::AUTHORIZATION) else {
        return unauthorized(AUTH_MISSING);
    };
    match source
        .login(ProxyCredentials::parse(value.as_bytes()))
        .await
    {
        Login::Administrator => next.run(request).await,
        Login::User => refuse(
            StatusCode::FORBIDDEN,
            Denied {
                reason: "user-forbidden",
                message: "this user is no administrator (admin = true)",
            },
        ),
        Login::Wrong => unauthorized(AUTH_FAILED),
        Login::Unavailable => refuse(
            StatusCode::SERVICE_UNAVAILABLE,
            Denied {
                reason: "auth-unavailable",
                message: "the credentials can't be checked just now, try again in a moment",
            },
        ),
    }
}

fn unauthorized(why: Denied) -> Response {
    const CHALLENGE: HeaderValue = HeaderValue::from_static("Basic realm=\"tunnel\"");
    let mut response = refuse(StatusCode::UNAUTHORIZED, why);
    response
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, CHALLENGE);
    response
}

fn refuse(status: StatusCode, why: Denied) -> Response {
    (status, Json(api::Refusal::from(why))).into_response()
}
