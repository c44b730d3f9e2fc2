//! Templates. They may come from strangers: no file access, bounded work, undefined names are
//! errors.

use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value, syntax::SyntaxConfig, value::Serde};
use serde::Serialize;

/// Instructions a template may use; a report of hundreds of rows needs some hundred thousand.
const FUEL: u64 = 5_000_000;

/// A template and the kind of document that it makes.
#[derive(Debug, Clone)]
pub struct Template<'t> {
    /// File name, e.g. `report.md.j2`; its inner ending chooses the escaping.
    pub name: &'t str,
    /// The text.
    pub text: &'t str,
}

impl Template<'_> {
    /// The ending of the document: `md` for `report.md.j2`.
    pub fn ending(&self) -> &str {
        let inner =
            self.name.strip_suffix(".j2").or_else(|| self.name.strip_suffix(".jinja")).unwrap_or(self.name);
        inner.rsplit_once('.').map_or("md", |(_, ending)| ending)
    }
}

/// Renders a template.
///
/// # Errors
/// When it is wrong, uses a name that does not exist, or works without end; with name and line.
pub fn render(template: &Template, context: &impl Serialize) -> anyhow::Result<String> {
    let html = matches!(template.ending(), "html" | "htm");
    let mut env = Environment::new();
    env.set_fuel(Some(FUEL));
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    let mut syntax = SyntaxConfig::builder();
    syntax.keep_trailing_newline(true).trim_blocks(true).lstrip_blocks(true);
    env.set_syntax(syntax.build().expect("the delimiters are the default ones"));
    env.set_auto_escape_callback(move |_| if html { AutoEscape::Html } else { AutoEscape::None });
    env.add_filter("percent", percent);
    env.add_filter("score", score);
    env.add_filter("fixed", |value: f64, digits: usize| format!("{value:.*}", digits.min(12)));
    env.add_filter("cell", |text: String| text.replace('|', "\\|").replace(['\n', '\r'], " "));
    env.add_filter("tex", tex);
    env.add_filter("json", |value: Value| serde_json::to_string(&value).unwrap_or_default());
    let wrong = |error: minijinja::Error| {
        let place = error.line().map(|line| format!(":{line}")).unwrap_or_default();
        anyhow::anyhow!("template `{}{place}`: {error}", template.name)
    };
    env.add_template(template.name, template.text).map_err(wrong)?;
    env.get_template(template.name).and_then(|found| found.render(Serde(context))).map_err(wrong)
}

fn percent(value: f64) -> String {
    format!("{:.1}", 100.0 * value)
}

/// A share in %, or another score as it is; there is none between two that are both too large for a number.
fn score(value: f64, share: bool) -> String {
    match (value.is_nan(), share) {
        (true, _) => "–".to_owned(),
        (_, true) => percent(value),
        (_, false) => format!("{value:.3}"),
    }
}

fn tex(text: String) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\textbackslash{}"),
            '~' => out.push_str("\\textasciitilde{}"),
            '^' => out.push_str("\\textasciicircum{}"),
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn with(text: &str) -> Result<String, String> {
        render(&Template { name: "a.md.j2", text }, &json!({ "x": "a|b\nc", "n": 0.125 }))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn filters_escape_for_their_format() {
        assert_eq!(with("{{ x | cell }} {{ n | percent }} {{ n | fixed(2) }}").unwrap(), "a\\|b c 12.5 0.12");
        let scores =
            [score(0.125, true), score(12.5, false), score(f64::INFINITY, false), score(f64::NAN, false)];
        assert_eq!(scores, ["12.5", "12.500", "inf", "–"]);
        assert_eq!(tex("50% of a_b & \\".to_owned()), "50\\% of a\\_b \\& \\textbackslash{}");
        let html = Template { name: "a.html.j2", text: "{{ x }}" };
        assert_eq!(render(&html, &json!({ "x": "<b>" })).unwrap(), "&lt;b&gt;");
    }

    #[test]
    fn hostile_and_wrong_templates_end_with_an_error() {
        let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{{ a }}{% endfor %}{% endfor %}";
        assert!(with(endless).unwrap_err().contains("a.md.j2"));
        let message = with("one\n{{ nothing }}").unwrap_err();
        assert!(message.contains("a.md.j2:2"), "{message}");
        assert!(with("{% include '/etc/passwd' %}").is_err());
        assert!(with("{{ x").unwrap_err().contains("a.md.j2:1"));
    }
}
