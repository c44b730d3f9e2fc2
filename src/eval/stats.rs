//! Statistics of scores and of repeated runs.

use statrs::distribution::{Binomial, ContinuousCDF as _, DiscreteCDF as _, StudentsT};

/// Two-sided 95 % point of the normal distribution.
const Z95: f64 = 1.959_963_984_540_054;
/// One-sided 80 % point: the power of [`detectable_paired`] and [`detectable_unpaired`].
const Z80: f64 = 0.841_621_233_572_914_3;

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

/// lm-eval's standard error of a mean: the sample standard deviation over sqrt(n); none for fewer than two
/// values.
pub fn stderr(values: &[f64]) -> Option<f64> {
    sd(values).map(|sd| sd / (values.len() as f64).sqrt())
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

/// What resampling says of a statistic.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bootstrap {
    /// Percentile interval.
    pub ci95: (f64, f64),
    /// Standard deviation over the resamples.
    pub stderr: f64,
}

/// Resamples `n` items with replacement, always in the same way for the same `n`; the statistic gets
/// their numbers. None for fewer than two items.
pub fn bootstrap(n: usize, resamples: usize, statistic: impl Fn(&[usize]) -> f64) -> Option<Bootstrap> {
    if n < 2 {
        return None;
    }
    let mut random = crate::rng::stream(0, "bootstrap", &[n as u64]);
    let mut items = vec![0; n];
    let mut found: Vec<f64> = (0..resamples)
        .map(|_| {
            items.iter_mut().for_each(|item| *item = random.below(n as u64) as usize);
            statistic(&items)
        })
        .collect();
    let stderr = sd(&found)?;
    found.sort_by(f64::total_cmp);
    let at = |share: f64| found[((resamples - 1) as f64 * share).round() as usize];
    Some(Bootstrap { ci95: (at(0.025), at(0.975)), stderr })
}

/// McNemar's exact test on the items that only one of two models got right: the two-sided
/// probability of a split at least as uneven when both are equally good.
pub fn mcnemar_exact(only_first: usize, only_second: usize) -> f64 {
    let few = only_first.min(only_second) as u64;
    match Binomial::new(0.5, (only_first + only_second) as u64) {
        Ok(binomial) if only_first + only_second > 0 => (2.0 * binomial.cdf(few)).min(1.0),
        _ => 1.0,
    }
}

/// Sign-flip permutation test of a mean paired difference, for scores that are averages of several
/// runs: the two-sided probability of a mean at least as far from zero when the signs are chance.
/// Seeded; never 0, since the data are one of the permutations.
pub fn sign_flip(differences: &[f64], resamples: usize) -> f64 {
    let observed = differences.iter().sum::<f64>().abs();
    let mut random = crate::rng::stream(0, "sign-flip", &[differences.len() as u64]);
    let mut flipped = || {
        let mut signs = 0;
        let signed = differences.iter().enumerate().map(|(place, difference)| {
            if place % 64 == 0 {
                signs = random.next_u64();
            }
            if signs >> (place % 64) & 1 == 1 { -difference } else { *difference }
        });
        signed.sum::<f64>().abs()
    };
    // Sums of the same numbers in another order of signs may differ in their last bits.
    let as_far = (0..resamples).filter(|_| flipped() >= observed - 1e-9 * observed.max(1.0)).count();
    (1 + as_far) as f64 / (1 + resamples) as f64
}

/// Holm's correction: each p value as it counts among all of them, in their order.
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|a, b| p_values[*a].total_cmp(&p_values[*b]));
    let mut corrected = vec![0.0; p_values.len()];
    let mut highest: f64 = 0.0;
    for (rank, place) in order.iter().enumerate() {
        highest = highest.max(p_values[*place] * (p_values.len() - rank) as f64).min(1.0);
        corrected[*place] = highest;
    }
    corrected
}

/// The difference that a paired comparison of `n` items would find in 80 of 100 cases at the level of
/// 5 %, two-sided, given the standard deviation of the items' differences (normal approximation).
pub fn detectable_paired(sd_of_differences: f64, n: usize) -> f64 {
    (Z95 + Z80) * sd_of_differences / (n as f64).sqrt()
}

/// The same for two shares near `p`, each of `n` items of its own.
pub fn detectable_unpaired(p: f64, n: usize) -> f64 {
    (Z95 + Z80) * (2.0 * p * (1.0 - p) / n as f64).sqrt()
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
        // scipy.stats.sem, scipy.stats.t.interval
        let values = [1.0, 2.0, 4.0, 8.0, 16.0];
        assert!(close(stderr(&values).unwrap(), 2.727_636_339_397_171));
        assert_eq!(stderr(&values[..1]), None, "one value says nothing of the spread");
        let (low, high) = t_interval(&values).unwrap();
        assert!(close(low, -1.373_132_563_278_902_7) && close(high, 13.773_132_563_278_903), "{low} {high}");
        let (low, high) = wilson(1100, 1319);
        assert!(close(low, 0.812_919_403_999_311_3) && close(high, 0.853_071_213_489_655_6), "{low} {high}");
        let (low, high) = wilson(10, 10);
        assert!(close(low, 0.722_467_200_137_110_6) && close(high, 1.0), "{low} {high}");
    }

    /// statsmodels' `mcnemar(exact=True)` and `multipletests(method="holm")`.
    #[test]
    fn tests_match_statsmodels() {
        for (first, second, p) in [
            (5, 12, 0.143_463_134_765_625),
            (0, 7, 0.015_625),
            (3, 3, 1.0),
            (40, 61, 0.046_044_066_929_342_785),
            (0, 0, 1.0),
        ] {
            let found = mcnemar_exact(first, second);
            assert!(
                close(found, p) && close(found, mcnemar_exact(second, first)),
                "{first} {second} {found}"
            );
        }
        for (p_values, expected) in [
            (vec![0.01, 0.04, 0.03, 0.005], vec![0.03, 0.06, 0.06, 0.02]),
            (vec![0.5, 0.9, 0.02], vec![1.0, 1.0, 0.06]),
            (vec![0.001; 3], vec![0.003; 3]),
            (vec![], vec![]),
        ] {
            let found = holm(&p_values);
            assert!(found.iter().zip(&expected).all(|(a, b)| close(*a, *b)), "{found:?}");
        }
        // scipy.stats.permutation_test with every permutation: 0.0703125, which is also McNemar's of
        // 1 and 7 items.
        let differences = [1.0, 0.0, 0.0, 1.0, 1.0, -1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0];
        let p = sign_flip(&differences, 50_000);
        assert!((p - 0.070_312_5).abs() < 0.004 && close(mcnemar_exact(1, 7), 0.070_312_5), "{p}");
        assert_eq!(p, sign_flip(&differences, 50_000));
        assert_eq!(sign_flip(&[], 100), 1.0);
    }

    /// statsmodels' `NormalIndPower().solve_power` with `ratio` 0 and 1, times the standard deviation;
    /// it counts a significant result of the wrong sign as found, hence the tolerance.
    #[test]
    fn detectable_effects_match_statsmodels() {
        assert!((detectable_paired(0.4, 1319) - 0.030_856_088_940_172_208).abs() < 1e-7);
        assert!((detectable_unpaired(0.5, 1000) - 0.062_645_172_648_586_9).abs() < 1e-6);
    }

    #[test]
    fn the_bootstrap_is_seeded_and_covers_the_mean() {
        let differences: Vec<f64> = (0..200).map(|i| if i % 4 == 0 { 1.0 } else { 0.0 }).collect();
        let mean_of = |values: &[f64], items: &[usize]| {
            mean(&items.iter().map(|item| values[*item]).collect::<Vec<_>>())
        };
        let of =
            |values: &[f64], resamples| bootstrap(values.len(), resamples, |items| mean_of(values, items));
        let first = of(&differences, 2000).unwrap();
        assert_eq!(Some(first), of(&differences, 2000));
        let (low, high) = first.ci95;
        assert!(low < 0.25 && high > 0.25 && high - low < 0.15, "{first:?}");
        assert_eq!(of(&[0.0; 50], 100), Some(Bootstrap { ci95: (0.0, 0.0), stderr: 0.0 }));
        assert_eq!(of(&[0.5], 100), None);
        // scipy.stats.bootstrap(method="percentile"): 0.21 to 0.39, standard error 0.0457; scipy draws
        // other resamples.
        let values: Vec<f64> = (0..100).map(|i| f64::from(u8::from(i < 30))).collect();
        let found = of(&values, 20_000).unwrap();
        let ((low, high), error) = (found.ci95, found.stderr);
        assert!((low - 0.21).abs() < 0.011 && (high - 0.39).abs() < 0.011 && (error - 0.0457).abs() < 0.001);
    }
}
