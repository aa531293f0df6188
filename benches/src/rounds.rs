//! Rounds: in each, every case is sampled once, in an order of its own, so that what disturbs the machine disturbs all.

use std::fmt::Write as _;

/// One thing that is measured.
pub struct Case {
    /// Names and numbers that say what it is, as members of a JSON object.
    pub labels: String,
    /// Takes one sample: nanoseconds, or whatever the group counts.
    pub sample: Box<dyn FnMut() -> f64>,
}

/// Makes [`Case::labels`].
#[macro_export]
macro_rules! labels {
    ($($name:ident: $value:expr),* $(,)?) => {
        [$(format!(concat!("\"", stringify!($name), "\":{:?}"), $value)),*].join(",")
    };
}

/// A case's labels and its samples, sorted.
pub type Result = (String, Vec<f64>);

/// Runs the rounds.
pub fn run(mut cases: Vec<Case>, rounds: usize) -> Vec<Result> {
    let mut results: Vec<Result> = cases.iter().map(|case| (case.labels.clone(), Vec::new())).collect();
    let mut order: Vec<usize> = (0..cases.len()).collect();
    let mut random = Random::default();
    for round in 0..=rounds.max(3) {
        random.shuffle(&mut order);
        for &index in &order {
            let sample = (cases[index].sample)();
            // The first round warms up.
            if round != 0 {
                results[index].1.push(sample);
            }
        }
    }
    for (_, samples) in &mut results {
        samples.sort_by(f64::total_cmp);
    }
    results
}

/// Prints a line of JSON for each result.
pub fn print(group: &str, results: Vec<Result>) {
    let mut text = String::new();
    for (labels, samples) in results {
        let at = |part: usize| samples[(samples.len() - 1) * part / 4];
        let (q1, median, q3) = (at(1), at(2), at(3));
        writeln!(
            text,
            "{{\"group\":\"{group}\",{labels},\"median\":{median:.4},\"q1\":{q1:.4},\"q3\":{q3:.4},\"samples\":{}}}",
            samples.len()
        )
        .expect("strings take everything");
    }
    print!("{text}");
}

/// Marsaglia's xorshift, 64 bits; the same numbers in each run.
pub struct Random(u64);

impl Default for Random {
    fn default() -> Self {
        Self(0x2545_f491_4f6c_dd1d)
    }
}

impl Random {
    pub fn shuffle<T>(&mut self, order: &mut [T]) {
        for end in (1..order.len()).rev() {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            order.swap(end, (self.0 % (end as u64 + 1)) as usize);
        }
    }
}
