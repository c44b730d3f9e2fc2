//! Prompts, byte for byte. Sources: Trans-PEFT's `train.py` (Alpaca without a trailing space) and
//! LLM-Adapters' `finetune.py` (the indented variants).

use crate::params::PromptTemplate;

const PLAIN_TASK: &str = "Below is an instruction that describes a task. Write a response that appropriately completes the request.";
const INPUT_TASK: &str = "Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request.";
/// LLM-Adapters' prompts are indented Python literals, and keep the indentation.
const INDENT: &str = "                ";

/// The text before the model's answer, as in training; for a chat, what the user says in it.
pub fn prompt(template: PromptTemplate, instruction: &str, input: &str) -> String {
    let has_input = !input.is_empty();
    match template {
        PromptTemplate::Alpaca if has_input => {
            format!("{INPUT_TASK}\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:")
        }
        PromptTemplate::Alpaca => {
            format!("{PLAIN_TASK}\n\n### Instruction:\n{instruction}\n\n### Response:")
        }
        PromptTemplate::AlpacaIndented if has_input => format!(
            "{INPUT_TASK} \n\n{INDENT}### Instruction:\n{INDENT}{instruction}\n{INDENT}\n{INDENT}### Input:\n{INDENT}{input}\n{INDENT}\n{INDENT}### Response:\n{INDENT}"
        ),
        PromptTemplate::AlpacaIndented => format!(
            "{PLAIN_TASK}  \n\n{INDENT}### Instruction:\n{INDENT}{instruction}\n{INDENT}\n{INDENT}### Response:\n{INDENT}"
        ),
        PromptTemplate::Plain | PromptTemplate::Chat if has_input => format!("{instruction}\n{input}"),
        PromptTemplate::Plain | PromptTemplate::Chat => instruction.to_owned(),
        // Documents have no prompt.
        PromptTemplate::Text | PromptTemplate::Document => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alpaca_ends_at_the_colon() {
        let text = prompt(PromptTemplate::Alpaca, "What is 1+1?", "");
        assert_eq!(
            text,
            "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n### Instruction:\nWhat is 1+1?\n\n### Response:"
        );
        // The reference's example: 151 characters for a 12-character question.
        assert_eq!(text.len(), 151);
        let text = prompt(PromptTemplate::Alpaca, "A", "B");
        assert!(text.ends_with("\n\n### Instruction:\nA\n\n### Input:\nB\n\n### Response:"));
    }

    #[test]
    fn the_indented_prompts_keep_their_spaces() {
        let text = prompt(PromptTemplate::AlpacaIndented, "A", "");
        let expected = "the request.  \n\n                ### Instruction:\n                A\n                \n                ### Response:\n                ";
        assert!(text.ends_with(expected), "{text:?}");
    }
}
