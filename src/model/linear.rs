//! A linear layer that may carry a low-rank update.

use burn::tensor::Tensor;

use super::{
    ForwardHook, ParamMut, Products, Site,
    cast::{to_dtype, to_f32},
    kernels,
};

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
    /// Whether the adapter trains the bias too.
    pub trains_bias: bool,
}

/// A LoRA pair (arXiv 2106.09685, equation 3), with magnitudes for DoRA (arXiv 2402.09353).
#[derive(Debug, Clone)]
pub struct LowRank {
    /// `[r, in_features]`.
    pub a: Tensor<2>,
    /// `[out_features, r]`.
    pub b: Tensor<2>,
    /// `lora_alpha / r`.
    pub scale: f64,
    /// `[out_features]`; DoRA only.
    pub magnitude: Option<Tensor<1>>,
    /// [`LowRank::norm`], where nothing changes any more.
    pub fixed_norm: Option<Tensor<1>>,
}

impl LowRank {
    /// Length of each row of the adapted weight. PEFT treats it as a constant of the gradient
    /// (section 4.3 of the DoRA paper).
    ///
    /// # Shapes
    /// `weight` is `[out_features, in_features]`; the result `[out_features]`.
    pub fn norm(&self, weight: &Tensor<2>) -> Tensor<1> {
        let delta = self.b.clone().matmul(self.a.clone()).mul_scalar(self.scale);
        (to_f32(weight.clone()) + delta).square().sum_dim(1).sqrt().squeeze_dim::<1>(1).detach()
    }

    /// The weight with the pair folded in.
    pub fn merged(&self, weight: Tensor<2>) -> Tensor<2> {
        let norm = self.magnitude.as_ref().map(|_| self.norm(&weight));
        let delta = self.b.clone().matmul(self.a.clone()).mul_scalar(self.scale);
        let sum = weight + delta;
        match (&self.magnitude, norm) {
            (Some(magnitude), Some(norm)) => sum * (magnitude.clone() / norm).unsqueeze_dim::<2>(1),
            _ => sum,
        }
    }

    /// What DoRA adds to the layer's output. `plain` is that output without its bias; `dropped`
    /// the input after dropout, where there is any. All in f32.
    fn dora_update(
        &self,
        linear: &Linear,
        magnitude: &Tensor<1>,
        plain: Tensor<2>,
        input: Tensor<2>,
        dropped: Option<Tensor<2>>,
        products: Products,
    ) -> Tensor<2> {
        let into = dropped.clone().unwrap_or(input);
        let low = kernels::linear(into, self.a.clone(), products);
        let update = kernels::linear(low, self.b.clone(), products).mul_scalar(self.scale);
        let norm = self.fixed_norm.clone().unwrap_or_else(|| self.norm(&linear.weight));
        let ratio: Tensor<2> = (magnitude.clone() / norm).unsqueeze();
        // As in PEFT, dropout also reaches the base's share of the update.
        let plain = match dropped {
            Some(dropped) => kernels::linear(dropped, linear.weight.clone(), products),
            None => plain,
        };
        plain * (ratio.clone() - 1.0) + update * ratio
    }
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
        let products = hook.products();
        let Some(lora) = &self.lora else {
            return self.biased(kernels::linear(input, self.weight.clone(), products));
        };
        let dropout = hook.adapter_dropout(Site { layer, module: self.module() });
        let Some(magnitude) = &lora.magnitude else {
            let [weight, a, b] = [&self.weight, &lora.a, &lora.b].map(Clone::clone);
            let update = kernels::Update { scale: lora.scale as f32, dropout, products };
            return self.biased(kernels::adapted_linear(input, weight, [a, b], update));
        };
        // Adapters are f32 whatever the base, as PEFT keeps them.
        let dropped = dropout.map(|dropout| dropout.apply(to_f32(input.clone())));
        let plain = kernels::linear(input.clone(), self.weight.clone(), products);
        let update =
            lora.dora_update(self, magnitude, to_f32(plain.clone()), to_f32(input), dropped, products);
        let output = self.biased(plain);
        let dtype = output.dtype();
        output + to_dtype(update, dtype)
    }

    fn biased(&self, output: Tensor<2>) -> Tensor<2> {
        match &self.bias {
            Some(bias) => output.clone() + to_dtype(bias.clone(), output.dtype()).unsqueeze(),
            None => output,
        }
    }

    /// Name, inside a decoder layer, of the bias that the adapter trains.
    pub fn trained_bias_name(&self) -> Option<String> {
        let trained = self.trains_bias && self.bias.is_some();
        trained.then(|| Self::bias_name(self.name, self.lora.is_some()))
    }

    /// PEFT's name of the bias of the linear layer `name`, which it wraps where that carries a pair.
    pub fn bias_name(name: &str, adapted: bool) -> String {
        format!("{name}{}.bias", if adapted { ".base_layer" } else { "" })
    }

    pub(super) fn params<'a>(&'a mut self, prefix: &str, out: &mut Vec<ParamMut<'a>>) {
        let name = self.name;
        out.push(ParamMut::matrix(format!("{prefix}{name}.weight"), &mut self.weight));
        if let Some(bias) = &mut self.bias {
            out.push(ParamMut::vector(format!("{prefix}{name}.bias"), bias));
        }
    }

    pub(super) fn adapter_params<'a>(&'a mut self, prefix: &str, out: &mut Vec<ParamMut<'a>>) {
        let bias_name = self.trained_bias_name();
        if let (Some(name), Some(bias)) = (bias_name, &mut self.bias) {
            out.push(ParamMut::vector(format!("{prefix}{name}"), bias));
        }
        if let Some(lora) = &mut self.lora {
            let prefix = format!("{prefix}{}", self.name);
            out.push(ParamMut::matrix(format!("{prefix}.lora_A.weight"), &mut lora.a));
            out.push(ParamMut::matrix(format!("{prefix}.lora_B.weight"), &mut lora.b));
            if let Some(magnitude) = &mut lora.magnitude {
                out.push(ParamMut::vector(format!("{prefix}.lora_magnitude_vector"), magnitude));
            }
        }
    }
}
