//! A linear layer that may carry a low-rank update.

use burn::tensor::Tensor;

use super::{ForwardHook, ParamMut, Site};

/// `y = x W^T + b`, plus `scale * (hook(x) A^T) B^T` where an adapter is attached.
#[derive(Debug, Clone)]
pub struct Linear {
    /// Name inside a decoder layer, e.g. `self_attn.q_proj`.
    pub name: &'static str,
    /// `[out_features, in_features]`, as on disk.
    pub weight: Tensor<2>,
    /// `[out_features]`.
    pub bias: Option<Tensor<1>>,
    /// The adapter.
    pub lora: Option<LowRank>,
}

/// A LoRA pair (arXiv 2106.09685, equation 3).
#[derive(Debug, Clone)]
pub struct LowRank {
    /// `[r, in_features]`.
    pub a: Tensor<2>,
    /// `[out_features, r]`.
    pub b: Tensor<2>,
    /// `lora_alpha / r`.
    pub scale: f64,
}

impl Linear {
    /// `[in_features, out_features]` as numbers.
    pub fn features(&self) -> (usize, usize) {
        let [out_features, in_features] = self.weight.dims();
        (in_features, out_features)
    }

    /// Its name without the block, as in PEFT's `target_modules`: `q_proj`.
    pub fn module(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }

    /// # Shapes
    /// `[tokens, in_features]` to `[tokens, out_features]`.
    pub fn forward(&self, input: Tensor<2>, layer: usize, hook: &dyn ForwardHook) -> Tensor<2> {
        let site = Site { layer, module: self.module() };
        let mut output = input.clone().matmul(self.weight.clone().transpose());
        if let Some(bias) = &self.bias {
            output = output + bias.clone().unsqueeze();
        }
        match &self.lora {
            None => output,
            Some(lora) => {
                let low = hook.adapter_input(site, input).matmul(lora.a.clone().transpose());
                output + low.matmul(lora.b.clone().transpose()).mul_scalar(lora.scale)
            }
        }
    }

    pub(super) fn params<'a>(&'a mut self, prefix: &str, out: &mut Vec<ParamMut<'a>>) {
        let name = self.name;
        out.push(ParamMut::matrix(format!("{prefix}{name}.weight"), &mut self.weight));
        if let Some(bias) = &mut self.bias {
            out.push(ParamMut::vector(format!("{prefix}{name}.bias"), bias));
        }
    }

    pub(super) fn adapter_params<'a>(&'a mut self, prefix: &str, out: &mut Vec<ParamMut<'a>>) {
        if let Some(lora) = &mut self.lora {
            out.push(ParamMut::matrix(format!("{prefix}.lora_A.weight"), &mut lora.a));
            out.push(ParamMut::matrix(format!("{prefix}.lora_B.weight"), &mut lora.b));
        }
    }
}
