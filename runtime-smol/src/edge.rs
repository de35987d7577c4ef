//! The edge on smol, with its admin pages.
use std::io;

pub use runtime_shared::edge::Settings;

use crate::admin;
use crate::net::{listen, listen_at};
use crate::runtime::Smol;

/// An edge that runs.
pub type Running = runtime_shared::edge::Running<Smol>;

/// Starts an edge, in [`block_on`](crate::block_on). Nothing waits for the cloud; an error names the admin listener's address.
pub async fn start(settings: Settings) -> io::Result<Running> {
    let admin = settings.admin.map(listen).transpose()?;
    let admin_socket = settings.admin_socket.as_deref();
    let admin_socket = admin_socket.map(listen_at).transpose()?;
    let (mut running, pages) = runtime_shared::edge::start::<Smol>(settings);
    if let Some(listener) = admin {
        running.admin = Some(listener.get_ref().local_addr()?);
        running.beside(admin::serve(listener, pages.clone()));
    }
    if let Some(listener) = admin_socket {
        running.beside(admin::serve_at(listener, pages));
    }
    Ok(running)
}
