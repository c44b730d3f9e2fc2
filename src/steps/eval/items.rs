//! A task's rows as work for the model: token ids of every prompt, and what the answer should be.

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::examples::Examples;
use crate::{
    data::Row,
    digest::Digest,
    error::hinted,
    eval::{Choices, Gold, Task},
    model::{Chat, Tokenizer},
    params::OutputType,
};

/// The stack of the thread that renders templates: their fuel bounds how deep they can nest values,
/// and dropping those takes stack.
const STACK: usize = 64 << 20;

/// One row.
pub(super) struct Doc {
    /// Digest of the row: tells whether two runs scored the same item.
    pub(super) hash: Digest,
    /// The text before the answer.
    pub(super) prompt: String,
    pub(super) gold: Gold,
    pub(super) work: Work,
}

/// What the model is asked for.
pub(super) enum Work {
    /// To go on from here.
    Generate(Vec<u32>),
    /// How likely these are: windows of one text, or an item's choices, together or apart.
    Score(Vec<Choices>),
}

/// How rows become items.
pub(super) struct Maker<'m> {
    pub(super) task: &'m Task,
    pub(super) tokenizer: &'m Tokenizer,
    pub(super) chat: Option<&'m Chat>,
    pub(super) examples: Examples<'m>,
    /// Tokens that the model takes.
    pub(super) context: usize,
}

impl Maker<'_> {
    /// Every item, and how many prompts were cut on the left.
    pub(super) fn docs(&self, rows: &[Row]) -> anyhow::Result<(Vec<Doc>, usize)> {
        let make = || {
            let mut cut = 0;
            let docs = rows.iter().enumerate().map(|(number, row)| {
                self.doc(number, row, &mut cut).with_context(|| format!("row {} of the dataset", number + 1))
            });
            Ok((docs.collect::<anyhow::Result<_>>()?, cut))
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("task".to_owned()).stack_size(STACK);
            let thread = thread.spawn_scoped(scope, make).context("cannot start a thread")?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn doc(&self, number: usize, row: &Row, cut: &mut usize) -> anyhow::Result<Doc> {
        let gold = self.task.answer(row)?;
        let rolling = self.task.definition.output_type == OutputType::LoglikelihoodRolling;
        let prompt = if rolling {
            String::new()
        } else {
            let question = self.task.question(row, &self.examples.of(number, row)?)?;
            match self.chat {
                Some(chat) => chat.prompt(&question)?,
                None => question,
            }
        };
        let work = match self.task.definition.output_type {
            OutputType::GenerateUntil => Work::Generate(self.to_continue(&prompt, cut)?),
            OutputType::MultipleChoice => Work::Score(self.to_score(&prompt, &gold.choices, cut)?),
            OutputType::Loglikelihood => {
                let targets = std::slice::from_ref(&gold.target);
                Work::Score(self.to_score(&prompt, targets, cut)?)
            }
            OutputType::LoglikelihoodRolling => Work::Score(self.windows(&gold.target)?),
        };
        let hash = Digest::of_bytes(&serde_json::to_vec(&Value::Object(row.clone()))?);
        Ok(Doc { hash, prompt, gold, work })
    }

    /// A prompt keeps at least half of the context, whatever the generation asks for.
    fn to_continue(&self, prompt: &str, cut: &mut usize) -> anyhow::Result<Vec<u32>> {
        // A chat template writes the tokens around a text itself.
        let mut ids = self.tokenizer.encode(prompt, self.chat.is_none())?;
        ensure!(!ids.is_empty(), "the prompt is empty");
        let longest = self.task.definition.generation_kwargs.max_gen_toks;
        let most = self.context.saturating_sub(1).max(1);
        let room = self.context.saturating_sub(longest).max(self.context / 2).clamp(1, most);
        if ids.len() > room {
            *cut += 1;
            ids.drain(..ids.len() - room);
        }
        Ok(ids)
    }

    /// lm-eval's division into tokens: those of the whole text that lie behind those of its context.
    /// White space at the end of the context belongs to what follows.
    fn to_score(&self, prompt: &str, answers: &[String], cut: &mut usize) -> anyhow::Result<Vec<Choices>> {
        let in_chat = self.chat.is_some();
        let stem = prompt.trim_end();
        let answers = answers
            .iter()
            .map(|answer| prompt[stem.len()..].to_owned() + &self.task.continuation(answer, in_chat));
        if prompt.is_empty() {
            let first = self.first_token()?;
            let continuations =
                answers.map(|answer| self.tokenizer.encode(&answer, false)).collect::<anyhow::Result<_>>()?;
            return self.fitting(vec![first], continuations, cut);
        }
        // White space alone has no stem to stand on.
        let context = if stem.is_empty() {
            vec![self.first_token()?]
        } else {
            self.tokenizer.encode(stem, !in_chat)?
        };
        ensure!(!context.is_empty(), "the prompt is empty");
        let before = if stem.is_empty() { 0 } else { context.len() };
        let continuations = answers.map(|answer| {
            let mut whole = self.tokenizer.encode(&format!("{stem}{answer}"), !in_chat)?;
            // A tokenizer may join the answer to the context's last token.
            Ok(whole.split_off(before.min(whole.len().saturating_sub(1))))
        });
        self.fitting(context, continuations.collect::<anyhow::Result<_>>()?, cut)
    }

    /// One item with all its continuations; where one of them leaves too little room for the context,
    /// an item for each, since each keeps as much of the context as it can (as in lm-eval). The last
    /// token is only predicted, so one more fits than the model takes.
    fn fitting(
        &self,
        context: Vec<u32>,
        continuations: Vec<Vec<u32>>,
        cut: &mut usize,
    ) -> anyhow::Result<Vec<Choices>> {
        let longest = continuations.iter().map(Vec::len).max().unwrap_or(0);
        ensure!(continuations.iter().all(|tokens| !tokens.is_empty()), "an answer has no tokens");
        if longest > self.context {
            return Err(hinted(
                format!("the answer has {longest} tokens, but the model takes {}", self.context),
                "shorter answers, or a task of `output_type: loglikelihood_rolling`, which cuts texts into windows",
            ));
        }
        let room = |continuation: usize| self.context + 1 - continuation;
        if context.len() <= room(longest) {
            return Ok(vec![Choices { context, continuations }]);
        }
        *cut += 1;
        let apart = continuations.into_iter().map(|continuation| {
            let start = context.len().saturating_sub(room(continuation.len()));
            Choices { context: context[start..].to_vec(), continuations: vec![continuation] }
        });
        Ok(apart.collect())
    }

    /// lm-eval's rolling windows: each token is predicted once, after as many as fit.
    fn windows(&self, text: &str) -> anyhow::Result<Vec<Choices>> {
        let tokens = self.tokenizer.encode(text, false)?;
        ensure!(!tokens.is_empty(), "the text is empty");
        Ok(windows(self.first_token()?, &tokens, self.context))
    }

    /// What stands before a text that has nothing before it.
    fn first_token(&self) -> anyhow::Result<u32> {
        self.tokenizer.bos_token_id().or(self.tokenizer.eos_token_id()).ok_or_else(|| {
            hinted(
                "the tokenizer's files name neither a beginning nor an end token, and a text without a prompt is scored after one",
                "set `bos_token` or `eos_token` in its tokenizer_config.json",
            )
        })
    }
}

/// Windows of at most `most` tokens to read. The last one goes back as far as fits, and predicts only
/// what the others did not.
fn windows(first: u32, tokens: &[u32], most: usize) -> Vec<Choices> {
    let most = most.max(1);
    let mut out = Vec::new();
    let mut done = 0;
    while done < tokens.len() {
        let end = (done + most).min(tokens.len());
        let context = match (done, end.checked_sub(most + 1)) {
            (0, _) => vec![first],
            (_, Some(start)) => tokens[start..done].to_vec(),
            (_, None) => std::iter::once(first).chain(tokens[..done].iter().copied()).collect(),
        };
        out.push(Choices { context, continuations: vec![tokens[done..end].to_vec()] });
        done = end;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// lm_eval 0.4.13: `make_disjoint_window` of each of
    /// `get_rolling_token_windows(list(range(1, 11)), prefix_token=0, max_seq_len=4, context_len=1)`.
    #[test]
    fn windows_are_lm_evals() {
        let tokens: Vec<u32> = (1..=10).collect();
        let found: Vec<(Vec<u32>, Vec<u32>)> = windows(0, &tokens, 4)
            .into_iter()
            .map(|window| (window.context, window.continuations.concat()))
            .collect();
        let expected =
            [(vec![0], vec![1, 2, 3, 4]), (vec![4], vec![5, 6, 7, 8]), (vec![6, 7, 8], vec![9, 10])];
        assert_eq!(found, expected);
        assert_eq!(windows(0, &tokens[..3], 4).len(), 1);
    }
}
