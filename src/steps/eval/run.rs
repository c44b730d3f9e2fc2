//! The order of an evaluation: every task's rows are read and rendered first, so that a mistake in the
//! last one costs no hour; then the model is loaded and works, task by task.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context as _, anyhow};
use serde_json::{Value, json};

use super::{
    answers::{Answer, Answers},
    examples::Examples,
    items::{Doc, Maker, Work},
    results::{About, Results},
};
use crate::{
    data::{Row, read_rows},
    device,
    eval::{
        Choices, GenerateOptions, NotFinite, Sampling, Task, cut_at_stop_string, generate, log_likelihoods,
        shared_prefix,
    },
    model::{Chat, Decoder},
    params::{ArtifactRef, EvalParams, OutputType, PromptTemplate, SourceFile, TaskSpec},
    steps::{
        Input, StepContext,
        dataset::rows_of,
        model_input::{Evaluated, OpenedBase},
    },
};

/// Items with log-likelihoods are worked on and kept in groups of this many batches, the same ones
/// after a kill: a sum of floats may depend on what stands beside it in a batch.
const GROUP: usize = 8;

/// Tokens that are looked at before a stop string's: the first one's text may depend on those before it.
const BORDER: usize = 4;

pub(crate) fn run(params: &EvalParams, ctx: &StepContext) -> anyhow::Result<()> {
    let device = device::resolve(params.device)?;
    let evaluated = Evaluated::open(ctx.input(&params.model)?, ctx)?;
    let trained_with = trained_prompt(ctx.input(&params.model)?, evaluated.adapter.as_ref());
    let mut asked = Vec::new();
    for spec in &params.tasks {
        let task =
            Asked::new(spec, params, ctx, &evaluated).with_context(|| format!("in task `{}`", spec.name))?;
        task.warn(trained_with, ctx);
        asked.push(task);
    }
    let mut work = Vec::new();
    for task in asked {
        let answers = Answers::open(ctx.checkpoints, task.name())?;
        work.push((task, answers));
    }
    let model = evaluated.load(&device, params.dtype, ctx)?;
    ctx.progress.begin(Some(work.iter().map(|(task, _)| task.docs.len() as u64).sum()), "samples");
    let mut done = 0;
    let mut results = Results::default();
    for (task, answers) in &mut work {
        let context = || format!("in task `{}`", task.name());
        let kept = answers.count();
        if kept > 0 {
            let message =
                format!("task `{}`: {kept} of {} answers are there already", task.name(), task.docs.len());
            ctx.log(&message);
            ctx.progress.note(&message);
        }
        let asking =
            Asking { model: &model, base: &evaluated.opened, batch_size: params.batch_size, ctx, done };
        task.answer(&asking, answers).with_context(context)?;
        done += task.docs.len() as u64;
        results.add(&task.about(), &task.docs, answers, ctx).with_context(context)?;
    }
    let evergraft = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "base_digest": evaluated.base.digest,
        "adapter": evaluated.adapter,
    });
    ctx.write_json("results.json", &results.finish(evergraft))
}

/// The prompt of the tokens that an adapter was trained on.
fn trained_prompt(model: &Arc<Input>, lineage: Option<&Value>) -> Option<PromptTemplate> {
    let digest = lineage?.get("tokens_digest")?.as_str()?.parse().ok()?;
    let tokens = model.find(&digest)?;
    serde_json::from_value(tokens.params.get("prompt")?.clone()).ok()
}

/// The model knows items by their place in what it was asked, people by their row.
fn name_row(error: anyhow::Error, rows: &[usize]) -> anyhow::Error {
    match error.downcast_ref::<NotFinite>().and_then(|found| rows.get(found.item)) {
        Some(row) => anyhow!("the model's logits for row {} of the dataset are not finite", row + 1),
        None => error,
    }
}

/// Who is asked, and how.
struct Asking<'a> {
    model: &'a Decoder,
    base: &'a OpenedBase,
    batch_size: usize,
    ctx: &'a StepContext<'a>,
    /// Items of the tasks before.
    done: u64,
}

/// A task with its items.
struct Asked<'a> {
    spec: &'a TaskSpec,
    task: Task,
    docs: Vec<Doc>,
    rows_in_dataset: usize,
    truncated: usize,
    num_fewshot: usize,
    chat: Option<Chat>,
    system: Option<&'a String>,
}

impl<'a> Asked<'a> {
    fn new(
        spec: &'a TaskSpec,
        params: &'a EvalParams,
        ctx: &StepContext,
        evaluated: &Evaluated,
    ) -> anyhow::Result<Self> {
        let OpenedBase { config, tokenizer, .. } = &*evaluated.opened;
        let definition = spec.resolve().context("the task is not known")?;
        let task = Task::new(definition, spec.prompt)?;
        let (in_chat, system) = match spec.prompt {
            Some(PromptTemplate::Chat) => (true, spec.system.as_ref()),
            _ => (params.apply_chat_template, params.system_instruction.as_ref()),
        };
        let chat =
            in_chat.then(|| Chat::new(&evaluated.base.path, tokenizer, system.cloned())).transpose()?;
        let rows = |step: Option<&ArtifactRef>, file: Option<usize>| -> anyhow::Result<Option<Vec<Row>>> {
            match (step, file.and_then(|file| params.task_data.get(file))) {
                (Some(step), _) => rows_of(&ctx.input(step)?.path).map(Some),
                (None, Some(SourceFile(path))) => read_rows(path).map(Some),
                (None, None) => Ok(None),
            }
        };
        let mut asked = rows(spec.dataset.as_ref(), spec.rows)?.context("the task has no rows")?;
        let rows_in_dataset = asked.len();
        let rolling = task.definition.output_type == OutputType::LoglikelihoodRolling;
        let count = spec.num_fewshot.or(params.num_fewshot).unwrap_or(task.definition.num_fewshot);
        let num_fewshot = if rolling { 0 } else { count };
        let others = match num_fewshot {
            0 => Some(Vec::new()),
            _ => rows(spec.fewshot_dataset.as_ref(), spec.fewshot_rows)?,
        };
        let pool = others.unwrap_or_else(|| asked.clone());
        asked.truncate(params.limit.unwrap_or(usize::MAX));
        let maker = Maker {
            task: &task,
            tokenizer,
            chat: chat.as_ref(),
            examples: Examples {
                rows: &pool,
                sampler: task.definition.fewshot_config.sampler,
                count: num_fewshot,
                seed: params.fewshot_seed,
            },
            context: config.max_positions(),
        };
        let (docs, truncated) = maker.docs(&asked)?;
        Ok(Self { spec, task, docs, rows_in_dataset, truncated, num_fewshot, chat, system })
    }

    fn name(&self) -> &str {
        &self.spec.name
    }

    fn about(&self) -> About<'_> {
        About {
            name: self.name(),
            task: &self.task,
            rows_in_dataset: self.rows_in_dataset,
            truncated: self.truncated,
            num_fewshot: self.num_fewshot,
            prompt: self.spec.prompt,
            in_chat: self.chat.is_some(),
            system: self.system,
        }
    }

    fn warn(&self, trained_with: Option<PromptTemplate>, ctx: &StepContext) {
        let name = self.name();
        if self.truncated > 0 {
            ctx.warn(format_args!(
                "task `{name}`: {} of {} prompts leave too little of the context for the answer and were cut on the left",
                self.truncated,
                self.docs.len()
            ));
        }
        let own = self.task.definition.metadata.trained_with;
        let asks_with =
            if self.chat.is_some() { Some(PromptTemplate::Chat) } else { self.spec.prompt.or(own) };
        if let (Some(trained), Some(asks_with)) = (trained_with, asks_with)
            && trained != asks_with
        {
            ctx.warn(format_args!(
                "task `{name}` asks with a prompt that goes with `prompt: {asks_with}`, but the adapter was trained with `prompt: {trained}`; if that is not meant, set the task's `prompt`"
            ));
        }
    }

    /// Asks the model what it was not asked before.
    fn answer(&self, asking: &Asking, answers: &mut Answers) -> anyhow::Result<()> {
        if self.task.definition.output_type == OutputType::GenerateUntil {
            self.generate(asking, answers)
        } else {
            self.score(asking, answers)
        }
    }

    fn generate(&self, asking: &Asking, answers: &mut Answers) -> anyhow::Result<()> {
        let Asking { model, base, batch_size, ctx, done } = *asking;
        let wanted = &self.task.definition.generation_kwargs;
        let until = &wanted.until;
        // A stop string is found in so many last tokens, as a token is no less than a byte.
        let tail = until.iter().map(String::len).max().unwrap_or(0) + BORDER;
        let stop = |new: &[u32]| {
            let last = &new[new.len().saturating_sub(tail)..];
            !until.is_empty()
                && base
                    .tokenizer
                    .decode(last, true)
                    .is_ok_and(|text| until.iter().any(|stop| text.contains(stop.as_str())))
        };
        let options = GenerateOptions {
            max_new_tokens: wanted.max_gen_toks,
            batch_size,
            prefix: Some(self.prefix(model)),
            stop_token_ids: self.stop_token_ids(base, ctx),
            stop: &stop,
            sampling: wanted.samples().then(|| Sampling {
                temperature: wanted.temperature.unwrap_or(1.0),
                top_k: wanted.top_k.unwrap_or(0),
                top_p: wanted.top_p.unwrap_or(1.0),
                seed: wanted.seed,
            }),
            beams: wanted.num_beams,
        };
        let left: Vec<(usize, Vec<u32>)> = self
            .docs
            .iter()
            .enumerate()
            .filter(|(doc_id, _)| answers.get(*doc_id).is_none())
            .filter_map(|(doc_id, doc)| match &doc.work {
                Work::Generate(prompt) => Some((doc_id, prompt.clone())),
                Work::Score(_) => None,
            })
            .collect();
        let (numbers, prompts): (Vec<usize>, Vec<Vec<u32>>) = left.into_iter().unzip();
        generate(model, &prompts, &options, &mut || ctx.cancel.check(), &mut |place, tokens| {
            let text = base.tokenizer.decode(tokens, true)?;
            let text = cut_at_stop_string(&text, until).to_owned();
            answers.add(vec![(numbers[place], Answer::Generation(text))])?;
            ctx.progress.update(done + answers.count() as u64, self.name());
            Ok(())
        })
        .map_err(|error| name_row(error, &numbers))
    }

    /// The tokens that end a generation.
    fn stop_token_ids(&self, base: &OpenedBase, ctx: &StepContext) -> Vec<u32> {
        let mut stops = base.config.eos_token_ids.clone();
        stops.extend(base.tokenizer.eos_token_id());
        stops.extend(self.chat.as_ref().and_then(Chat::end_token_id));
        if stops.is_empty() {
            ctx.warn(format_args!(
                "task `{}`: neither the base's configuration nor its tokenizer names an end token, so a generation ends {}",
                self.name(),
                if self.task.definition.generation_kwargs.until.is_empty() { "at its longest only" } else { "at a stop string or at its longest" }
            ));
        }
        stops
    }

    fn score(&self, asking: &Asking, answers: &mut Answers) -> anyhow::Result<()> {
        let Asking { model, batch_size, ctx, done, .. } = *asking;
        let prefix = Some(self.prefix(model));
        for group in self.groups(batch_size) {
            if group.iter().all(|(doc_id, _)| answers.get(*doc_id).is_some()) {
                continue;
            }
            // A text may be several items, one for each of its windows.
            let items: Vec<Choices> = group.iter().flat_map(|(_, parts)| parts.iter().cloned()).collect();
            let owners: Vec<usize> =
                group.iter().flat_map(|(doc_id, parts)| parts.iter().map(|_| *doc_id)).collect();
            let mut found = vec![Vec::new(); items.len()];
            let check = &mut || ctx.cancel.check();
            log_likelihoods(model, &items, batch_size, prefix, check, &mut |place, scores| {
                found[place] = scores.to_vec();
                Ok(())
            })
            .map_err(|error| name_row(error, &owners))?;
            let mut complete: BTreeMap<usize, Vec<_>> = BTreeMap::new();
            for (doc_id, scores) in owners.into_iter().zip(found) {
                complete.entry(doc_id).or_default().extend(scores);
            }
            let complete = complete.into_iter().map(|(doc_id, scores)| (doc_id, Answer::of_scores(&scores)));
            answers.add(complete.collect())?;
            ctx.progress.update(done + answers.count() as u64, self.name());
        }
        Ok(())
    }

    /// How many tokens all items begin with; the same whatever is left to do after a kill.
    fn prefix(&self, model: &Decoder) -> usize {
        let contexts = self.docs.iter().flat_map(|doc| match &doc.work {
            Work::Generate(prompt) => vec![prompt.as_slice()],
            Work::Score(parts) => parts.iter().map(|part| part.context.as_slice()).collect(),
        });
        shared_prefix(model, contexts)
    }

    /// Items of about the same length together, the longest first: a group that does not fit into
    /// memory fails at once.
    fn groups(&self, batch_size: usize) -> Vec<Vec<(usize, &[Choices])>> {
        let mut items: Vec<(usize, &[Choices])> = self
            .docs
            .iter()
            .enumerate()
            .filter_map(|(doc_id, doc)| match &doc.work {
                Work::Score(parts) => Some((doc_id, parts.as_slice())),
                Work::Generate(_) => None,
            })
            .collect();
        let length = |parts: &[Choices]| -> usize {
            parts
                .iter()
                .map(|part| part.context.len() + part.continuations.iter().map(Vec::len).sum::<usize>())
                .sum()
        };
        items.sort_by_key(|(doc_id, parts)| (std::cmp::Reverse(length(parts)), *doc_id));
        items.chunks(GROUP * batch_size.max(1)).map(<[_]>::to_vec).collect()
    }
}
