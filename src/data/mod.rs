//! Rows and tokens: reading datasets, prompts, and the tokenized form that training reads.

mod token_set;

pub use token_set::TokenSet;
