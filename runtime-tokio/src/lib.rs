//! The tunnel's drivers on tokio.
