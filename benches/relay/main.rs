//! What telemetry does to a relay: the relay of `examples/relay` under one load, without any and with what a user
//! could pick.
//!
//! ```text
//! cargo bench -p relayscope-benches --bench relay             six minutes
//! cargo bench -p relayscope-benches --bench relay -- --quick  a minute: too few rounds for p99.9
//! ```
//!
//! Each form is a relay in a process of its own: one shard, alone on the last core. All else, the load and the
//! scraper among it, is on the other cores. All are there all the time, and stopped (SIGSTOP) while it is another
//! one's turn: an idle executor wakes twenty times a second, and four of them would be in each other's tails.
//!
//! | form | what it tells of every packet, and to whom |
//! |---|---|
//! | `none`, `none again` | nothing; the second is the control: what the machine itself does to a ratio |
//! | `relayscope` | four counters in cells, the time it took through the ring; drained ten times a second |
//! | `metrics` | the same to held handles; metrics-exporter-prometheus serves it over its own HTTP |
//! | `mutex` | the same to a registry behind a mutex, locked for each packet and rendered under the lock |
//!
//! All are scraped over HTTP ten times a second, those who have nothing to say too. Rooms have five members, so a packet
//! makes four copies. In each round every form has two slices, in another order each time: at saturation, where a
//! fixed number of packets is on its way all the time; and paced at 70 % of what `none` forwarded in that round. CPU
//! per packet is that of the shard's thread at saturation.
//!
//! Every count is checked: each copy has the number after the last one's, and what a relay tells is what its
//! clients counted. The last lines are `RATIO <name> <value>`: over `none` in the same round, the median of all
//! rounds. Of throughput more is better, of all else less.
#![expect(clippy::unwrap_used, reason = "a bench that cannot measure ends")]

use std::time::Duration;

use relayscope_benches::packet_loop::leave_last_core;

mod exporter;
mod forms;
mod load;
mod locked;
mod ours;
mod relay;
mod report;
mod served;
mod silent;

use forms::Form;
use relay::Relay;
use report::Rounds;

const ROUNDS: usize = 30;
const ROUNDS_QUICK: usize = 3;
/// Of what `none` forwards at saturation.
const PACED_SHARE: f64 = 0.7;
const SLICE: Duration = Duration::from_millis(1000);

fn main() {
    if let Some((form, core)) = served::asked_to_serve() {
        served::serve(form, core);
        return;
    }
    let rounds = if std::env::args().any(|argument| argument == "--quick") { ROUNDS_QUICK } else { ROUNDS };
    let Some((core, _)) = leave_last_core() else {
        println!("SKIPPED relay: it needs two cores, and leave to pin to them");
        return;
    };
    println!(
        "shards are pinned to core {}, one runs at a time; load, scraper and all else on the others",
        core.id
    );
    let mut relays = Form::ALL.map(|form| Relay::start(form, core.id));
    let mut measured = Form::ALL.map(|_| Rounds::default());
    // The first slices find caches, pools and tables empty.
    relays.iter_mut().for_each(|relay| drop(relay.saturate(SLICE)));
    for round in 0..rounds {
        for which in order(2 * round) {
            let slice = relays[which].saturate(SLICE);
            measured[which].saturated.push(slice);
        }
        let pace = PACED_SHARE * measured[0].saturated[round].packets_per_second();
        for which in order(2 * round + 1) {
            let slice = relays[which].pace(pace, SLICE);
            measured[which].paced.push(slice);
        }
    }
    report::print(&measured);
    println!();
    for relay in &mut relays {
        println!("  {:<12} {}", relay.form().name(), relay.check());
    }
    report::draw(&measured);
    report::print_ratios(&measured);
}

/// All forms, shuffled (Fisher and Yates), each time otherwise and each run alike.
fn order(turn: usize) -> [usize; Form::ALL.len()] {
    let mut order = std::array::from_fn(|form| form);
    let mut state = turn as u64 + 1;
    for last in (1..order.len()).rev() {
        // Steele, Lea and Flood's SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut random = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        random = (random ^ (random >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        order.swap(last, ((random ^ (random >> 31)) % (last as u64 + 1)) as usize);
    }
    order
}
