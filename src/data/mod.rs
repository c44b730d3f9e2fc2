//! Rows and tokens: reading datasets, prompts, and the tokenized form that training reads.

mod answer;
mod canonical;
pub mod prompt;
mod read;
mod read_csv;
mod read_parquet;
mod token_set;

pub use answer::{gsm8k_answer, last_boxed};
pub use canonical::canonical;
pub use read::{Row, read_rows};
pub use token_set::{IGNORED_LABEL, TokenSet};
