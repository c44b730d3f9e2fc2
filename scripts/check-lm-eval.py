#!/usr/bin/env python3
"""Compares an evaluation with lm_eval's of the same rows, with the same task files.

    pip install lm_eval==0.4.13 transformers torch
    check-lm-eval.py BASE ARTIFACT TASK=ROWS...

BASE is the Hugging Face folder of the base that was scored, ARTIFACT the folder with its `results.json`
(`evergraft ls`), TASK a shipped task by log-likelihood (`arc_e_choices`), ROWS the file behind its dataset, of
which the first rows were scored. Prints both scores, and the largest difference of a log-likelihood; ends
with 1 where a score differs.
"""
import gzip
import json
import os
import sys
import tempfile

import lm_eval
import yaml
from lm_eval.tasks import TaskManager

TASKS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../src/eval/tasks")


def read_rows(path):
    with (gzip.open if path.endswith(".gz") else open)(path, "rt") as file:
        text = file.read()
    return json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]


def read_samples(artifact, task):
    with open(f"{artifact}/samples_{task}.jsonl") as file:
        return [json.loads(line) for line in file]


def write_task(folder, task, rows, count):
    """The shipped task file, with its rows named in lm-eval's way."""
    with open(f"{TASKS}/{task}.yaml") as file:
        about = yaml.safe_load(file)
    path = f"{folder}/{task}.jsonl"
    with open(path, "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in read_rows(rows)[:count])
    about |= {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": path}}, "test_split": "test"}
    about.setdefault("doc_to_text", "")
    # Ours alone.
    about["metric_list"] = [metric for metric in about["metric_list"] if metric["metric"] != "token_perplexity"]
    about["metadata"].pop("trained_with", None)
    with open(f"{folder}/{task}.yaml", "w") as file:
        yaml.safe_dump(about, file, allow_unicode=True)


def main():
    base, artifact, *pairs = sys.argv[1:]
    rows = dict(pair.split("=", 1) for pair in pairs)
    ours = json.load(open(f"{artifact}/results.json"))["results"]
    samples = {task: read_samples(artifact, task) for task in rows}
    with tempfile.TemporaryDirectory() as folder:
        for task, path in rows.items():
            write_task(folder, task, path, len(samples[task]))
        theirs = lm_eval.simple_evaluate(
            model="hf", model_args=f"pretrained={base},dtype=float32", tasks=list(rows), device="cpu", batch_size=8,
            task_manager=TaskManager(include_path=folder, include_defaults=False), bootstrap_iters=0)
    differs = False
    for task in rows:
        worst = 0.0
        for sample in theirs["samples"][task]:
            likely = [value[0] for value in samples[task][sample["doc_id"]]["resps"]]
            found = [float(response[0][0] if isinstance(response[0], (list, tuple)) else response[0])
                     for response in sample["resps"]]
            # A text is one number in lm-eval, and one for each window here.
            likely = likely if len(likely) == len(found) else [sum(likely)]
            worst = max([worst] + [abs(a - b) for a, b in zip(likely, found)])
        for key, value in theirs["results"][task].items():
            if key in ours[task] and isinstance(value, float):
                same = abs(value - ours[task][key]) <= 1e-5 * abs(value)
                differs |= not same
                print(f"{task} {key}: lm_eval {value:.6f}, here {ours[task][key]:.6f}{'' if same else '  DIFFERS'}")
        print(f"{task}: {len(samples[task])} rows, largest difference of a log-likelihood {worst:.2e}")
    sys.exit(differs)


main()
