//! The next token out of a row of logits: the most likely one, or a seeded draw.

use crate::rng;

/// How to draw tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it.
    pub temperature: f64,
    /// Only so many of the most likely tokens; 0 for all.
    pub top_k: usize,
    /// Only the most likely tokens that together reach this probability; 1 for all.
    pub top_p: f64,
    /// Of the draws. Each is a function of the seed, the prompt and the token's place, so that it
    /// does not depend on what is generated beside it.
    pub seed: u64,
}

/// The most likely token; the first of equals.
pub(super) fn greedy(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (token, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = token;
        }
    }
    best as u32
}

impl Sampling {
    /// Token number `place` of a prompt's continuation. Temperature first, then `top_k`, then `top_p`, as
    /// in transformers.
    pub(super) fn draw(&self, logits: &[f32], prompt: &[u32], place: usize) -> u32 {
        if self.temperature <= 0.0 {
            return greedy(logits);
        }
        // Equals in the order of their numbers: the order must be total to be repeatable.
        let mut tokens: Vec<usize> = (0..logits.len()).collect();
        let order = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
        if self.top_k > 0 && self.top_k < tokens.len() {
            tokens.select_nth_unstable_by(self.top_k - 1, order);
            tokens.truncate(self.top_k);
        }
        tokens.sort_unstable_by(order);
        let most = f64::from(logits[tokens[0]]);
        let weight = |token: &usize| ((f64::from(logits[*token]) - most) / self.temperature).exp();
        let mut weights: Vec<f64> = tokens.iter().map(weight).collect();
        let total: f64 = weights.iter().sum();
        let mut kept = 0.0;
        let enough = weights.iter().position(|weight| {
            kept += weight;
            kept >= self.top_p * total
        });
        weights.truncate(enough.map_or(weights.len(), |last| last + 1));
        let counters: Vec<u64> = prompt.iter().map(|token| u64::from(*token)).chain([place as u64]).collect();
        let mut random = rng::stream(self.seed, "sampling", &counters);
        let mut left = random.unit_f64() * weights.iter().sum::<f64>();
        let drawn = weights.iter().position(|weight| {
            left -= weight;
            left < 0.0
        });
        // Rounding may leave a rest behind the last.
        tokens[drawn.unwrap_or(weights.len() - 1)] as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_follow_the_probabilities_that_are_left() {
        let logits: Vec<f32> = [0.1, 0.4, 0.2, 0.3].map(f32::ln).to_vec();
        let all = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 3 };
        let shares = |sampling: Sampling| {
            let mut counts = [0.0_f64; 4];
            (0..20_000)
                .for_each(|prompt| counts[sampling.draw(&logits, &[prompt], 0) as usize] += 1.0 / 20_000.0);
            counts
        };
        for (sampling, expected) in [
            (all, [0.1, 0.4, 0.2, 0.3]),
            (Sampling { top_k: 2, ..all }, [0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0]),
            (Sampling { top_p: 0.65, ..all }, [0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0]),
            (Sampling { top_p: 0.0, ..all }, [0.0, 1.0, 0.0, 0.0]),
            (Sampling { temperature: 0.5, ..all }, [1.0 / 30.0, 16.0 / 30.0, 4.0 / 30.0, 9.0 / 30.0]),
            (Sampling { temperature: 0.0, ..all }, [0.0, 1.0, 0.0, 0.0]),
        ] {
            for (found, expected) in shares(sampling).iter().zip(expected) {
                assert!((found - expected).abs() < 0.012, "{sampling:?}: {found} {expected}");
            }
        }
        assert_ne!(
            (0..50).map(|place| all.draw(&logits, &[0], place)).collect::<Vec<_>>(),
            (0..50).map(|place| Sampling { seed: 4, ..all }.draw(&logits, &[0], place)).collect::<Vec<_>>()
        );
        assert_eq!(greedy(&[1.0, 3.0, 3.0, 2.0]), 1);
    }
}
