//! The tasks that need no file of their own.

use std::sync::LazyLock;

use super::TaskDefinition;

/// Reads labels out of generations; which ones is for the recipe to say.
pub(in crate::params) const LABEL_TASK: &str = "labels";

macro_rules! texts {
    ($($name:literal)*) => { [$(include_str!(concat!("../../eval/tasks/", $name, ".yaml"))),*] };
}

static TASKS: LazyLock<Vec<TaskDefinition>> = LazyLock::new(|| {
    let texts = texts!(
        "gsm8k" "math"
        "boolq" "piqa" "siqa" "hellaswag" "winogrande" "arc_e" "arc_c" "obqa"
        "boolq_choices" "piqa_choices" "siqa_choices" "hellaswag_choices" "winogrande_choices"
        "arc_e_choices" "arc_c_choices" "obqa_choices"
        "perplexity" "target_perplexity"
        "labels"
    );
    texts.map(|text| serde_saphyr::from_str(text).expect("a test reads every shipped task")).into()
});

/// The shipped task of this name.
pub fn shipped_task(name: &str) -> Option<&'static TaskDefinition> {
    TASKS.iter().find(|task| task.task == name)
}

/// Every shipped task.
pub fn shipped_tasks() -> &'static [TaskDefinition] {
    &TASKS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        digest::Digest,
        params::{EvalParams, StepParams as _},
    };

    #[test]
    fn shipped_tasks_are_right() {
        for task in shipped_tasks() {
            assert_eq!(task.check(), [], "{}", task.task);
            assert!(!task.scores().is_empty(), "{}", task.task);
        }
    }

    /// Results are kept by the step's version, not by the text of shipped tasks. When this fails:
    /// raise the changed task's `metadata.version` and `EvalParams::VERSION`, then write both here.
    #[test]
    fn a_changed_task_needs_a_new_step_version() {
        let text = serde_json::to_string(shipped_tasks()).unwrap();
        let found = (EvalParams::VERSION, Digest::of_bytes(text.as_bytes()).short().to_owned());
        assert_eq!(found, (5, "3717fa0698f9".to_owned()));
    }
}
