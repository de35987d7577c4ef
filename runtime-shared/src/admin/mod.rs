//! What the admin pages show.
pub mod api;
pub mod infos;
