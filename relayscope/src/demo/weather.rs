//! How bad the impaired link is at which time: the same at each run.

use std::time::Duration;

use relayscope_impairer::Impairment;

/// It begins anew each.
const PERIOD: Duration = Duration::from_secs(60);
/// What is held back comes after the next probe, and before its own time is over.
const HOLD: Duration = Duration::from_millis(250);
/// Of the loss and reordering one way, what there is of it the other way.
const OTHER_WAY: f64 = 0.25;

/// At one moment. Between two it changes evenly.
struct Sky {
    at_s: f64,
    delay_ms: f64,
    jitter_ms: f64,
    loss: f64,
    reordering: f64,
}

const fn sky(at_s: f64, delay_ms: f64, jitter_ms: f64, loss: f64, reordering: f64) -> Sky {
    Sky { at_s, delay_ms, jitter_ms, loss, reordering }
}

/// Fair, a storm, fair, a swell that loses nothing, fair.
const SKIES: [Sky; 8] = [
    sky(0.0, 6.0, 0.5, 0.0, 0.0),
    sky(8.0, 6.0, 0.5, 0.0, 0.0),
    sky(10.0, 22.0, 9.0, 0.25, 0.04),
    sky(16.0, 22.0, 9.0, 0.25, 0.04),
    sky(19.0, 6.0, 0.5, 0.0, 0.0),
    sky(30.0, 6.0, 0.5, 0.0, 0.0),
    sky(42.0, 12.0, 3.0, 0.0, 0.0),
    sky(60.0, 6.0, 0.5, 0.0, 0.0),
];

/// In words, for who looks at what it does.
pub(super) const FORECAST: &str =
    "6 ms each way; each minute a swell of 12 ms, and a storm of 8 s that loses a quarter";

/// What is done so long after the begin to packets one way, and the other way.
pub(super) fn weather(since_begin: Duration) -> (Impairment, Impairment) {
    let at_s = since_begin.as_secs_f64() % PERIOD.as_secs_f64();
    let next = SKIES.iter().position(|sky| sky.at_s > at_s).unwrap_or(SKIES.len() - 1);
    let (before, after) = (&SKIES[next - 1], &SKIES[next]);
    let part = (at_s - before.at_s) / (after.at_s - before.at_s);
    let between = |of: fn(&Sky) -> f64| of(before) + part * (of(after) - of(before));
    let ms = |ms: f64| Duration::from_secs_f64(ms / 1e3);
    let one_way = Impairment {
        delay: ms(between(|sky| sky.delay_ms)),
        jitter: ms(between(|sky| sky.jitter_ms)),
        loss: between(|sky| sky.loss),
        duplication: 0.0,
        reordering: between(|sky| sky.reordering),
        hold: HOLD,
    };
    let other_way =
        Impairment { loss: one_way.loss * OTHER_WAY, reordering: one_way.reordering * OTHER_WAY, ..one_way };
    (one_way, other_way)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> (f64, f64, f64, f64) {
        let (one_way, other_way) = weather(Duration::from_secs_f64(seconds));
        let ms = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        (ms(one_way.delay), ms(one_way.jitter), one_way.loss, other_way.loss)
    }

    #[test]
    fn it_is_fair_until_a_storm_comes_and_changes_evenly() {
        assert_eq!(at(0.0), (6.0, 0.5, 0.0, 0.0));
        assert_eq!(at(7.9), (6.0, 0.5, 0.0, 0.0));
        assert_eq!(at(9.0), (14.0, 4.75, 0.125, 0.03125));
        assert_eq!(at(12.0), (22.0, 9.0, 0.25, 0.0625));
        assert_eq!(at(36.0), (9.0, 1.75, 0.0, 0.0), "a swell loses nothing");
    }

    #[test]
    fn each_minute_is_like_the_one_before() {
        for seconds in [0.0, 9.0, 12.0, 36.0, 59.0] {
            assert_eq!(at(seconds), at(seconds + 60.0), "{seconds}");
            assert_eq!(at(seconds), at(seconds + 6000.0), "{seconds}");
        }
    }
}
