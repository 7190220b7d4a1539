//! Medians, a table for people, `RATIO` lines for scripts.

use crate::rounds::Measured;

/// Median and range over the rounds.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    /// The middle round: what is compared.
    pub median: f64,
    /// The fastest round.
    pub min: f64,
    /// The slowest round.
    pub max: f64,
}

impl Spread {
    /// Of at least one value.
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self { median: values[values.len() / 2], min: values[0], max: values[values.len() - 1] }
    }
}

/// All contenders under one form of load.
pub struct Form {
    /// Goes before `record_vs_` in the ratios: empty, `reader_` or `reader_10ms_`.
    pub prefix: &'static str,
    /// The table's heading.
    pub title: String,
    /// Per contender, its rounds.
    pub results: Vec<(&'static str, Vec<Measured>)>,
}

impl Form {
    /// Prints the table: ns per record and, beside a reader, what reached it while the writer ran and
    /// which share of all records it did not miss.
    pub fn print(&self) {
        let beside_reader =
            self.results.iter().flat_map(|(_, rounds)| rounds).any(|m| m.delivered_per_s > 0.0);
        println!("\n{}", self.title);
        print!("  {:<24} {:>9}  {:<20}", "", "ns/record", "[min .. max]");
        println!("{}", if beside_reader { "  delivered/s   through" } else { "" });
        for (name, _) in &self.results {
            let ns = self.spread(name, |m| m.ns_per_record);
            let range = format!("[{:.2} .. {:.2}]", ns.min, ns.max);
            print!("  {name:<24} {:>9.2}  {range:<20}", ns.median);
            if beside_reader {
                let delivered = self.spread(name, |m| m.delivered_per_s).median;
                let through = self.spread(name, |m| m.through).median * 100.0;
                let delivered =
                    if delivered > 0.0 { format!("{:.1} M", delivered / 1e6) } else { "aggregates".into() };
                print!("  {delivered:>11} {through:>7.1} %");
            }
            println!();
        }
    }

    /// Prints `ours` over `peer` of what `measure` picks: the median of the ratios of each round. Within
    /// a round both met the same machine; over the run it may change, and medians of each with it.
    pub fn print_ratio(&self, name: &str, ours: &str, peer: &str, measure: impl Fn(&Measured) -> f64) {
        let rounds = self.rounds(ours).iter().zip(self.rounds(peer));
        let ratios = rounds.map(|(ours, peer)| measure(ours) / measure(peer)).collect();
        println!("RATIO {}{name} {:.3}", self.prefix, Spread::of(ratios).median);
    }

    fn spread(&self, name: &str, measure: impl Fn(&Measured) -> f64) -> Spread {
        Spread::of(self.rounds(name).iter().map(measure).collect())
    }

    fn rounds(&self, name: &str) -> &[Measured] {
        match self.results.iter().find(|(contender, _)| *contender == name) {
            Some((_, rounds)) => rounds,
            None => panic!("no contender {name} under {:?}", self.title),
        }
    }
}
