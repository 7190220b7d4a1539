//! The one place where `std` is swapped for loom, so that what loom explores is what ships.
//!
//! Every fence and ordering that the rings and the table of series rely on is named by a [`Site`]. In an
//! ordinary build a site is nothing: the functions below fold to the fence or the ordering they are
//! given. Under `cfg(loom)` a model may weaken exactly one site and must then find a sample, a series or
//! a count that is torn, lost or another's; that is how we know that each of them is needed and that the
//! models can fail.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU64, Ordering};

/// A place in the rings or the table of series where the memory model is relied upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// Producer: the release fence between the previous head store and the payload.
    ProducerFence,
    /// Producer: the release store that publishes the head.
    HeadStore,
    /// Producer: the claim that tells readers how far a batch in flight reaches.
    BatchClaim,
    /// Reader: the acquire fence between loading the head and copying the payload.
    ReaderEntryFence,
    /// Reader: the acquire fence between copying the payload and loading the head again.
    ReaderExitFence,
    /// Reader: the record in flight already clobbers `head - capacity` (`<=`, not `<`).
    DiscardBound,
    /// Shard: the release store by which a retirement is acknowledged.
    AcknowledgeStore,
    /// Registry: the acquire load that reads an acknowledgement.
    AcknowledgeLoad,
    /// Registry: the release fence between taking a row out of the table and giving its cell away.
    RetireFence,
    /// Reader: the acquire fence between reading a cell and looking again whose it is.
    CellFence,
    /// Registry: the release store of the even sequence that ends the writing of a row.
    RowEndStore,
    /// Reader: the acquire load of a row's sequence before the row is read.
    RowLoad,
    /// Registry: the release store of the table's generation that tells of changed rows.
    TableChangedStore,
    /// Reader: the acquire load of the table's generation before looking for changed rows.
    TableLoad,
    /// Registry: the release store of how many families there are.
    UsedStore,
    /// Reader: the acquire load of how many families there are.
    UsedLoad,
    /// Maker: the release store by which a segment is closed.
    ClosedStore,
    /// Reader: the acquire fence between finding a segment closed and draining it for the last time.
    ClosedFence,
}

#[cfg(not(loom))]
mod sites {
    use super::{Ordering, Site};

    #[inline(always)]
    pub(crate) fn fence(_site: Site, order: Ordering) {
        std::sync::atomic::fence(order);
    }

    #[inline(always)]
    pub(crate) fn ordering(_site: Site, order: Ordering) -> Ordering {
        order
    }

    #[inline(always)]
    pub(crate) fn intact(_site: Site) -> bool {
        true
    }
}

#[cfg(loom)]
mod sites {
    use super::{Ordering, Site};
    use std::cell::Cell;

    // Loom runs all threads of a model on the OS thread that called it, so this is per model.
    std::thread_local! {
        static WEAKENED: Cell<Option<Site>> = const { Cell::new(None) };
    }

    /// Makes the sites whole again, also when the model fails: a weakened one is meant to.
    struct Restore;

    impl Drop for Restore {
        fn drop(&mut self) {
            WEAKENED.set(None);
        }
    }

    /// Runs `model` with `site` weakened on this OS thread.
    pub fn with_weakened<T>(site: Option<Site>, model: impl FnOnce() -> T) -> T {
        let _restore = Restore;
        WEAKENED.set(site);
        model()
    }

    pub(crate) fn fence(site: Site, order: Ordering) {
        if intact(site) {
            loom::sync::atomic::fence(order);
        }
    }

    pub(crate) fn ordering(site: Site, order: Ordering) -> Ordering {
        if intact(site) { order } else { Ordering::Relaxed }
    }

    pub(crate) fn intact(site: Site) -> bool {
        WEAKENED.get() != Some(site)
    }
}

#[cfg(loom)]
pub use sites::with_weakened;
pub(crate) use sites::{fence, intact, ordering};
