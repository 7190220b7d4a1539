//! A small harness for measurements side by side on a noisy machine.
//!
//! Every contender is measured in many short rounds, all contenders in each round, and reported by
//! its median: what disturbs the machine for a second disturbs them all. Every measurement checks its
//! results, so that nothing is fast by not doing the work.
//!
//! - [`contender`]: what is measured: a writer, its reader, and their account.
//! - [`rounds`]: how: pinned, timed, interleaved.
//! - [`packet_loop`], [`beside`]: a relay's loop with time taken per packet, and what runs beside it.
//! - [`binary`], [`process`]: the program as users run it, and what it and others cost.
//! - [`series`]: many series, what they say, and cells that say it.
//! - [`http`]: just enough to ask them.
//! - [`report`]: medians, a table for people, `RATIO` lines for scripts. [`plot`]: distributions as a picture.
#![forbid(unsafe_code)]

pub mod beside;
pub mod binary;
pub mod contender;
pub mod http;
pub mod packet_loop;
pub mod plot;
pub mod process;
pub mod report;
pub mod rounds;
pub mod series;
