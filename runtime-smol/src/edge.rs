//! The edge on smol, with its admin pages.
use std::io;

pub use runtime_shared::edge::Settings;
use runtime_shared::net::options;

use crate::admin;
use crate::reactor::Watched;
use crate::runtime::Smol;

/// An edge that runs.
pub type Running = runtime_shared::edge::Running<Smol>;

/// Starts an edge, in [`block_on`](crate::block_on). Nothing waits for the cloud; an error names the admin listener's address.
pub async fn start(settings: Settings) -> io::Result<Running> {
    let admin = settings.admin.map(options::listen_beside).transpose()?;
    let admin_socket = settings.admin_socket.as_deref();
    let admin_socket = admin_socket.map(options::listen_at_if_writable);
    let admin_socket = admin_socket.transpose()?.flatten();
    let (mut running, pages) = runtime_shared::edge::start::<Smol>(settings);
    if let Some(listener) = admin {
        running.admin = Some(listener.local_addr()?);
        running.beside(admin::serve(Watched::new(listener)?, pages.clone()));
    }
    if let Some(listener) = admin_socket {
        running.beside(admin::serve_at(Watched::new(listener)?, pages));
    }
    Ok(running)
}
