//! Medians, and the table that shows them.

/// The measurements of one VMM, all in the same unit.
#[derive(Debug, Default, Clone)]
pub struct Samples(Vec<f64>);

impl Samples {
    pub fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    /// Median, lowest, highest; `None` without measurements.
    pub fn summary(&self) -> Option<(f64, f64, f64)> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let upper = *sorted.get(middle)?;
        let lower = if sorted.len().is_multiple_of(2) {
            *sorted.get(middle - 1)?
        } else {
            upper
        };
        Some(((lower + upper) / 2.0, *sorted.first()?, *sorted.last()?))
    }
}

/// Prints one line per VMM; the ratio is each median to the first one's.
pub fn table(title: &str, unit: &str, rows: &[(String, Samples)]) {
    println!("\n{title} ({unit})");
    let width = rows
        .iter()
        .map(|(name, _)| name.len())
        .max()
        .unwrap_or(0)
        .max(4);
    println!(
        "{:width$}  {:>9} {:>9} {:>9}   ours/it",
        "", "median", "min", "max"
    );
    let ours = rows.first().and_then(|(_, samples)| samples.summary());
    for (name, samples) in rows {
        match (samples.summary(), ours) {
            (Some((median, low, high)), Some((reference, ..))) => {
                let ratio = reference / median;
                println!("{name:width$}  {median:>9.2} {low:>9.2} {high:>9.2}   {ratio:>7.3}");
            }
            _ => println!("{name:width$}  {:>9}", "-"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Samples;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_in_the_middle() {
        let samples = |values: &[f64]| Samples(values.to_vec()).summary();
        assert_eq!(samples(&[]), None);
        assert_eq!(samples(&[3.0, 1.0, 2.0]), Some((2.0, 1.0, 3.0)));
        assert_eq!(samples(&[4.0, 1.0, 2.0, 3.0]), Some((2.5, 1.0, 4.0)));
    }
}
