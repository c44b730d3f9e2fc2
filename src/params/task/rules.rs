//! What is wrong with a task that fits its types.

use super::{
    super::common::Problem,
    ChoiceTemplates, GenerationKwargs, OutputType, TaskDefinition,
    definition::{names_a_file, score_name},
};

/// Entries that a list of a task may have; what they ask for is done for each item.
const MOST_ENTRIES: usize = 64;

impl TaskDefinition {
    fn check_lengths(&self) -> Vec<Problem> {
        let mut lists = vec![
            ("filter_list".to_owned(), self.filter_list.len()),
            ("metric_list".to_owned(), self.metric_list.len()),
            ("generation_kwargs.until".to_owned(), self.generation_kwargs.until.len()),
        ];
        let filters = self.filter_list.iter().enumerate();
        lists.extend(filters.map(|(at, filter)| (format!("filter_list.{at}.filter"), filter.filter.len())));
        let metrics = self.metric_list.iter().enumerate();
        lists.extend(metrics.map(|(at, metric)| {
            (format!("metric_list.{at}.regexes_to_ignore"), metric.regexes_to_ignore.len())
        }));
        let mut problems: Vec<Problem> = lists
            .into_iter()
            .filter(|(_, length)| *length > MOST_ENTRIES)
            .map(|(field, length)| {
                Problem::new(field, format!("has {length} entries; at most {MOST_ENTRIES} are taken"))
            })
            .collect();
        if let Some(ChoiceTemplates::Each(texts)) = &self.doc_to_choice
            && texts.len() > Self::MAX_CHOICES
        {
            let message = format!("lists {} choices; at most {} are taken", texts.len(), Self::MAX_CHOICES);
            problems.push(Problem::new("doc_to_choice", message));
        }
        problems
    }

    /// Rules that the types alone cannot hold.
    pub fn check(&self) -> Vec<Problem> {
        let too_long = self.check_lengths();
        if !too_long.is_empty() {
            return too_long;
        }
        let mut problems = self.templates().err().unwrap_or_default();
        // The examples' fields repeat the question's where they are not given.
        problems.retain(|problem| {
            !(problem.field == "fewshot_config.doc_to_text" && self.fewshot_config.doc_to_text.is_none()
                || problem.field == "fewshot_config.doc_to_target"
                    && self.fewshot_config.doc_to_target.is_none())
        });
        if !names_a_file(&self.task) {
            problems.push(
                Problem::new("task", format!("`{}` cannot name a file", self.task))
                    .hint("use letters, digits, `_` and `-`"),
            );
        }
        problems.extend(self.check_data());
        let chooses = self.output_type == OutputType::MultipleChoice;
        let output = self.output_type.name();
        match &self.doc_to_choice {
            None if chooses => {
                problems.push(Problem::new("output_type", "`multiple_choice` needs `doc_to_choice`"));
            }
            Some(_) if !chooses => {
                problems.push(Problem::new("doc_to_choice", "is only for `output_type: multiple_choice`"));
            }
            Some(ChoiceTemplates::Each(texts)) if texts.len() < 2 => {
                problems.push(Problem::new("doc_to_choice", "lists fewer than two choices"));
            }
            _ => {}
        }
        if self.output_type != OutputType::GenerateUntil {
            if !self.filter_list.is_empty() {
                problems.push(Problem::new("filter_list", "is only for `output_type: generate_until`"));
            }
            if self.generation_kwargs != GenerationKwargs::default() {
                problems.push(Problem::new("generation_kwargs", "is only for `output_type: generate_until`"));
            }
        }
        if self.output_type == OutputType::LoglikelihoodRolling {
            if !self.doc_to_text.is_empty() || !self.description.is_empty() {
                problems.push(
                    Problem::new("doc_to_text", format!("must be empty with `output_type: {output}`"))
                        .hint("the text goes into `doc_to_target`; `loglikelihood` has both"),
                );
            }
            if self.num_fewshot > 0 {
                problems.push(Problem::new("num_fewshot", format!("must be 0 with `output_type: {output}`")));
            }
        }
        if self.num_fewshot > Self::MAX_FEWSHOT {
            problems.push(Problem::new("num_fewshot", format!("must be at most {}", Self::MAX_FEWSHOT)));
        }
        if self.output_type == OutputType::GenerateUntil {
            problems.extend(self.generation_kwargs.check());
        }
        let mut twice = false;
        for (index, filter) in self.filter_list.iter().enumerate() {
            problems.extend(filter.check(&format!("filter_list.{index}")));
            if self.filter_list[..index].iter().any(|other| other.name == filter.name) {
                twice = true;
                let message = format!("filter `{}` is listed twice", filter.name);
                problems.push(Problem::new(format!("filter_list.{index}.name"), message));
            }
        }
        let filters: Vec<&str> = self.filter_list.iter().map(|filter| filter.name.as_str()).collect();
        for (index, metric) in self.metric_list.iter().enumerate() {
            problems.extend(metric.check(&format!("metric_list.{index}"), self.output_type, &filters));
        }
        let mut keys = Vec::new();
        for (metric, filter) in self.scores() {
            let key = score_name(metric.metric, &filter);
            // Of a filter that is there twice, that was said.
            if keys.contains(&key) && !twice {
                problems.push(
                    Problem::new("metric_list", format!("`{key}` is measured twice"))
                        .hint("`filters: [...]` says which filters a metric is for"),
                );
            }
            keys.push(key);
        }
        if let Some(primary) = &self.metadata.primary_metric
            && !keys.contains(primary)
        {
            let hint = crate::diagnostic::suggest(primary, keys.iter().map(String::as_str));
            let problem = Problem::new("metadata.primary_metric", format!("there is no score `{primary}`"));
            problems.push(match hint {
                Some(hint) => problem.hint(hint),
                None => problem,
            });
        }
        problems
    }

    fn check_data(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let files = self.dataset_kwargs.as_ref().map(|data| &data.data_files);
        if self.dataset_path.is_some() != files.is_some() {
            let (given, missing) = match files {
                Some(_) => ("dataset_kwargs", "`dataset_path: json`"),
                None => ("dataset_path", "`dataset_kwargs: {data_files: {...}}`"),
            };
            problems.push(Problem::new(given, format!("`{given}` needs {missing} beside it")));
        }
        let Some(files) = files else { return problems };
        if self.test_split.is_none() && self.validation_split.is_none() {
            problems.push(Problem::new("dataset_kwargs", "a task with rows of its own needs `test_split`"));
        }
        let splits = [
            ("test_split", &self.test_split),
            ("validation_split", &self.validation_split),
            ("training_split", &self.training_split),
            ("fewshot_split", &self.fewshot_split),
        ];
        for (field, split) in splits {
            if let Some(split) = split
                && !files.contains_key(split)
            {
                let problem = Problem::new(field, format!("`data_files` has no split `{split}`"));
                let hint = crate::diagnostic::suggest(split, files.keys().map(String::as_str));
                problems.push(hint.into_iter().fold(problem, Problem::hint));
            }
        }
        problems
    }
}
