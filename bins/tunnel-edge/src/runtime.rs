//! Which runtime this build stands on: a feature of the package says.

#[cfg(not(any(feature = "runtime-tokio", feature = "runtime-smol")))]
compile_error!("tunnel-edge needs a runtime: the feature runtime-tokio or runtime-smol");
#[cfg(all(feature = "runtime-tokio", feature = "runtime-smol"))]
compile_error!(
    "tunnel-edge stands on one runtime: for runtime-smol, build with --no-default-features"
);

#[cfg(feature = "runtime-tokio")]
mod chosen {
    use std::io;

    pub(crate) use runtime_tokio::Tokio as Runtime;
    pub(crate) use runtime_tokio::edge::{Running, start};

    /// Threads for names to be looked up on.
    const LOOKUPS_MAX: usize = 4;

    pub(crate) fn block_on<F: Future>(future: F) -> io::Result<F::Output> {
        let runtime = runtime_tokio::lanes::runtime()
            .max_blocking_threads(LOOKUPS_MAX)
            .build()?;
        Ok(runtime.block_on(future))
    }
}

#[cfg(all(feature = "runtime-smol", not(feature = "runtime-tokio")))]
mod chosen {
    pub(crate) use runtime_smol::edge::{Running, start};
    pub(crate) use runtime_smol::{Smol as Runtime, block_on};
}

pub(crate) use chosen::{Running, Runtime, block_on, start};
