//! Each fence, ordering and bound of the bridge, taken out alone: the model that needs it must fail.

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
