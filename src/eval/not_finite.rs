//! The error of a model that gives no numbers.

/// Logits of an item are NaN or infinite. Callers know what the item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the model's logits for item {item} are not finite")]
pub struct NotFinite {
    /// Its place in what was asked.
    pub item: usize,
}
