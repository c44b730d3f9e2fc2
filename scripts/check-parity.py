#!/usr/bin/env python3
"""Compares evergraft with transformers and peft on a real model, SmolLM2-135M, in f32.

    check-parity.py EVERGRAFT MODEL.gguf WORK

EVERGRAFT is the program, MODEL.gguf the file that scripts/fetch-smollm2.sh gets, WORK a folder for
everything that is made. Needs torch, transformers, peft and safetensors.

1. Training: 20 optimizer steps of LoRA and of DoRA on the same rows from the same initial adapter,
   without dropout. The loss of every step must agree within 1e-3, relative.
2. peft loads evergraft's adapters, and gives the logits of the adapter that torch trained.
3. transformers loads what `merge` wrote, and gives the logits of base plus adapter.
4. Writes WORK/smollm2 with the base, the adapter and what transformers and peft compute, for
   `EVERGRAFT_SMOLLM2=WORK/smollm2 cargo test --test it -- --ignored smollm2`.
"""
import json
import os
import shutil
import subprocess
import sys

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

STEPS, LR = 20, 1e-3
TEXTS = ["Once upon a time", "The capital of France is", "def fib(n):\n    if n < 2:\n        return"]
ROWS = [
    ("Name the largest planet.", "Jupiter is the largest planet of the solar system."),
    ("What is 7 times 8?", "7 times 8 is 56."),
    ("Translate `good morning` into German.", "Guten Morgen."),
    ("Which gas do plants take in?", "Plants take in carbon dioxide."),
]
RECIPE = """version: 1
name: parity
defaults: {{ device: flex }}
steps:
  base: {{ uses: base, with: {{ source: {gguf} }} }}
  rows: {{ uses: dataset, with: {{ source: rows.jsonl, format: alpaca }} }}
  tokens: {{ uses: tokenize, with: {{ base: "${{{{ steps.base }}}}", dataset: "${{{{ steps.rows }}}}", prompt: plain, max_seq_length: 48, train_on_inputs: false }} }}
  train:
    uses: train
    # One step at a rate of nothing leaves the initial adapter.
    matrix:
      method: [{{ name: lora, dora: false }}, {{ name: dora, dora: true }}]
      length: [{{ name: initial, steps: 1, lr: 1e-30 }}, {{ name: full, steps: {steps}, lr: {lr} }}]
    with:
      base: "${{{{ steps.base }}}}"
      tokens: "${{{{ steps.tokens }}}}"
      adapter: {{ type: lora, r: 8, lora_alpha: 16, lora_dropout: 0, use_dora: "${{{{ matrix.method.dora }}}}", target_modules: all-linear }}
      # Every step sees all rows, so their order does not matter.
      optimizer: {{ learning_rate: "${{{{ matrix.length.lr }}}}", lr_scheduler_type: constant, warmup_ratio: 0, max_steps: "${{{{ matrix.length.steps }}}}", per_device_train_batch_size: {rows}, logging_steps: 1 }}
  merged: {{ uses: merge, with: {{ adapter: "${{{{ steps.train }}}}" }} }}
"""


def evergraft(program, work, *args):
    env = dict(os.environ, EVERGRAFT_CACHE_DIR=f"{work}/cache", EVERGRAFT_NO_PROGRESS="1")
    return subprocess.run([program, *args], cwd=work, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout


def batch(path):
    """The rows of a tokenize step, padded on the right."""
    file = load_file(f"{path}/tokens.safetensors")
    bounds = file["offsets"].tolist()
    rows = [slice(a, b) for a, b in zip(bounds, bounds[1:])]
    pad = lambda values, fill: torch.nn.utils.rnn.pad_sequence(
        [values[row].long() for row in rows], batch_first=True, padding_value=fill)
    ids, labels = pad(file["input_ids"], 0), pad(file["labels"], -100)
    mask = pad(torch.ones_like(file["input_ids"]), 0)
    return dict(input_ids=ids, labels=labels, attention_mask=mask)


def train(model, data):
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=LR, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    losses = []
    for _ in range(STEPS):
        loss = model(**data).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def logits(model, data):
    return model.eval()(input_ids=data["input_ids"], attention_mask=data["attention_mask"]).logits[data["labels"] != -100]


@torch.no_grad()
def expectations(model, tokenizer, path):
    """What transformers computes at the last position of each text, and its greedy continuation."""
    out = []
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        last = model.eval()(torch.tensor([ids])).logits[0, -1]
        new = model.generate(input_ids=torch.tensor([ids]), max_new_tokens=32, min_new_tokens=32, do_sample=False)[0][len(ids):]
        out.append(dict(text=text, input_ids=ids, logits=[last.tolist()], greedy=new.tolist()))
    with open(path, "w") as file:
        json.dump(out, file)


def check(what, difference, limit):
    print(f"{what}: {difference:.1e} (limit {limit:.0e})", flush=True)
    if not difference <= limit:
        sys.exit(f"{what} is not within {limit}")


def main(program, gguf, work):
    os.makedirs(work, exist_ok=True)
    program, gguf = os.path.abspath(program), os.path.abspath(gguf)
    with open(f"{work}/rows.jsonl", "w") as file:
        file.writelines(json.dumps(dict(instruction=q, output=a)) + "\n" for q, a in ROWS)
    with open(f"{work}/recipe.yaml", "w") as file:
        file.write(RECIPE.format(gguf=gguf, steps=STEPS, lr=LR, rows=len(ROWS)))
    evergraft(program, work, "run", "recipe.yaml")
    path = {step["step"]: step["path"] for step in json.loads(evergraft(program, work, "ls", "recipe.yaml", "--format", "json"))}
    data = batch(path["tokens"])
    load = lambda folder: AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    for method in ["lora", "dora"]:
        cell = lambda step, length: path[f"{step}[method={method},length={length}]"]
        with open(f"{cell('train', 'full')}/metrics.jsonl") as file:
            ours = [json.loads(line)["loss"] for line in file]
        model = PeftModel.from_pretrained(load(path["base"]), cell("train", "initial"), is_trainable=True)
        theirs = train(model.train(), data)
        assert len(ours) == len(theirs) == STEPS, (len(ours), len(theirs))
        print(f"{method}: loss {ours[0]:.6f} and {theirs[0]:.6f} at first, {ours[-1]:.6f} and {theirs[-1]:.6f} at last")
        check(f"{method}: largest relative difference of a loss", max(abs(a - b) / b for a, b in zip(ours, theirs)), 1e-3)
        torch_trained = logits(model, data)
        ours = PeftModel.from_pretrained(load(path["base"]), cell("train", "full"))
        of_ours = logits(ours, data)
        scale = torch_trained.abs().max()
        check(f"{method}: logits of our adapter in peft and of torch's, relative", float((of_ours - torch_trained).abs().max() / scale), 1e-3)
        merged = logits(load(cell("merged", "full")), data)
        check(f"{method}: logits of the merged model and of base plus adapter", float((merged - of_ours).abs().max()), 1e-3)
    folder = f"{work}/smollm2"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(path["base"], folder, copy_function=shutil.copyfile)
    shutil.copyfile(gguf, f"{folder}/{os.path.basename(gguf)}")
    shutil.copytree(cell("train", "full"), f"{folder}/adapter", copy_function=shutil.copyfile)
    tokenizer = AutoTokenizer.from_pretrained(path["base"])
    expectations(load(path["base"]), tokenizer, f"{folder}/expected.json")
    expectations(ours, tokenizer, f"{folder}/adapter/expected.json")


if __name__ == "__main__":
    main(*sys.argv[1:])
