//! `results.json` and `samples_<task>.jsonl`.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
};

use anyhow::Context as _;
use serde_json::{Map, Value, json};

use super::{
    answers::{Answer, Answers},
    items::{Doc, Work},
};
use crate::{
    digest::Digest,
    eval::{Chosen, ItemScore, Score, Scorer, Task, stats},
    params::{OutputType, PromptTemplate},
    steps::StepContext,
};

/// For the interval of a score that is no share.
const RESAMPLES: usize = 1_000;

/// The parts of lm-eval's `results.json`, task by task.
#[derive(Default)]
pub(super) struct Results {
    sections: Map<String, Value>,
}

/// How a task was asked.
pub(super) struct About<'a> {
    pub(super) name: &'a str,
    pub(super) task: &'a Task,
    pub(super) rows_in_dataset: usize,
    pub(super) truncated: usize,
    pub(super) num_fewshot: usize,
    pub(super) prompt: Option<PromptTemplate>,
    pub(super) in_chat: bool,
    pub(super) system: Option<&'a String>,
}

impl Results {
    fn put(&mut self, section: &str, task: &str, value: Value) {
        let entry = self.sections.entry(section).or_insert_with(|| json!({}));
        entry[task] = value;
    }

    pub(super) fn finish(mut self, evergraft: Value) -> Value {
        self.sections.insert("evergraft".to_owned(), evergraft);
        Value::Object(self.sections)
    }

    /// Scores a task whose every item is answered, and writes its samples in the order of the rows.
    pub(super) fn add(
        &mut self,
        about: &About,
        docs: &[Doc],
        answers: &Answers,
        ctx: &StepContext,
    ) -> anyhow::Result<()> {
        let file_name = format!("samples_{}.jsonl", about.name);
        let cannot = || format!("cannot write `{file_name}`");
        let mut file = BufWriter::new(File::create(ctx.out.join(&file_name)).with_context(cannot)?);
        let task = about.task;
        let mut scores: Vec<Vec<ItemScore>> = vec![Vec::new(); task.scorers.len()];
        let mut missing = vec![0; task.filters.len()];
        for (doc_id, doc) in docs.iter().enumerate() {
            let answer = answers.get(doc_id).context("an item was not answered")?;
            let mut line = json!({
                "doc_id": doc_id, "doc_hash": doc.hash, "prompt": doc.prompt, "target": doc.gold.target,
            });
            let found = grade(task, doc, answer, &mut line, &mut missing);
            for ((scorer, score), all) in task.scorers.iter().zip(found).zip(&mut scores) {
                line[&scorer.key] = match scorer.metric.is_share() {
                    true => json!(score.value as u8),
                    false => json!([score.value, score.weight]),
                };
                all.push(score);
            }
            serde_json::to_writer(&mut file, &line)?;
            writeln!(file).with_context(cannot)?;
        }
        file.flush().with_context(cannot)?;
        self.summarise(about, docs, &scores, &missing, ctx);
        Ok(())
    }

    fn summarise(
        &mut self,
        about: &About,
        docs: &[Doc],
        scores: &[Vec<ItemScore>],
        missing: &[usize],
        ctx: &StepContext,
    ) {
        let (name, task) = (about.name, about.task);
        let mut table = json!({ "alias": name });
        let mut better = json!({});
        for (scorer, items) in task.scorers.iter().zip(scores) {
            let value = scorer.aggregate(items.iter().copied());
            let (stderr, ci95) = spread(scorer, items);
            let (metric, filter) = (scorer.metric.name(), &scorer.filter);
            table[&scorer.key] = json!(value);
            table[format!("{metric}_stderr,{filter}")] = json!(stderr);
            table[format!("{metric}_ci95,{filter}")] = json!(ci95);
            better[metric] = json!(scorer.metric.is_share());
            if !value.is_finite() {
                ctx.warn(format_args!(
                    "task `{name}`: {metric} is larger than the largest number, so it is `null` in the results; \
                     a metric of shorter pieces, or `bits_per_byte`, has one"
                ));
            }
            ctx.log(format_args!("{name}: {} {value:.4} over {} items", scorer.key, items.len()));
        }
        let mut unparsed = json!({});
        for (filter, missing) in task.filters.iter().zip(missing) {
            unparsed[&filter.name] = json!(missing);
            if *missing > 0 {
                ctx.log(format_args!("{name}: {missing} without an answer for `{}`", filter.name));
            }
        }
        let definition = &task.definition;
        self.put("results", name, table);
        self.put("n-samples", name, json!({ "original": about.rows_in_dataset, "effective": docs.len() }));
        self.put("n-shot", name, json!(about.num_fewshot));
        self.put("versions", name, json!(definition.metadata.version));
        self.put("higher_is_better", name, better);
        self.put("primary_metric", name, json!(definition.primary_metric()));
        self.put("unparsed", name, unparsed);
        self.put("truncated_prompts", name, json!(about.truncated));
        let mut config = json!(definition);
        config["num_fewshot"] = json!(about.num_fewshot);
        config["apply_chat_template"] = json!(about.in_chat);
        if let Some(prompt) = about.prompt {
            config["prompt"] = json!(prompt);
        }
        if let Some(system) = about.system {
            config["system"] = json!(system);
        }
        config["prompt_digest"] = json!(prompt_digest(docs));
        self.put("configs", name, config);
    }
}

/// Digest of everything that the model was asked, in the order of the rows.
fn prompt_digest(docs: &[Doc]) -> Digest {
    let asked: Vec<_> = docs.iter().map(|doc| (&doc.prompt, &doc.gold.choices)).collect();
    Digest::of_bytes(&serde_json::to_vec(&asked).expect("texts are plain data"))
}

/// Standard error and 95 % interval of a task's score, as far as its items tell.
fn spread(scorer: &Scorer, items: &[ItemScore]) -> (Option<f64>, Option<(f64, f64)>) {
    if scorer.metric.is_share() {
        let values: Vec<f64> = items.iter().map(|item| item.value).collect();
        let right = items.iter().filter(|item| item.value > 0.5).count();
        return (stats::stderr(&values), Some(stats::wilson(right, items.len())));
    }
    let drawn = |places: &[usize]| scorer.aggregate(places.iter().map(|place| items[*place]));
    let found = stats::bootstrap(items.len(), RESAMPLES, drawn);
    (found.map(|found| found.stderr), found.map(|found| found.ci95))
}

/// The scores of one item; what the answer was goes into its line.
fn grade(task: &Task, doc: &Doc, answer: &Answer, line: &mut Value, missing: &mut [usize]) -> Vec<ItemScore> {
    let gold = &doc.gold;
    match answer {
        Answer::Generation(text) => {
            let answers = task.answers(text);
            line["generation"] = json!(text);
            line["extracted"] = json!({});
            for ((filter, answer), missing) in task.filters.iter().zip(&answers).zip(missing) {
                *missing += usize::from(answer.is_none());
                line["extracted"][&filter.name] = json!(answer);
            }
            let of = |scorer: &Scorer| {
                let place = task.filters.iter().position(|filter| filter.name == scorer.filter);
                scorer.of_answer(place.and_then(|place| answers[place].as_deref()), &gold.target)
            };
            task.scorers.iter().map(of).collect()
        }
        Answer::Scores(scores) => {
            line["resps"] = json!(scores);
            let scores: Vec<Score> = scores
                .iter()
                .map(|(log_likelihood, is_greedy)| Score {
                    log_likelihood: *log_likelihood,
                    is_greedy: *is_greedy,
                })
                .collect();
            if task.definition.output_type == OutputType::MultipleChoice {
                line["choices"] = json!(gold.choices);
                line["gold"] = json!(gold.index);
                let chosen = Chosen { choices: &gold.choices, scores: &scores, gold: gold.index };
                return task.scorers.iter().map(|scorer| scorer.of_choices(&chosen)).collect();
            }
            let whole = Score {
                log_likelihood: scores.iter().map(|score| score.log_likelihood).sum(),
                is_greedy: scores.iter().all(|score| score.is_greedy),
            };
            let tokens = match &doc.work {
                Work::Score(parts) => parts.iter().flat_map(|part| &part.continuations).map(Vec::len).sum(),
                Work::Generate(_) => 0,
            };
            task.scorers.iter().map(|scorer| scorer.of_text(whole, &gold.target, tokens)).collect()
        }
    }
}
