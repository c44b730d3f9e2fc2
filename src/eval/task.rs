//! A task, ready to ask: rows to prompts, choices and targets.

use anyhow::{Context as _, ensure};

use super::{Filter, Scorer};
use crate::{
    data::{Row, prompt::prompt},
    error::hinted,
    params::{ChoiceTemplates, OutputType, PromptTemplate, RowTemplates, TaskDefinition},
};

/// A compiled task.
#[derive(Debug)]
pub struct Task {
    /// What it is made from.
    pub definition: TaskDefinition,
    /// How answers are read, in the order of the definition.
    pub filters: Vec<Filter>,
    /// What is measured, in the order of the definition.
    pub scorers: Vec<Scorer>,
    templates: RowTemplates,
    /// A training prompt in the place of the task's own question.
    prompt: Option<PromptTemplate>,
}

/// What a row's answer should be.
#[derive(Debug, Clone, PartialEq)]
pub struct Gold {
    /// Its text.
    pub target: String,
    /// The choices' texts; none without choices.
    pub choices: Vec<String>,
    /// The place of the right one.
    pub index: usize,
}

impl Task {
    /// Compiles a task. `prompt` asks as in training instead of the task's own way.
    ///
    /// # Errors
    /// When a template or a pattern is none.
    pub fn new(definition: TaskDefinition, prompt: Option<PromptTemplate>) -> anyhow::Result<Self> {
        let templates = definition.templates().map_err(|problems| {
            let lines = problems.iter().map(|problem| format!("`{}` {}", problem.field, problem.message));
            anyhow::anyhow!(lines.collect::<Vec<_>>().join("; "))
        })?;
        let filters = definition.filters().iter().map(Filter::new).collect::<anyhow::Result<_>>()?;
        let scorers = definition.scores();
        let scorers = scorers.iter().map(|(metric, filter)| Scorer::new(metric, filter));
        let scorers = scorers.collect::<anyhow::Result<_>>()?;
        Ok(Self { definition, filters, scorers, templates, prompt })
    }

    /// Everything before the answer: description, examples, question.
    ///
    /// # Errors
    /// When a row lacks a field, or a template works without end.
    pub fn question(&self, row: &Row, examples: &[&Row]) -> anyhow::Result<String> {
        let mut text = self.templates.text("description", row)?;
        for (number, example) in examples.iter().enumerate() {
            let place = || format!("example {} of the row", number + 1);
            text += &self.ask("fewshot_config.doc_to_text", example).with_context(place)?;
            let answer = self.gold("fewshot_config.doc_to_target", example).with_context(place)?.target;
            text += &self.delimiter(&answer);
            text += &answer;
            text += &self.definition.fewshot_delimiter;
        }
        text += &self.ask("doc_to_text", row)?;
        Ok(text)
    }

    fn ask(&self, field: &str, row: &Row) -> anyhow::Result<String> {
        let text = |name: &str| row.get(name).and_then(serde_json::Value::as_str).unwrap_or_default();
        let Some(template) = self.prompt else { return self.templates.text(field, row) };
        ensure!(
            row.contains_key("instruction"),
            "there is no field `instruction`, which a training prompt is made of"
        );
        Ok(prompt(template, text("instruction"), text("input")))
    }

    /// What stands between a question and this answer.
    fn delimiter(&self, answer: &str) -> String {
        if answer.is_empty() { String::new() } else { self.definition.target_delimiter.clone() }
    }

    /// What a continuation begins with; in a chat, the template has the white space.
    pub fn continuation(&self, answer: &str, in_chat: bool) -> String {
        if in_chat { answer.to_owned() } else { format!("{}{answer}", self.definition.target_delimiter) }
    }

    /// The right answer of a row.
    ///
    /// # Errors
    /// When a field is missing, the target is no choice, or no extraction can give it.
    pub fn answer(&self, row: &Row) -> anyhow::Result<Gold> {
        let gold = self.gold("doc_to_target", row)?;
        let labels = self.definition.labels();
        if !labels.is_empty() && !labels.contains(&gold.target) {
            return Err(hinted(
                format!("the answer is `{}`, which no extraction can give", gold.target),
                format!("the task's labels are {}; give others with `labels: [...]`", labels.join(", ")),
            ));
        }
        if self.definition.output_type == OutputType::GenerateUntil && gold.target.is_empty() {
            return Err(hinted(
                "the answer is empty",
                "`doc_to_target` of the task says where the answer of a row stands",
            ));
        }
        Ok(gold)
    }

    fn gold(&self, field: &str, row: &Row) -> anyhow::Result<Gold> {
        let choices = match &self.definition.doc_to_choice {
            None => Vec::new(),
            Some(ChoiceTemplates::List(_)) => self.templates.list("doc_to_choice", row)?,
            Some(ChoiceTemplates::Each(texts)) => (0..texts.len())
                .map(|at| self.templates.text(&format!("doc_to_choice.{at}"), row))
                .collect::<anyhow::Result<_>>()?,
        };
        let target = self.templates.text(field, row)?;
        if self.definition.doc_to_choice.is_none() {
            return Ok(Gold { target, choices, index: 0 });
        }
        ensure!(choices.len() > 1, "a question needs two choices, and has {}", choices.len());
        let most = TaskDefinition::MAX_CHOICES;
        ensure!(choices.len() <= most, "there are {} choices; at most {most} are taken", choices.len());
        let empty = choices.iter().position(String::is_empty);
        ensure!(empty.is_none(), "choice {} is empty", empty.unwrap_or(0));
        // As in lm-eval: a number is a place, whatever the choices are.
        let number = target.bytes().all(|byte| byte.is_ascii_digit()).then(|| target.parse().ok()).flatten();
        let index = number.or_else(|| choices.iter().position(|choice| *choice == target));
        match index.filter(|index| *index < choices.len()) {
            Some(index) => Ok(Gold { target: choices[index].clone(), choices, index }),
            None => Err(hinted(
                format!("the answer `{target}` is none of the {} choices", choices.len()),
                "`doc_to_target` gives a choice, or its number from 0",
            )),
        }
    }

    /// The answers that a generation gives, filter by filter.
    pub fn answers(&self, generation: &str) -> Vec<Option<String>> {
        self.filters.iter().map(|filter| filter.extract(generation)).collect()
    }
}

/// What stands before the first stop string.
pub fn cut_at_stop_string<'t>(generation: &'t str, until: &[String]) -> &'t str {
    let end = until.iter().filter_map(|stop| generation.find(stop.as_str())).min();
    &generation[..end.unwrap_or(generation.len())]
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::params::shipped_task;

    fn task(name: &str) -> Task {
        Task::new(shipped_task(name).unwrap().clone(), None).unwrap()
    }

    fn row(value: Value) -> Row {
        let Value::Object(row) = value else { panic!("a mapping") };
        row
    }

    /// trans-peft-facts.md 3.2 and 3.6, byte for byte.
    #[test]
    fn shipped_tasks_ask_as_the_reference() {
        const PLAIN: &str = "Below is an instruction that describes a task. Write a response that appropriately completes the request.";
        const PAIRED: &str = "Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request.";
        let indent = " ".repeat(16);
        for input in ["", "I"] {
            let row = row(json!({"instruction": "Q", "input": input, "output": "o", "answer": "true"}));
            let expected = match input {
                "" => format!("{PLAIN} \n\n>### Instruction:\n>Q\n\n>### Response:\n>"),
                _ => format!("{PAIRED}\n\n>### Instruction:\n>Q\n\n>### Input:\n>I\n\n>### Response:\n>"),
            };
            assert_eq!(task("boolq").question(&row, &[]).unwrap(), expected.replace('>', &indent));
            // The whole question is the instruction, also where training split it.
            let whole = if input.is_empty() { "Q" } else { "Q\nI" };
            let expected =
                format!("{PLAIN}\n\n### Instruction:\n{whole}\n\n### Response: Let's think step by step.");
            assert_eq!(task("gsm8k").question(&row, &[]).unwrap(), expected);
            assert_eq!(task("math").question(&row, &[]).unwrap(), expected);
            let expected = prompt(PromptTemplate::Alpaca, "Q", input);
            assert_eq!(task("target_perplexity").question(&row, &[]).unwrap(), expected);
        }
        let until = ["Instruction".to_owned()];
        assert_eq!(cut_at_stop_string("5\n### Instruction:\nmore", &until), "5\n### ");
        assert_eq!(cut_at_stop_string("5", &until), "5");
    }

    /// Fuel lets a template nest some ten thousand lists; dropping them takes stack, which the step has.
    #[test]
    fn deeply_nested_values_are_dropped() {
        let nest =
            "{% set n = namespace(x=[]) %}{% for i in range(99999) %}{% set n.x = [n.x] %}{% endfor %}";
        let definition: TaskDefinition = serde_json::from_value(json!({
            "task": "t", "output_type": "generate_until", "doc_to_text": nest, "doc_to_target": "a",
            "metadata": { "version": 1 },
        }))
        .unwrap();
        let task = Task::new(definition, None).unwrap();
        let work = move || task.question(&row(json!({"a": "b"})), &[]).unwrap_err().to_string();
        let error = std::thread::Builder::new().stack_size(64 << 20).spawn(work).unwrap().join().unwrap();
        assert!(error.contains("works without end"), "{error}");
    }

    #[test]
    fn examples_stand_before_the_question() {
        let definition: TaskDefinition = serde_json::from_value(json!({
            "task": "t", "output_type": "multiple_choice", "description": "Choose.\n\n",
            "doc_to_text": "Q: {{ q }}\nA:", "doc_to_choice": "{{ c }}", "doc_to_target": "{{ a }}",
            "metadata": { "version": 1 },
        }))
        .unwrap();
        assert_eq!(definition.check(), []);
        let task = Task::new(definition, None).unwrap();
        let rows = [
            json!({"q": "1+1", "c": ["two", "three"], "a": 0}),
            json!({"q": "2+1", "c": ["two", "three"], "a": "three"}),
        ]
        .map(row);
        let text = task.question(&rows[1], &[&rows[0]]).unwrap();
        assert_eq!(text, "Choose.\n\nQ: 1+1\nA: two\n\nQ: 2+1\nA:");
        assert_eq!(task.answer(&rows[1]).unwrap().index, 1);
        let wrong = |value: Value| task.answer(&row(value)).unwrap_err().to_string();
        assert_eq!(wrong(json!({"c": ["x", "y"], "a": 2})), "the answer `2` is none of the 2 choices");
        assert_eq!(wrong(json!({"c": ["x"], "a": 0})), "a question needs two choices, and has 1");
        assert_eq!(wrong(json!({"c": ["x", ""], "a": 0})), "choice 1 is empty");
        assert_eq!(wrong(json!({"a": 0})), "`doc_to_choice`: there is no field `c`; the row has `a`");
    }
}
