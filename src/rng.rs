//! Randomness as a function: a stream is determined by (seed, purpose, counters) alone, so that
//! nothing has to be carried or saved and every draw can be repeated on its own.

use pulp::Arch;
use rayon::prelude::*;

/// Draws that one thread makes at a time.
const CHUNK: usize = 1 << 14;

/// A stream of random numbers: splitmix64 over a digest of what it is for.
#[derive(Debug, Clone)]
pub struct Rng {
    state: u64,
}

/// The stream of a seed, a purpose (`"pi"`) and counters (step, layer, ...).
pub fn stream(seed: u64, purpose: &str, counters: &[u64]) -> Rng {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.update(&(purpose.len() as u64).to_le_bytes());
    hasher.update(purpose.as_bytes());
    for counter in counters {
        hasher.update(&counter.to_le_bytes());
    }
    let digest = hasher.finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&digest.as_bytes()[..8]);
    Rng { state: u64::from_le_bytes(first) }
}

/// What the state grows by with each draw (SplitMix64).
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// What a state gives out.
#[inline(always)]
fn mixed(state: u64) -> u64 {
    let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[inline(always)]
fn unit_f32(bits: u64) -> f32 {
    (bits >> 40) as u32 as f32 / (1u32 << 24) as f32
}

impl Rng {
    /// The same stream, `draws` further on.
    #[must_use]
    pub fn after(&self, draws: u64) -> Self {
        Self { state: self.state.wrapping_add(STEP.wrapping_mul(draws)) }
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(STEP);
        mixed(self.state)
    }

    /// Uniform in [0, 1), in steps of 2^-24.
    pub fn unit_f32(&mut self) -> f32 {
        unit_f32(self.next_u64())
    }

    /// Uniform in [0, 1), in steps of 2^-53.
    pub fn unit_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in `0..n`, without bias (Lemire's rejection). 0 for `n == 0`.
    pub fn below(&mut self, n: u64) -> u64 {
        let threshold = n.wrapping_neg().checked_rem(n).unwrap_or(0);
        loop {
            let product = u128::from(self.next_u64()) * u128::from(n);
            if n == 0 || product as u64 >= threshold {
                return (product >> 64) as u64;
            }
        }
    }

    /// Zeroes each value with probability `rate` and multiplies the others by `keep`, one draw a
    /// value; gives the number of zeroed ones. Drawn in f32 whatever the model's number format: a
    /// uniform in bf16 lands on multiples of 1/256 and would shift the rate.
    pub fn thin_out(&self, values: &mut [f32], rate: f64, keep: f32) -> usize {
        let (arch, rate) = (Arch::new(), rate as f32);
        let chunks = values.par_chunks_mut(CHUNK).enumerate();
        let zeroed = chunks.map(|(chunk, values)| {
            let first = self.after((chunk * CHUNK) as u64).state;
            arch.dispatch(
                #[inline(always)]
                || {
                    let (mut state, mut kept) = (first, 0_u32);
                    for value in values.iter_mut() {
                        state = state.wrapping_add(STEP);
                        let keeps = unit_f32(mixed(state)) > rate;
                        *value *= if keeps { keep } else { 0.0 };
                        kept += u32::from(keeps);
                    }
                    values.len() - kept as usize
                },
            )
        });
        zeroed.sum()
    }

    /// Standard normal (Box-Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit_f64()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit_f64()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_can_be_entered_anywhere() {
        let mut all = stream(1, "x", &[]);
        let further = all.after(3);
        let fourth = [all.next_u64(), all.next_u64(), all.next_u64(), all.next_u64()][3];
        assert_eq!(further.clone().next_u64(), fourth);
    }

    #[test]
    fn a_stream_depends_on_seed_purpose_and_counters() {
        let first = |seed, purpose, counters: &[u64]| stream(seed, purpose, counters).next_u64();
        let base = first(1, "pi", &[2, 3]);
        assert_eq!(base, first(1, "pi", &[2, 3]));
        for other in [first(2, "pi", &[2, 3]), first(1, "pc", &[2, 3]), first(1, "pi", &[3, 2])] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn draws_have_the_right_moments() {
        let mut random = stream(7, "test", &[]);
        let n = 200_000;
        let mean = (0..n).map(|_| f64::from(random.unit_f32())).sum::<f64>() / f64::from(n);
        assert!((mean - 0.5).abs() < 0.004, "{mean}");
        let squares = (0..n).map(|_| random.normal().powi(2)).sum::<f64>() / f64::from(n);
        assert!((squares - 1.0).abs() < 0.02, "{squares}");
        let mut counts = [0u32; 3];
        (0..30_000).for_each(|_| counts[random.below(3) as usize] += 1);
        assert!(counts.iter().all(|count| (9_600..10_400).contains(count)), "{counts:?}");
        assert_eq!(random.below(0), 0);
        assert_eq!(random.below(1), 0);
    }
}
