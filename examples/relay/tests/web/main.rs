//! The web bridge from outside: a relay on its core, real WebSockets, a real browser, and what a scrape says of them.
//!
//! The test that needs a browser is listed as ignored where there is none, says so on stderr, and is counted as skipped
//! by the runner. `scripts/test` installs one.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

mod browser;
mod clients;
mod members;

use libtest_mimic::{Arguments, Trial};

fn main() {
    let mut arguments = Arguments::from_args();
    // Each has a relay on the same core.
    arguments.test_threads.get_or_insert(2);
    let trial = |name, test: fn()| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    };
    let name = "two_tabs_of_a_browser_and_a_udp_client_see_what_the_others_say";
    let missing = browser::missing();
    if let Some(what) = &missing {
        eprintln!("SKIPPED {name}: {what}");
    }
    let trials = vec![
        trial(name, browser::two_tabs).with_ignored_flag(missing.is_some()),
        trial("two_browsers_and_a_udp_client_exchange_frames_and_every_one_is_counted", members::exchange),
        trial("rooms_of_each_shard_are_joined_and_talked_in", members::two_shards),
        trial("strangers_are_not_let_in_and_counted_by_what_is_wrong_with_them", members::strangers),
        trial("what_no_member_sends_is_counted_and_harms_nobody_else", members::misuse),
        trial("who_reads_slowly_loses_frames_alone_and_each_of_them_is_counted", members::slow_reader),
        trial("who_floods_is_held_to_its_rate_and_others_lose_nothing", members::flood),
        trial(
            "there_are_as_many_connections_as_may_be_and_a_place_is_free_again_when_one_ends",
            members::bound,
        ),
        trial(
            "who_shows_no_token_holds_no_seat_and_of_one_address_there_are_so_many_of_them",
            members::without_token,
        ),
        trial("who_says_nothing_is_let_go_and_who_shows_no_token_in_time", members::silence),
    ];
    libtest_mimic::run(&arguments, trials).exit();
}
