//! How rotary frequencies are stretched for contexts longer than those trained on. Formulas are
//! those of transformers' `modeling_rope_utils.py`.

use std::f64::consts::TAU;

use anyhow::{Context as _, bail, ensure};
use serde_json::{Map, Value, json};

use super::fields::Fields;
use crate::error::{excerpt, hinted};

/// A rule of `rope_scaling` (transformers 4) or `rope_parameters` (transformers 5).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum RopeScaling {
    /// Frequencies as trained.
    #[default]
    None,
    /// All positions divided by `factor`.
    Linear {
        /// At least 1.
        factor: f64,
    },
    /// Beyond `max_position_embeddings` the rotation base grows with the sequence.
    Dynamic {
        /// At least 1.
        factor: f64,
    },
    /// Llama 3.1's: long wavelengths are divided, short ones kept, those between interpolated.
    Llama3 {
        /// At least 1.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context of the pre-training.
        original_max_position_embeddings: usize,
    },
}

impl RopeScaling {
    /// Reads one table of rotary settings: its own base, if it names one, and the rule.
    ///
    /// # Errors
    /// When the rule is unknown or one of its numbers is missing or absurd.
    pub(super) fn read(name: &str, table: &Fields) -> anyhow::Result<(Option<f64>, Self)> {
        if let Some((field, _)) = table.0.iter().find(|(_, value)| value.is_object()) {
            bail!("`{name}.{}` is not a rotary setting that is known", excerpt(field));
        }
        let theta = table.number("rope_theta")?;
        let kind = match table.text("rope_type")? {
            Some(kind) => kind,
            None => table.text("type")?.unwrap_or("default"),
        };
        let number = |field: &str| -> anyhow::Result<f64> {
            let value = table.number(field)?.with_context(|| format!("`{name}` has no `{field}`"))?;
            ensure!(
                value.is_finite() && (1e-3..=1e6).contains(&value),
                "`{name}.{field}` must lie between 0.001 and 1000000, found {value}"
            );
            Ok(value)
        };
        let scaling = match kind {
            "default" => Self::None,
            "linear" => Self::Linear { factor: number("factor")? },
            "dynamic" => Self::Dynamic { factor: number("factor")? },
            "llama3" => Self::Llama3 {
                factor: number("factor")?,
                low_freq_factor: number("low_freq_factor")?,
                high_freq_factor: number("high_freq_factor")?,
                original_max_position_embeddings: table.size("original_max_position_embeddings", 1 << 30)?,
            },
            other => {
                return Err(hinted(
                    format!(
                        "`{name}` asks for the rotary scaling `{}`, which is not supported",
                        excerpt(other)
                    ),
                    "known ones: default, linear, dynamic, llama3",
                ));
            }
        };
        if let Self::Llama3 { low_freq_factor: low, high_freq_factor: high, .. } = scaling {
            ensure!(low < high, "`{name}.low_freq_factor` must be below `high_freq_factor`");
        }
        if let Self::Linear { factor } | Self::Dynamic { factor } | Self::Llama3 { factor, .. } = scaling {
            ensure!(factor >= 1.0, "`{name}.factor` must be at least 1, found {factor}");
        }
        Ok((theta, scaling))
    }

    /// The rule as a table of a `config.json`, without a base.
    pub(super) fn to_json(self) -> Map<String, Value> {
        let value = match self {
            Self::None => json!({ "rope_type": "default" }),
            Self::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
            Self::Dynamic { factor } => json!({ "rope_type": "dynamic", "factor": factor }),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                json!({
                    "rope_type": "llama3", "factor": factor, "low_freq_factor": low_freq_factor,
                    "high_freq_factor": high_freq_factor,
                    "original_max_position_embeddings": original_max_position_embeddings,
                })
            }
        };
        value.as_object().cloned().unwrap_or_default()
    }

    /// Frequencies in radians a position for a sequence of `length` tokens, in f32 as transformers
    /// computes them. Only [`Self::Dynamic`] looks at the length and at `trained`, the model's
    /// `max_position_embeddings`.
    ///
    /// # Shapes
    /// `head_dim / 2` numbers.
    pub(super) fn frequencies(self, head_dim: usize, theta: f64, length: usize, trained: usize) -> Vec<f32> {
        let base = match self {
            Self::Dynamic { factor } if length > trained => {
                let stretch = factor * length as f64 / trained as f64 - (factor - 1.0);
                theta * stretch.powf(head_dim as f64 / (head_dim as f64 - 2.0))
            }
            _ => theta,
        };
        (0..head_dim / 2)
            .map(|i| 1.0 / (base as f32).powf((2 * i) as f32 / head_dim as f32))
            .map(|frequency| self.scale(frequency))
            .collect()
    }

    fn scale(self, frequency: f32) -> f32 {
        match self {
            Self::None | Self::Dynamic { .. } => frequency,
            Self::Linear { factor } => frequency / factor as f32,
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let original = original_max_position_embeddings as f64;
                let wavelength = TAU / f64::from(frequency);
                let kept = if wavelength < original / high_freq_factor {
                    1.0
                } else if wavelength > original / low_freq_factor {
                    0.0
                } else {
                    (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor)
                };
                let frequency = f64::from(frequency);
                ((1.0 - kept) * frequency / factor + kept * frequency) as f32
            }
        }
    }
}
