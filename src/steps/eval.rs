//! `uses: eval`: generation, answer extraction, `results.json` and `samples_<task>.jsonl` under
//! lm-eval's names. The files hold no times and no batch size: a score must not depend on them.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    sync::Arc,
};

use anyhow::{Context as _, ensure};
use serde_json::{Map, Value, json};

use super::{
    Input, LoadedModel, StepContext,
    dataset::{rows_of, text},
    load_for_eval,
};
use crate::{
    data::{
        Row,
        prompt::{commonsense_eval_prompt, prompt},
    },
    device,
    digest::Digest,
    error::hinted,
    eval::{GenerateOptions, Gsm8kFilter, LabelExtractor, STOP_STRINGS, cut_at_stop_string, generate, stats},
    model::Chat,
    params::{COMMONSENSE_LABELS, EvalParams, PromptTemplate, TaskSpec},
};

/// Bumped when a task's prompt, extraction or metric changes.
const TASK_VERSION: u32 = 1;

pub(crate) fn run(params: &EvalParams, ctx: &StepContext) -> anyhow::Result<()> {
    let loaded = load_for_eval(ctx.input(&params.model)?, &device::resolve(params.device)?, params.dtype)?;
    let trained_with = trained_prompt(ctx.input(&params.model)?, loaded.adapter.as_ref());
    let mut tasks = Vec::new();
    for spec in &params.tasks {
        let rows = rows_of(&ctx.input(&spec.dataset)?.path)?;
        let task = Task::new(spec, rows, params.limit, &loaded)
            .with_context(|| format!("in task `{}`", spec.name))?;
        if task.truncated > 0 {
            ctx.warn(format_args!(
                "task `{}`: {} of {} prompts leave too little of the context for the answer and were cut on the left",
                spec.name,
                task.truncated,
                task.prompts.len()
            ));
        }
        if let Some(trained) = trained_with.filter(|trained| *trained != task.trained_like()) {
            ctx.warn(format_args!(
                "task `{}` asks with the prompt {}, but the adapter was trained with `prompt: {}`; if that is not meant, set the task's `prompt`",
                spec.name,
                task.prompt_name,
                json!(trained).as_str().unwrap_or_default()
            ));
        }
        tasks.push(task);
    }
    let total: usize = tasks.iter().map(|task| task.prompts.len()).sum();
    ctx.progress.begin(Some(total as u64), "samples");
    let mut done = 0u64;
    let mut results = Results::default();
    for task in &tasks {
        let name = &task.spec.name;
        let generations = task
            .generate(&loaded, params.batch_size, ctx, &mut done)
            .with_context(|| format!("in task `{name}`"))?;
        task.score(&generations, ctx, &mut results)?;
    }
    let evergraft = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "base_digest": loaded.base_digest,
        "adapter": loaded.adapter,
    });
    ctx.write_json("results.json", &results.finish(evergraft))
}

/// The prompt of the tokens that an adapter was trained on.
fn trained_prompt(model: &Arc<Input>, lineage: Option<&Value>) -> Option<PromptTemplate> {
    let digest = lineage?.get("tokens_digest")?.as_str()?.parse().ok()?;
    let tokens = model.find(&digest)?;
    serde_json::from_value(tokens.params.get("prompt")?.clone()).ok()
}

/// The parts of lm-eval's `results.json`, task by task.
#[derive(Default)]
struct Results {
    sections: Map<String, Value>,
}

impl Results {
    fn put(&mut self, section: &str, task: &str, value: Value) {
        let entry = self.sections.entry(section).or_insert_with(|| json!({}));
        entry[task] = value;
    }

    fn finish(mut self, evergraft: Value) -> Value {
        self.sections.insert("evergraft".to_owned(), evergraft);
        Value::Object(self.sections)
    }
}

/// How generations become answers.
enum Scorer {
    Gsm8k,
    Labels(LabelExtractor),
}

struct Task<'a> {
    spec: &'a TaskSpec,
    rows_in_dataset: usize,
    texts: Vec<String>,
    prompts: Vec<Vec<u32>>,
    targets: Vec<String>,
    truncated: usize,
    max_new_tokens: usize,
    prompt_name: Value,
    chat: Option<Chat>,
    labels: Vec<String>,
    scorer: Scorer,
}

impl<'a> Task<'a> {
    fn new(
        spec: &'a TaskSpec,
        rows: Vec<Row>,
        limit: Option<usize>,
        loaded: &LoadedModel,
    ) -> anyhow::Result<Self> {
        let known = COMMONSENSE_LABELS.iter().find(|(name, _)| *name == spec.name);
        let mut labels = spec.labels.clone();
        if labels.is_empty()
            && let Some((_, known)) = known
        {
            labels = known.iter().map(|label| (*label).to_owned()).collect();
        }
        // `labels` of one's own make any name a label task.
        let scorer =
            if labels.is_empty() { Scorer::Gsm8k } else { Scorer::Labels(LabelExtractor::new(&labels)?) };
        let max_new_tokens = spec.generation_limit();
        // A prompt keeps at least half of the context, whatever the generation asks for.
        let context = loaded.model.max_positions();
        let room = context
            .saturating_sub(max_new_tokens)
            .max(context / 2)
            .clamp(1, context.saturating_sub(1).max(1));
        let prompt_name = match (&spec.prompt, &scorer) {
            (Some(template), _) => json!(template),
            (None, Scorer::Gsm8k) => json!("alpaca_cot"),
            (None, Scorer::Labels(_)) => json!("llm_adapters_eval"),
        };
        let chat = (spec.prompt == Some(PromptTemplate::Chat))
            .then(|| Chat::new(&loaded.base_path, &loaded.tokenizer, spec.system.clone()))
            .transpose()?;
        let mut task = Self {
            spec,
            rows_in_dataset: rows.len(),
            texts: Vec::new(),
            prompts: Vec::new(),
            targets: Vec::new(),
            truncated: 0,
            max_new_tokens,
            prompt_name,
            chat,
            labels,
            scorer,
        };
        for (index, row) in rows.iter().take(limit.unwrap_or(usize::MAX)).enumerate() {
            let answer = row.get("answer").and_then(Value::as_str).ok_or_else(|| {
                hinted(
                    format!("row {} of the dataset has no `answer`", index + 1),
                    "map it in the `dataset` step: `fields: {answer: <source field>}`",
                )
            })?;
            let text = task.render(row).with_context(|| format!("row {} of the dataset", index + 1))?;
            // A chat template writes the tokens around a text itself.
            let mut ids = loaded.tokenizer.encode(&text, task.chat.is_none())?;
            ensure!(!ids.is_empty(), "row {} of the dataset gives an empty prompt", index + 1);
            if ids.len() > room {
                task.truncated += 1;
                ids.drain(..ids.len() - room);
            }
            if let Scorer::Labels(_) = task.scorer
                && !task.labels.iter().any(|label| label == answer)
            {
                return Err(hinted(
                    format!(
                        "row {} of the dataset has the answer `{answer}`, which no extraction can give",
                        index + 1
                    ),
                    format!(
                        "the task's labels are {}; give others with `labels: [...]`",
                        task.labels.join(", ")
                    ),
                ));
            }
            task.texts.push(text);
            task.prompts.push(ids);
            task.targets.push(answer.to_owned());
        }
        Ok(task)
    }

    /// The training prompt that goes with the task's.
    fn trained_like(&self) -> PromptTemplate {
        match (self.spec.prompt, &self.scorer) {
            (Some(template), _) => template,
            (None, Scorer::Gsm8k) => PromptTemplate::Alpaca,
            (None, Scorer::Labels(_)) => PromptTemplate::AlpacaIndented,
        }
    }

    fn render(&self, row: &Row) -> anyhow::Result<String> {
        let (instruction, input) = (text(row, "instruction"), text(row, "input"));
        if let Some(chat) = &self.chat {
            return chat.prompt(&prompt(PromptTemplate::Chat, instruction, input));
        }
        Ok(match (self.spec.prompt, &self.scorer) {
            (Some(template), _) => prompt(template, instruction, input),
            // The whole question is the instruction, also where training split it.
            (None, Scorer::Gsm8k) => {
                let question =
                    if input.is_empty() { instruction.to_owned() } else { format!("{instruction}\n{input}") };
                prompt(PromptTemplate::Alpaca, &question, "") + " Let's think step by step."
            }
            (None, Scorer::Labels(_)) => commonsense_eval_prompt(instruction, input),
        })
    }

    fn generate(
        &self,
        loaded: &LoadedModel,
        batch_size: usize,
        ctx: &StepContext,
        done: &mut u64,
    ) -> anyhow::Result<Vec<String>> {
        let mut stops = loaded.config.eos_token_ids.clone();
        stops.extend(loaded.tokenizer.eos_token_id());
        stops.extend(self.chat.as_ref().and_then(Chat::end_token_id));
        let options =
            GenerateOptions { max_new_tokens: self.max_new_tokens, batch_size, stop_token_ids: stops };
        let mut texts = vec![String::new(); self.prompts.len()];
        let mut check = || ctx.cancel.check();
        generate(&loaded.model, &self.prompts, &options, &mut check, &mut |index, tokens| {
            texts[index] = loaded.tokenizer.decode(tokens, true)?;
            *done += 1;
            ctx.progress.update(*done, &self.spec.name);
            Ok(())
        })?;
        Ok(texts)
    }

    /// Metrics of one generation: name, extracted answer, right or wrong.
    fn grade(&self, generation: &str, target: &str) -> Vec<(String, Option<String>, bool)> {
        match &self.scorer {
            Scorer::Gsm8k => Gsm8kFilter::ALL
                .iter()
                .map(|filter| {
                    let extracted = filter.extract(cut_at_stop_string(generation));
                    let right = extracted.as_deref().is_some_and(|number| filter.matches(number, target));
                    (format!("exact_match,{}", filter.name()), extracted, right)
                })
                .collect(),
            Scorer::Labels(labels) => {
                let extracted = labels.extract(generation.trim()).map(str::to_owned);
                let right = extracted.as_deref() == Some(target);
                vec![("acc,label-extract".to_owned(), extracted, right)]
            }
        }
    }

    fn score(&self, generations: &[String], ctx: &StepContext, results: &mut Results) -> anyhow::Result<()> {
        let name = &self.spec.name;
        let file_name = format!("samples_{name}.jsonl");
        let file =
            File::create(ctx.out.join(&file_name)).with_context(|| format!("cannot write `{file_name}`"))?;
        let mut file = BufWriter::new(file);
        // Metric, right answers, generations without an answer.
        let mut tally: Vec<(String, usize, usize)> = Vec::new();
        for (index, generation) in generations.iter().enumerate() {
            let target = &self.targets[index];
            let mut line = json!({
                "doc_id": index, "prompt": self.texts[index], "generation": generation, "target": target,
                "extracted": {},
            });
            for (place, (metric, extracted, right)) in self.grade(generation, target).into_iter().enumerate()
            {
                if tally.len() == place {
                    tally.push((metric.clone(), 0, 0));
                }
                tally[place].1 += usize::from(right);
                tally[place].2 += usize::from(extracted.is_none());
                let filter = metric.split_once(',').map_or(metric.as_str(), |(_, filter)| filter);
                line["extracted"][filter] = json!(extracted);
                line[&metric] = json!(u8::from(right));
            }
            serde_json::to_writer(&mut file, &line)?;
            writeln!(file).with_context(|| format!("cannot write `{file_name}`"))?;
        }
        file.flush().with_context(|| format!("cannot write `{file_name}`"))?;
        let n = generations.len();
        let mut scores = json!({ "alias": name });
        let mut unparsed = json!({});
        for (metric, right, missing) in &tally {
            let p = *right as f64 / n.max(1) as f64;
            let (base, filter) = metric.split_once(',').unwrap_or((metric, "none"));
            let (low, high) = stats::wilson(*right, n);
            scores[metric] = json!(p);
            scores[format!("{base}_stderr,{filter}")] =
                json!(if n > 1 { (p * (1.0 - p) / (n - 1) as f64).sqrt() } else { 0.0 });
            scores[format!("{base}_ci95,{filter}")] = json!([low, high]);
            unparsed[filter] = json!(missing);
            ctx.log(format_args!("{name}: {metric} {p:.4} ({right} of {n}; {missing} without an answer)"));
        }
        let primary = match self.scorer {
            Scorer::Gsm8k => "exact_match,flexible-extract",
            Scorer::Labels(_) => "acc,label-extract",
        };
        results.put("results", name, scores);
        results.put("n-samples", name, json!({ "original": self.rows_in_dataset, "effective": n }));
        results.put("n-shot", name, json!(0));
        results.put("versions", name, json!(TASK_VERSION));
        results.put("primary_metric", name, json!(primary));
        results.put("unparsed", name, unparsed);
        results.put("truncated_prompts", name, json!(self.truncated));
        let mut config = json!({
            "task": name, "prompt": self.prompt_name, "labels": self.labels,
            "max_new_tokens": self.max_new_tokens, "do_sample": false,
            "until": match self.scorer { Scorer::Gsm8k => &STOP_STRINGS[..], Scorer::Labels(_) => &[] },
            "prompt_digest": Digest::of_bytes(self.texts.first().map_or(&[][..], |text| text.as_bytes())),
        });
        if let Some(system) = &self.spec.system {
            config["system"] = json!(system);
        }
        results.put("configs", name, config);
        Ok(())
    }
}
