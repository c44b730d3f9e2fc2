//! The base that was loaded last. Evaluations of many adapters on one base follow each other; only the
//! first of them loads it.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use burn::tensor::Device;

use super::{
    Input,
    model_input::{OpenedBase, open_base},
};
use crate::{digest::Digest, model::Decoder, params::Dtype};

/// The base that was loaded last, if it is kept.
#[derive(Default)]
pub struct Bases(Mutex<Option<Loaded>>);

struct Loaded {
    digest: Digest,
    device: Device,
    dtype: Dtype,
    opened: Arc<OpenedBase>,
    model: Decoder,
}

/// A base's network without an adapter. Its tensors may be shared with others.
pub(super) struct Bare {
    pub(super) model: Decoder,
    /// Whether it was there already.
    pub(super) kept: bool,
}

impl Bases {
    /// What there is to know of a base before its weights are loaded.
    ///
    /// # Errors
    /// When a file is missing or damaged.
    pub(super) fn open(&self, base: &Input) -> anyhow::Result<Arc<OpenedBase>> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = last.as_ref().filter(|loaded| loaded.digest == base.digest) {
            return Ok(Arc::clone(&loaded.opened));
        }
        drop(last);
        open_base(&base.path).map(Arc::new).with_context(|| format!("cannot load base `{}`", base.node))
    }

    /// The network of a base that [`Self::open`] gave.
    ///
    /// # Errors
    /// When it must be loaded and cannot be.
    pub(super) fn get(
        &self,
        base: &Input,
        opened: &Arc<OpenedBase>,
        device: &Device,
        dtype: Dtype,
    ) -> anyhow::Result<Bare> {
        // Held while loading: another step that waits for the same base gets it.
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |loaded: &&Loaded| {
            loaded.digest == base.digest && loaded.device == *device && loaded.dtype == dtype
        };
        if let Some(Loaded { model, .. }) = last.as_ref().filter(fits) {
            return Ok(Bare { model: model.clone(), kept: true });
        }
        // Not two at a time.
        *last = None;
        let model =
            opened.load(device, dtype).with_context(|| format!("cannot load base `{}`", base.node))?;
        let (digest, device, opened) = (base.digest.clone(), device.clone(), Arc::clone(opened));
        *last = Some(Loaded { digest, device, dtype, opened, model: model.clone() });
        Ok(Bare { model, kept: false })
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
