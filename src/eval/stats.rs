//! Statistics of scores and of repeated runs.

use statrs::distribution::{ContinuousCDF as _, StudentsT};

/// Two-sided 95 % point of the normal distribution.
const Z95: f64 = 1.959_963_984_540_054;

/// Mean of a non-empty list.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Sample standard deviation (n - 1); none for fewer than two values.
pub fn sd(values: &[f64]) -> Option<f64> {
    let m = mean(values);
    let squares: f64 = values.iter().map(|value| (value - m).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt())
}

/// lm-eval's standard error of an accuracy: the sample standard deviation over sqrt(n).
pub fn stderr(p: f64, n: usize) -> f64 {
    if n > 1 { (p * (1.0 - p) / (n - 1) as f64).sqrt() } else { 0.0 }
}

/// Wilson's 95 % interval of `successes` out of `n`.
pub fn wilson(successes: usize, n: usize) -> (f64, f64) {
    if n == 0 {
        return (0.0, 1.0);
    }
    let (n, p, z2) = (n as f64, successes as f64 / n as f64, Z95 * Z95);
    let centre = p + z2 / (2.0 * n);
    let half = Z95 * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    (((centre - half) / (1.0 + z2 / n)).max(0.0), ((centre + half) / (1.0 + z2 / n)).min(1.0))
}

/// 95 % interval of the mean of independent runs, by Student's t.
pub fn t_interval(values: &[f64]) -> Option<(f64, f64)> {
    let sd = sd(values)?;
    let t = StudentsT::new(0.0, 1.0, (values.len() - 1) as f64).ok()?.inverse_cdf(0.975);
    let half = t * sd / (values.len() as f64).sqrt();
    Some((mean(values) - half, mean(values) + half))
}

/// 95 % interval of the mean of paired differences, one an item, by a seeded bootstrap over items.
pub fn bootstrap(differences: &[f64], resamples: usize) -> Option<(f64, f64)> {
    let n = differences.len();
    if n < 2 {
        return None;
    }
    let mut random = crate::rng::stream(0, "bootstrap", &[n as u64]);
    let mut means: Vec<f64> = (0..resamples)
        .map(|_| (0..n).map(|_| differences[random.below(n as u64) as usize]).sum::<f64>() / n as f64)
        .collect();
    means.sort_by(f64::total_cmp);
    let at = |share: f64| means[((resamples - 1) as f64 * share).round() as usize];
    Some((at(0.025), at(0.975)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-6
    }

    #[test]
    fn intervals_match_known_values() {
        // statsmodels proportion_confint(8, 10, method="wilson")
        let (low, high) = wilson(8, 10);
        assert!(close(low, 0.490_162_471) && close(high, 0.943_317_826), "{low} {high}");
        let (low, high) = wilson(0, 10);
        assert!(low == 0.0 && close(high, 0.277_532_798), "{low} {high}");
        // t(0.975, 2) = 4.302652730; mean 2, sd 1
        let (low, high) = t_interval(&[1.0, 2.0, 3.0]).unwrap();
        assert!(close(high - low, 2.0 * 4.302_652_730 / 3f64.sqrt()), "{low} {high}");
        assert_eq!(t_interval(&[1.0]), None);
        assert!(close(sd(&[1.0, 2.0, 4.0]).unwrap(), (7.0f64 / 3.0).sqrt()));
        assert!(close(stderr(0.5, 101), 0.05));
    }

    #[test]
    fn the_bootstrap_is_seeded_and_covers_the_mean() {
        let differences: Vec<f64> = (0..200).map(|i| if i % 4 == 0 { 1.0 } else { 0.0 }).collect();
        let first = bootstrap(&differences, 2000).unwrap();
        assert_eq!(Some(first), bootstrap(&differences, 2000));
        assert!(first.0 < 0.25 && first.1 > 0.25 && first.1 - first.0 < 0.15, "{first:?}");
        assert_eq!(bootstrap(&[0.0; 50], 100), Some((0.0, 0.0)));
    }
}
