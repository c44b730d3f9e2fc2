//! Seeded random weights for a new model. A value is a function of seed, tensor name and index, so
//! neither the order of loading nor the number of threads changes it.

use anyhow::Context as _;

use super::{
    config::ModelConfig,
    weights::{WeightSource, expected_tensors},
};

/// Weights drawn from a Gaussian with the configuration's `initializer_range`; norms multiply by one
/// and biases are zero.
pub struct RandomWeights {
    config: ModelConfig,
    seed: u64,
}

impl RandomWeights {
    /// Weights of a model with this configuration.
    pub fn new(config: ModelConfig, seed: u64) -> Self {
        Self { config, seed }
    }
}

impl WeightSource for RandomWeights {
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            expected_tensors(&self.config).into_iter().map(|(name, _)| name).collect();
        names.sort();
        names
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        expected_tensors(&self.config).into_iter().find(|(other, _)| other == name).map(|(_, shape)| shape)
    }

    fn load(&self, name: &str) -> anyhow::Result<Vec<f32>> {
        let shape = self.shape(name).with_context(|| format!("the model has no tensor `{name}`"))?;
        let count = shape.iter().product();
        if name.ends_with("norm.weight") {
            return Ok(vec![if self.config.norm_plus_one { 0.0 } else { 1.0 }; count]);
        }
        if name.ends_with(".bias") {
            return Ok(vec![0.0; count]);
        }
        gaussian(self.seed, name, count, self.config.initializer_range)
    }
}

/// Eight bytes of a keyed stream make one value, by the Box-Muller transform.
fn gaussian(seed: u64, name: &str, count: usize, deviation: f64) -> anyhow::Result<Vec<f32>> {
    let mut hasher = blake3::Hasher::new_derive_key("evergraft 2026 random initial weights v1");
    hasher.update(&seed.to_le_bytes());
    hasher.update(name.as_bytes());
    let mut stream = hasher.finalize_xof();
    let mut buffer = [0_u8; 8192];
    let mut values = Vec::new();
    let reserved = values.try_reserve_exact(count);
    reserved.with_context(|| format!("tensor `{name}` of {count} values does not fit into memory"))?;
    while values.len() < count {
        stream.fill(&mut buffer);
        let draws = buffer.as_chunks::<8>().0.iter().map(|&bytes| {
            let bits = u64::from_le_bytes(bytes);
            // The first lies in (0, 1], where the logarithm is finite.
            let radius = (((bits >> 32) as f64 + 1.0) / 2_f64.powi(32)).ln();
            let angle = (bits & 0xffff_ffff) as f64 / 2_f64.powi(32) * std::f64::consts::TAU;
            ((-2.0 * radius).sqrt() * angle.cos() * deviation) as f32
        });
        values.extend(draws.take(count - values.len()));
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_have_the_asked_moments() {
        let values = gaussian(1, "x", 200_000, 0.5).unwrap();
        let n = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let deviation = (values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n).sqrt();
        let kurtosis =
            values.iter().map(|&v| (f64::from(v) - mean).powi(4)).sum::<f64>() / n / deviation.powi(4);
        assert!(mean.abs() < 5e-3 && (deviation - 0.5).abs() < 5e-3, "{mean} {deviation}");
        assert!((kurtosis - 3.0).abs() < 0.1, "{kurtosis}");
    }

    #[test]
    fn a_value_depends_on_seed_name_and_index_alone() {
        let values = gaussian(1, "x", 5000, 1.0).unwrap();
        assert_eq!(gaussian(1, "x", 10, 1.0).unwrap(), values[..10]);
        assert_ne!(gaussian(2, "x", 10, 1.0).unwrap(), values[..10]);
        assert_ne!(gaussian(1, "y", 10, 1.0).unwrap(), values[..10]);
        // Fixed for good: cached bases and published digests depend on it.
        assert_eq!(gaussian(0, "model.norm.weight", 2, 1.0).unwrap().len(), 2);
    }
}
