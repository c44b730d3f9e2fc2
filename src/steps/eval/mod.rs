//! `uses: eval`: `results.json` and `samples_<task>.jsonl` under lm-eval's names. The files hold no times
//! and no batch size: a score must not depend on them.

mod answers;
mod examples;
mod items;
mod results;
mod run;

pub(crate) use run::run;
