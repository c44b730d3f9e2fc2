//! A task's templates over a row's fields. They come from strangers: strict about names, bounded in
//! work and memory, no files.

use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, syntax::SyntaxConfig, value::Serde};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde_json::{Map, Value};

/// Steps of one rendering, each worth 64 bytes of text: 6 MB. A prompt takes some dozen.
const FUEL: u64 = 100_000;
const MAX_RECURSION: usize = 100;
/// Longer texts are no templates.
const MAX_TEMPLATE: usize = 64 << 10;

/// Compiled templates, each under the name of its field.
#[derive(Debug, Clone)]
pub struct RowTemplates {
    env: Environment<'static>,
}

impl Default for RowTemplates {
    fn default() -> Self {
        let mut env = Environment::new();
        env.set_fuel(Some(FUEL));
        env.set_recursion_limit(MAX_RECURSION);
        env.set_undefined_behavior(UndefinedBehavior::Strict);
        let mut syntax = SyntaxConfig::builder();
        // As lm-eval's.
        syntax.keep_trailing_newline(true);
        env.set_syntax(syntax.build().expect("the delimiters are the default ones"));
        env.set_auto_escape_callback(|_| AutoEscape::None);
        env.set_unknown_method_callback(unknown_method_callback);
        Self { env }
    }
}

impl RowTemplates {
    /// Takes in a template.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn add(&mut self, field: &str, text: &str) -> Result<(), String> {
        if text.len() > MAX_TEMPLATE {
            return Err(format!("has {} bytes, more than the {MAX_TEMPLATE} of a template", text.len()));
        }
        let added = self.env.add_template_owned(field.to_owned(), text.to_owned());
        added.map_err(|error| format!("is no valid template: {}", innermost(&error)))
    }

    /// The text that a template makes of a row. A template that is only a field's name stands for
    /// that field, as in lm-eval.
    ///
    /// # Errors
    /// When the row lacks a field, or the template works without end.
    pub fn text(&self, field: &str, row: &Map<String, Value>) -> anyhow::Result<String> {
        let template = self.env.get_template(field)?;
        match row.get(template.source()) {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(other) => Ok(other.to_string()),
            None => template.render(Serde(row)).map_err(|error| self.explain(field, row, &error)),
        }
    }

    /// The list of texts that a template of one `{{ expression }}` gives.
    ///
    /// # Errors
    /// As [`Self::text`]; and when it is not a list of texts.
    pub fn list(&self, field: &str, row: &Map<String, Value>) -> anyhow::Result<Vec<String>> {
        let template = self.env.get_template(field)?;
        let source = template.source();
        let explain = |error| self.explain(field, row, &error);
        let value = match row.get(source) {
            Some(value) => value.clone(),
            None => {
                let expression = source.trim().strip_prefix("{{").and_then(|rest| rest.strip_suffix("}}"));
                let expression = expression.ok_or_else(|| {
                    anyhow::anyhow!("`{field}` must be one `{{{{ expression }}}}` that gives a list")
                })?;
                let value = self.env.compile_expression(expression.trim_matches('-'));
                let value = value.and_then(|value| value.eval(Serde(row))).map_err(explain)?;
                if value.is_undefined() {
                    return Err(explain(ErrorKind::UndefinedError.into()));
                }
                serde_json::to_value(value)?
            }
        };
        let texts = value.as_array().and_then(|items| {
            items.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        });
        texts.ok_or_else(|| {
            anyhow::anyhow!(
                "`{field}` must give a list of texts, and gives {}",
                crate::error::excerpt(&value)
            )
        })
    }

    fn explain(&self, field: &str, row: &Map<String, Value>, error: &minijinja::Error) -> anyhow::Error {
        let place = error.line().filter(|line| *line > 1).map(|line| format!(", line {line}"));
        let place = format!("`{field}`{}", place.unwrap_or_default());
        match error.kind() {
            ErrorKind::OutOfFuel => {
                anyhow::anyhow!("{place} works without end: more than {FUEL} steps for one row")
            }
            ErrorKind::UndefinedError => {
                let template = self.env.get_template(field).ok();
                let mut names: Vec<String> = template
                    .map(|template| template.undeclared_variables(false).into_iter().collect())
                    .unwrap_or_default();
                names.retain(|name| !row.contains_key(name));
                names.sort();
                let there = row.keys().map(String::as_str).collect::<Vec<_>>().join("`, `");
                match names.as_slice() {
                    [] => anyhow::anyhow!("{place}: {}", innermost(error)),
                    names => anyhow::anyhow!(
                        "{place}: there is no field `{}`; the row has `{there}`",
                        names.join("`, `")
                    ),
                }
            }
            _ => anyhow::anyhow!("{place}: {}", innermost(error)),
        }
    }
}

/// The innermost error tells what went wrong.
fn innermost(error: &minijinja::Error) -> String {
    let mut inner = error;
    while let Some(next) = std::error::Error::source(inner).and_then(|source| source.downcast_ref()) {
        inner = next;
    }
    let detail = inner.detail().map(|detail| format!(": {detail}")).unwrap_or_default();
    let line = inner.line().filter(|line| *line > 1).map(|line| format!(" (line {line})"));
    format!("{}{detail}{}", inner.kind(), line.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with(text: &str) -> (RowTemplates, Map<String, Value>) {
        let mut templates = RowTemplates::default();
        templates.add("doc_to_text", text).unwrap();
        let Value::Object(row) = json!({ "question": "Why? ", "n": 3, "choices": { "text": ["a", "b"] } })
        else {
            unreachable!()
        };
        (templates, row)
    }

    fn text(template: &str) -> Result<String, String> {
        let (templates, row) = with(template);
        templates.text("doc_to_text", &row).map_err(|error| error.to_string())
    }

    #[test]
    fn rows_become_texts() {
        assert_eq!(text("Question: {{question}}\nAnswer:\n").unwrap(), "Question: Why? \nAnswer:\n");
        assert_eq!(text("question").unwrap(), "Why? ");
        assert_eq!(text("n").unwrap(), "3");
        assert_eq!(text("{{ question.strip().split('h')[1] }}").unwrap(), "y?");
        assert_eq!(text("{{ choices.text[0] }}").unwrap(), "a");
        let (templates, row) = with("{{ choices.text }}");
        assert_eq!(templates.list("doc_to_text", &row).unwrap(), ["a", "b"]);
        let (templates, row) = with("{{ n }}");
        let error = templates.list("doc_to_text", &row).unwrap_err().to_string();
        assert_eq!(error, "`doc_to_text` must give a list of texts, and gives 3");
    }

    #[test]
    fn strangers_templates_are_bounded() {
        let error = text("{{ quesion }}").unwrap_err();
        let expected = "`doc_to_text`: there is no field `quesion`; the row has `question`, `n`, `choices`";
        assert_eq!(error, expected);
        for hostile in [
            "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
            "{{ range(1000000000) | list }}",
            "{{ 'x' * 1000000000 }}",
            "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
            "{% include '/etc/passwd' %}",
        ] {
            let error = text(hostile).unwrap_err();
            assert!(error.starts_with("`doc_to_text`"), "{hostile}: {error}");
        }
        let mut templates = RowTemplates::default();
        let error = templates.add("doc_to_text", "{{ a").unwrap_err();
        assert!(error.starts_with("is no valid template: syntax error"), "{error}");
        assert!(templates.add("doc_to_text", &"x".repeat(MAX_TEMPLATE + 1)).is_err());
    }
}
