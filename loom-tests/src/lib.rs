//! Models of the bridge on the code that ships: loom explores every interleaving and every value the
//! C11 memory model lets a load return.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test -p relayscope-loom-tests --release --target-dir target/loom
//! ```
//!
//! The flag is for this package only: it would take `tokio::net` away from the rest of the workspace.
//! Without it nothing here can run, and the one test left says so.
//!
//! - `models`: what must hold, in every execution, of rings and of cells.
//! - `reuse`: the same, of series that come and go while a reader looks on.
//! - `weakened`: the same models with one fence, ordering or bound taken out of the bridge. Each must
//!   fail: that is how we know that the bridge needs it and that the model would notice.
//! - `witness`: samples that betray tearing, and the reader that checks its account.
#![forbid(unsafe_code)]

#[cfg(loom)]
#[cfg(test)]
mod models;
#[cfg(loom)]
#[cfg(test)]
mod reuse;
#[cfg(loom)]
#[cfg(test)]
mod weakened;
#[cfg(loom)]
#[cfg(test)]
mod witness;

#[cfg(all(test, not(loom)))]
mod not_run {
    #[test]
    #[ignore = "THE LOOM MODELS DID NOT RUN: they need RUSTFLAGS=\"--cfg loom\" and -p relayscope-loom-tests"]
    fn loom_models_need_cfg_loom() {
        panic!("build with RUSTFLAGS=\"--cfg loom\"; without it there is no model here to run");
    }
}
