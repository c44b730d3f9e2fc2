#!/usr/bin/env python3
"""Compares the evaluation engine with transformers on a real model, SmolLM2-135M, in f32.

    check-eval.py MODEL_DIR DATA_DIR WORK_DIR [device=flex] [questions=100] [items=200]

MODEL_DIR is a folder that both load, DATA_DIR holds `gsm8k/test.jsonl` and `commonsense/*/test.json`, WORK_DIR
takes what is made. Needs torch and transformers; runs `cargo bench --bench eval`.

1. Greedy continuations of GSM8K questions: each of our tokens, and each end, must be transformers' most
   likely one; listed are those whose rival is within 1e-4 of it.
2. Log-likelihoods of the choices of ARC-easy, ARC-challenge, BoolQ and PIQA must agree within 1e-3.
3. Four beams on the first questions must give the same tokens as transformers' `generate`.
"""
import json
import os
import re
import subprocess
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.append(f"{ROOT}/bench")
import peer_eval  # noqa: E402

NEW_TOKENS, BEAM_QUESTIONS, BEAM_TOKENS = 256, 8, 32
TASKS = ["arc_e", "arc_c", "boolq", "piqa"]


def ours(model, work, path, device):
    with open(path, "w") as file:
        json.dump(work, file)
    command = ["cargo", "bench", "-q", "--bench", "eval", "--", os.path.abspath(model), os.path.abspath(path), f"device={device}"]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def questions(task, data, count):
    """Contexts and the texts that may follow, out of LLM-Adapters' rows."""
    with open(f"{data}/commonsense/{task}/test.json") as file:
        rows = json.load(file)[:count]
    for row in rows:
        text = row["instruction"]
        if task == "boolq":
            question = re.search(r"question: (.*?)\n\nAnswer format", text, re.S).group(1)
            yield f"Question: {question}?\nAnswer:", [" yes", " no"]
            continue
        asked, listed = re.match(r"Please choose the correct \w+ to the question: (.*?)\n\n(.*?)\n\nAnswer format", text, re.S).groups()
        choices = [choice.strip() for choice in re.split(r"(?:Answer|Solution)\d: ", listed)[1:]]
        yield f"Question: {asked}\nAnswer:", [f" {choice}" for choice in choices]


@torch.no_grad()
def greedy(model, prompts, found, eos):
    """Our tokens against the most likely ones; gives those that are not."""
    compared, others = 0, []
    for row, (prompt, new) in enumerate(zip(prompts, found)):
        new = new + [eos] * (len(new) < NEW_TOKENS)
        logits = model(input_ids=torch.tensor([prompt + new])).logits[0, len(prompt) - 1:-1]
        compared += len(new)
        for place in (logits.argmax(-1) != torch.tensor(new)).nonzero()[:, 0].tolist():
            gap = (logits[place].max() - logits[place, new[place]]).item()
            others.append((row, place, gap))
    return compared, others


@torch.no_grad()
def main(folder, data, out, device="flex", count=100, items=200):
    os.makedirs(out, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids, eos = lambda text: tokenizer(text)["input_ids"], tokenizer.eos_token_id
    failed = False

    asked = peer_eval.json_lines(f"{data}/gsm8k/test.jsonl", count)
    prompts = [ids(peer_eval.PROMPT.format(row["question"])) for row in asked]
    work = dict(batch_size=16, prompts=prompts, max_new_tokens=NEW_TOKENS, stop_token_ids=[eos])
    compared, others = greedy(model, prompts, ours(folder, work, f"{out}/greedy.json", device)["tokens"], eos)
    print(f"greedy: {compared} tokens of {len(prompts)} questions compared, {len(others)} are not transformers' most likely")
    for row, place, gap in others:
        print(f"  question {row}, token {place}: behind the most likely by {gap:.1e}")
        failed |= gap > 1e-4

    for task in TASKS:
        made = [dict(context=ids(context), continuations=[ids(choice) for choice in choices])
                for context, choices in questions(task, data, items)]
        work = dict(batch_size=16, items=made)
        mine = ours(folder, work, f"{out}/{task}.json", device)["scores"]
        theirs = peer_eval.choices(model, work)
        pairs = [(a, b) for x, y in zip(mine, theirs) for a, b in zip(x, y)]
        far = max(abs(a[0] - b[0]) for a, b in pairs)
        same = sum(a[1] == b[1] for a, b in pairs)
        picks = sum(max(range(len(x)), key=lambda c: x[c][0]) == max(range(len(y)), key=lambda c: y[c][0]) for x, y in zip(mine, theirs))
        print(f"{task}: {len(made)} items, {len(pairs)} choices, largest difference of a log-likelihood {far:.1e}; "
              f"{same} of {len(pairs)} agree on being greedy, {picks} of {len(made)} on the best choice")
        failed |= not far < 1e-3

    work = dict(batch_size=16, beams=4, prompts=prompts[:BEAM_QUESTIONS], max_new_tokens=BEAM_TOKENS, stop_token_ids=[eos])
    mine = ours(folder, work, f"{out}/beams.json", device)["tokens"]
    theirs = peer_eval.generate(model, dict(work, batch_size=1))
    same = sum(a == b for a, b in zip(mine, theirs))
    print(f"beams: {same} of {len(mine)} continuations by 4 beams are the same")
    failed |= same < len(mine)
    sys.exit("the engine and transformers do not agree" if failed else 0)


if __name__ == "__main__":
    places = [arg for arg in sys.argv[1:] if "=" not in arg]
    options = dict(arg.split("=", 1) for arg in sys.argv[1:] if "=" in arg)
    main(*places, options.get("device", "flex"), int(options.get("questions", 100)), int(options.get("items", 200)))
