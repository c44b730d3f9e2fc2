//! The base that was loaded last. Evaluations of many adapters on one base follow each other; only the
//! first of them loads it.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use burn::tensor::Device;

use super::{Input, model_input::load_base};
use crate::{
    digest::Digest,
    model::{Decoder, Tokenizer},
    params::Dtype,
};

/// The base that was loaded last, if it is kept.
#[derive(Default)]
pub struct Bases(Mutex<Option<Loaded>>);

struct Loaded {
    digest: Digest,
    device: Device,
    dtype: Dtype,
    model: Decoder,
    tokenizer: Arc<Tokenizer>,
}

/// A base without an adapter. Its tensors may be shared with others.
pub(super) struct Bare {
    pub(super) model: Decoder,
    pub(super) tokenizer: Arc<Tokenizer>,
    /// Whether it was there already.
    pub(super) kept: bool,
}

impl Bases {
    /// The base of this artifact.
    ///
    /// # Errors
    /// When it must be loaded and cannot be.
    pub(super) fn get(&self, base: &Input, device: &Device, dtype: Dtype) -> anyhow::Result<Bare> {
        // Held while loading: another step that waits for the same base gets it.
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |loaded: &&Loaded| {
            loaded.digest == base.digest && loaded.device == *device && loaded.dtype == dtype
        };
        if let Some(Loaded { model, tokenizer, .. }) = last.as_ref().filter(fits) {
            return Ok(Bare { model: model.clone(), tokenizer: Arc::clone(tokenizer), kept: true });
        }
        // Not two at a time.
        *last = None;
        let (model, tokenizer) = load_base(&base.path, device, dtype)
            .with_context(|| format!("cannot load base `{}`", base.node))?;
        let tokenizer = Arc::new(tokenizer);
        let bare = Bare { model: model.clone(), tokenizer: Arc::clone(&tokenizer), kept: false };
        let (digest, device) = (base.digest.clone(), device.clone());
        *last = Some(Loaded { digest, device, dtype, model, tokenizer });
        Ok(bare)
    }

    /// Content of the base that is kept.
    pub(crate) fn kept(&self) -> Option<Digest> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().map(|loaded| loaded.digest.clone())
    }

    /// Lets it go.
    pub(super) fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
