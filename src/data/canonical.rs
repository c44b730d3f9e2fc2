//! From a source's rows to the canonical fields `instruction`, `input`, `output`, `answer` and
//! `text`.

use std::collections::BTreeMap;

use anyhow::{bail, ensure};
use serde_json::{Value, json};

use super::{
    gsm8k_answer, last_boxed,
    read::{Row, kind},
};
use crate::{error::hinted, params::DatasetFormat};

/// The canonical form of a row. `place` (file and 1-based row) stands in errors.
///
/// # Errors
/// When a mapped field is missing or is not a text.
pub fn canonical(
    row: &Row,
    format: DatasetFormat,
    fields: &BTreeMap<String, String>,
    place: &str,
) -> anyhow::Result<Row> {
    let source = |canonical: &str, default: &str| -> String {
        fields.get(canonical).cloned().unwrap_or_else(|| default.to_owned())
    };
    let optional = |name: &str| -> anyhow::Result<Option<String>> {
        match row.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => bail!("{place}: field `{name}` is {}, not a text", kind(other)),
        }
    };
    let required = |name: &str| -> anyhow::Result<String> {
        optional(name)?.ok_or_else(|| {
            let there = row.keys().map(String::as_str).collect::<Vec<_>>().join("`, `");
            hinted(
                format!("{place}: there is no field `{name}`; the row has `{there}`"),
                "name the right fields with `fields: {instruction: ..., output: ...}`",
            )
        })
    };
    // A field that the recipe names must be there; a default name may be missing.
    let named = |canonical: &str| -> anyhow::Result<Option<String>> {
        match fields.get(canonical) {
            Some(name) => required(name).map(Some),
            None => optional(canonical),
        }
    };
    let mut out = Row::new();
    let mut put = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            out.insert(name.to_owned(), json!(value));
        }
    };
    match format {
        DatasetFormat::Text => put("text", Some(required(&source("text", "text"))?)),
        DatasetFormat::Alpaca => {
            put("instruction", Some(required(&source("instruction", "instruction"))?));
            put("input", Some(named("input")?.unwrap_or_default()));
            put("output", Some(required(&source("output", "output"))?));
            put("answer", named("answer")?);
        }
        DatasetFormat::MetaMath => {
            let query = required(&source("instruction", "query"))?;
            let (instruction, input) = query.split_once('\n').unwrap_or((&query, ""));
            put("instruction", Some(instruction.to_owned()));
            put("input", Some(input.to_owned()));
            put("output", Some(required(&source("output", "response"))?));
            put("answer", named("answer")?);
        }
        DatasetFormat::Gsm8k => {
            put("instruction", Some(required(&source("instruction", "question"))?));
            put("input", Some(String::new()));
            let output = required(&source("output", "answer"))?;
            let answer = gsm8k_answer(&output);
            ensure!(answer.is_some(), "{place}: field `answer` has no `#### ` before its final number");
            put("output", Some(output.clone()));
            put("answer", answer);
        }
        DatasetFormat::Math => {
            put("instruction", Some(required(&source("instruction", "problem"))?));
            put("input", Some(String::new()));
            let output = required(&source("output", "solution"))?;
            let answer = last_boxed(&output).map(str::to_owned);
            ensure!(answer.is_some(), "{place}: field `solution` has no `\\boxed{{...}}` around its answer");
            put("output", Some(output));
            put("answer", answer);
        }
        DatasetFormat::Raw => return Ok(row.clone()),
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn convert(row: Value, format: DatasetFormat, fields: &[(&str, &str)]) -> Result<Value, String> {
        let Value::Object(row) = row else { panic!("an object") };
        let fields = fields.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect();
        canonical(&row, format, &fields, "data.json, row 3").map(Value::Object).map_err(|e| e.to_string())
    }

    /// trans-peft-facts.md 5.3.
    #[test]
    fn a_metamath_query_is_split_at_its_first_newline() {
        for (query, instruction, input) in [
            ("What is 1+1?", "What is 1+1?", ""),
            ("Line one\nLine two\nLine three", "Line one", "Line two\nLine three"),
            ("Q\n", "Q", ""),
        ] {
            let got =
                convert(json!({"query": query, "response": "2"}), DatasetFormat::MetaMath, &[]).unwrap();
            assert_eq!(got, json!({"instruction": instruction, "input": input, "output": "2"}));
        }
    }

    #[test]
    fn fields_are_mapped_and_missing_ones_named_with_the_row() {
        let row = json!({"q": "Why?", "a": "So.", "n": 3});
        let mapping = [("instruction", "q"), ("output", "a")];
        let got = convert(row.clone(), DatasetFormat::Alpaca, &mapping).unwrap();
        assert_eq!(got, json!({"instruction": "Why?", "input": "", "output": "So."}));
        let message = convert(row.clone(), DatasetFormat::Alpaca, &[]).unwrap_err();
        assert_eq!(message, "data.json, row 3: there is no field `instruction`; the row has `q`, `a`, `n`");
        let typo = [mapping[0], mapping[1], ("input", "contxt")];
        let message = convert(row.clone(), DatasetFormat::Alpaca, &typo).unwrap_err();
        assert!(message.contains("row 3: there is no field `contxt`"), "{message}");
        let message = convert(row, DatasetFormat::Alpaca, &[("instruction", "n")]).unwrap_err();
        assert_eq!(message, "data.json, row 3: field `n` is a number, not a text");
    }

    #[test]
    fn gsm8k_rows_get_their_final_answer() {
        let row = json!({"question": "How many?", "answer": "2*600=1200\n#### 1,200"});
        let got = convert(row, DatasetFormat::Gsm8k, &[]).unwrap();
        assert_eq!(got["answer"], "1200");
        let row = json!({"question": "How many?", "answer": "many"});
        assert!(convert(row, DatasetFormat::Gsm8k, &[]).is_err());
    }

    #[test]
    fn math_rows_get_their_final_answer() {
        let row = json!({"problem": "Why?", "solution": r"So $\boxed{\frac{1}{2}}$.", "level": "Level 1"});
        let got = convert(row.clone(), DatasetFormat::Math, &[]).unwrap();
        assert_eq!((&got["instruction"], &got["answer"]), (&json!("Why?"), &json!(r"\frac{1}{2}")));
        assert_eq!(convert(row.clone(), DatasetFormat::Raw, &[]).unwrap(), row);
        let row = json!({"problem": "Why?", "solution": "So."});
        let message = convert(row, DatasetFormat::Math, &[]).unwrap_err();
        assert_eq!(message, r"data.json, row 3: field `solution` has no `\boxed{...}` around its answer");
    }
}
