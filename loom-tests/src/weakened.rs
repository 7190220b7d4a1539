//! Each fence, ordering and bound of the bridge, taken out alone: the model that needs it must fail.
//!
//! Orderings without a [`Site`], which no model reaches. Loom sees neither files nor signals, nor locks and
//! counts of the standard library.
//! - `header::VERSION`, stored last by a segment's maker: its reader is a system call on another process's file.
//! - `Publisher`'s release of its shard's writer word: its partner is the claim in `relayscope.h`, in C.
//! - The flags between the handler of `SIGBUS` and readers, in `segment/map.rs`: a signal.
//! - The queue in `recorder/waiting.rs`, which is not built under loom. That a slot was read before it is
//!   written again (its `head`) loom could not refute either: it never lets a load return a later store.

use std::panic::{AssertUnwindSafe, catch_unwind};

use relayscope_bridge::sync::{Site, with_weakened};

use crate::witness::VIOLATED;
use crate::{models, reuse};

/// One test per site. The `match` has no wildcard: a site without a model does not compile.
macro_rules! each_site_is_needed {
    ($($site:ident by $module:ident::$model:ident in $test:ident,)+) => {
        const fn _every_site_has_a_model(site: Site) {
            match site {
                $(Site::$site => (),)+
            }
        }
        $(
            #[test]
            fn $test() {
                assert_fails_without(Site::$site, $module::$model);
            }
        )+
    };
}

each_site_is_needed! {
    ProducerFence by models::one_reader in without_the_producer_fence_a_torn_sample_passes,
    HeadStore by models::one_reader in with_a_relaxed_head_store_an_unwritten_sample_passes,
    BatchClaim by models::batch in without_the_claim_a_part_of_a_batch_passes,
    ReaderEntryFence by models::one_reader in without_the_entry_fence_an_unwritten_sample_passes,
    ReaderExitFence by models::one_reader in without_the_exit_fence_a_torn_sample_passes,
    DiscardBound by models::one_reader in with_a_lax_bound_the_record_in_flight_passes,
    AcknowledgeStore by reuse::id in with_a_relaxed_acknowledgement_a_sample_is_anothers,
    AcknowledgeLoad by reuse::id in with_a_relaxed_look_at_the_acknowledgement_a_sample_is_anothers,
    RetireFence by reuse::cell in without_the_registrys_fence_a_count_is_anothers,
    CellFence by reuse::cell in without_the_readers_fence_a_count_is_anothers,
    RowEndStore by reuse::cell in with_a_relaxed_end_of_a_row_a_series_is_lost,
    RowLoad by reuse::cell in with_a_relaxed_look_at_a_row_a_series_is_lost,
    TableChangedStore by reuse::arrival in with_a_relaxed_generation_a_series_is_lost,
    TableLoad by reuse::arrival in with_a_relaxed_look_at_the_generation_a_series_is_lost,
    UsedStore by reuse::arrival in with_a_relaxed_number_of_families_a_family_is_lost,
    UsedLoad by reuse::arrival in with_a_relaxed_look_at_the_number_of_families_a_family_is_lost,
    ClosedStore by reuse::closing in with_a_relaxed_closing_the_last_drain_misses_a_sample,
    ClosedFence by reuse::closing in without_the_fence_after_closed_the_last_drain_misses_a_sample,
}

/// The panic that loom finds is printed by the hook and captured by the test harness, as any is.
fn assert_fails_without(site: Site, model: fn()) {
    let outcome = with_weakened(Some(site), || catch_unwind(AssertUnwindSafe(model)));
    let Err(panic) = outcome else {
        panic!("no execution fails without {site:?}: the bridge does not need it, or the model is too weak");
    };
    let message = panic.downcast_ref::<String>().map_or("not a message", String::as_str);
    assert!(message.starts_with(VIOLATED), "{site:?}: failed, but not by its claim: {message}");
    eprintln!("without {site:?}: {message}");
}
