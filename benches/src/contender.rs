//! What is measured.

/// The side that is timed: one call for one record.
pub trait Writer {
    /// Records number `n`. Every contender is given the same numbers.
    fn record(&mut self, n: u64);

    /// Records `from..to`, one call each; a contender that takes many at once says so here.
    #[inline]
    fn record_all(&mut self, from: u64, to: u64) {
        for n in from..to {
            // Opaque, so that no contender's loop is folded over the numbers it will get next.
            self.record(std::hint::black_box(n));
        }
    }
}

/// The other side: what a control plane does with the records.
pub trait Reader: Send {
    /// Takes what there is; returns how many records that were.
    fn drain(&mut self) -> u64;
}

/// Something a user could record into.
pub trait Contender {
    /// Its name in the table and, behind `_vs_`, in the ratios.
    const NAME: &'static str;
    /// Whether, where no reader runs, it must be drained between laps, untimed, because it would
    /// fill up or grow.
    const NEEDS_DRAINING: bool = false;
    /// The timed side.
    type Writer: Writer;
    /// The draining side.
    type Reader: Reader;

    /// A fresh pair.
    fn pair() -> (Self::Writer, Self::Reader);

    /// Checks both sides once all is done: `recorded` calls were made, the reader was drained to the
    /// end and returned `delivered` in all. Returns how many records reached the reader, or are in
    /// what it aggregates. Panics when records are unaccounted for.
    fn check(recorded: u64, delivered: u64, writer: Self::Writer, reader: Self::Reader) -> u64;
}

/// A contender that many may read at once, each of them everything.
pub trait Broadcast: Contender {
    /// A fresh writer with `readers` readers.
    fn fan_out(readers: usize) -> (Self::Writer, Vec<Self::Reader>);

    /// Checks the account of one reader as [`Contender::check`] does.
    fn check_reader(recorded: u64, delivered: u64, reader: Self::Reader);
}
