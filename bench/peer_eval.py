"""What bench/eval.sh compares with: the same evaluation in transformers, on the same tokens.

    peer_eval.py make MODEL_DIR DATA_DIR WORK_DIR [limit=N]   writes the workloads
    peer_eval.py run MODEL_DIR WORK.json [dtype=f32]          runs one; prints one JSON line

DATA_DIR holds `gsm8k/{train,test}.jsonl` and `commonsense/arc_c/test.json`. The workloads: `fixed` (GSM8K
prompts, every continuation equally long), `stops` (they end where the model ends them), `fewshot` (five
solved questions before each), `choices` (log-likelihoods of ARC-challenge answers). Generation runs in
batches padded on the left; choices are rows of context and continuation padded on the right.
"""
import json
import os
import re
import sys
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

BATCH = 16
PROMPT = ("Below is an instruction that describes a task. Write a response that appropriately completes the "
          "request.\n\n### Instruction:\n{}\n\n### Response:")


def json_lines(path, count):
    with open(path) as file:
        return [json.loads(line) for line, _ in zip(file, range(count))]


def multiple_choice(path, count):
    """Questions with the texts of their answers, from LLM-Adapters' form."""
    with open(path) as file:
        rows = json.load(file)[:count]
    for row in rows:
        question, answers = re.match(
            r"Please choose the correct answer to the question: (.*?)\n\n(Answer1: .*)\n\nAnswer format", row["instruction"], re.S).groups()
        yield question, re.split(r"\s*Answer\d: ", answers)[1:]


def make(folder, data, out, limit):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = lambda text: tokenizer(text)["input_ids"]
    eos = tokenizer.eos_token_id
    test = [row["question"] for row in json_lines(f"{data}/gsm8k/test.jsonl", 4 * limit)]
    solved = json_lines(f"{data}/gsm8k/train.jsonl", 5)
    shots = "".join(f"Question: {row['question']}\nAnswer: {row['answer']}\n\n" for row in solved)
    items = [dict(context=ids(f"Question: {question}\nAnswer:"), continuations=[ids(f" {answer}") for answer in answers])
             for question, answers in multiple_choice(f"{data}/commonsense/arc_c/test.json", 16 * limit)]
    generation = lambda prompts, new, stops: dict(
        batch_size=BATCH, prompts=[ids(prompt) for prompt in prompts], max_new_tokens=new, stop_token_ids=stops)
    works = dict(
        fixed=generation([PROMPT.format(question) for question in test[:2 * limit]], 64, []),
        stops=generation([PROMPT.format(question) for question in test], 256, [eos]),
        fewshot=generation([f"{shots}Question: {question}\nAnswer:" for question in test[:limit]], 64, []),
        choices=dict(batch_size=BATCH, items=items))
    os.makedirs(out, exist_ok=True)
    for name, work in works.items():
        with open(f"{out}/{name}.json", "w") as file:
            json.dump(work, file)


def generate(model, work):
    prompts, new, stops = work["prompts"], work["max_new_tokens"], work["stop_token_ids"]
    # Without end tokens every continuation is as long as asked for.
    model.generation_config.eos_token_id = stops or None
    out = []
    for start in range(0, len(prompts), work["batch_size"]):
        batch = prompts[start:start + work["batch_size"]]
        longest = max(map(len, batch))
        ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in batch])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in batch])
        found = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=new, do_sample=False, pad_token_id=0,
                               num_beams=work.get("beams", 1))
        for row in found[:, longest:].tolist():
            ends = [at for at, token in enumerate(row) if token in stops]
            out.append(row[:ends[0]] if ends else row)
    return out


def choices(model, work):
    rows = [(item["context"], continuation) for item in work["items"] for continuation in item["continuations"]]
    order = sorted(range(len(rows)), key=lambda at: -len(rows[at][0]) - len(rows[at][1]))
    scores = [None] * len(rows)
    for start in range(0, len(order), work["batch_size"]):
        batch = order[start:start + work["batch_size"]]
        whole = [rows[at][0] + rows[at][1] for at in batch]
        longest = max(map(len, whole))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in whole])
        log_p = model(input_ids=ids).logits.float().log_softmax(-1)
        for row, at in enumerate(batch):
            context, continuation = rows[at]
            part = log_p[row, len(context) - 1:len(context) + len(continuation) - 1]
            wanted = torch.tensor(continuation)
            scores[at] = [part.gather(1, wanted[:, None]).double().sum().item(), bool((part.argmax(-1) == wanted).all())]
    scores = iter(scores)
    return [[next(scores) for _ in item["continuations"]] for item in work["items"]]


@torch.no_grad()
def run(folder, path, dtype):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype={"f32": torch.float32, "bf16": torch.bfloat16}[dtype]).eval()
    with open(path) as file:
        work = json.load(file)
    model(input_ids=torch.tensor([[1]]))
    start = time.time()
    tokens = generate(model, work) if "prompts" in work else []
    scores = choices(model, work) if "items" in work else []
    seconds = time.time() - start
    new = sum(map(len, tokens))
    print(json.dumps(dict(peer="transformers", seconds=seconds, new_tokens=new, tokens_per_s=new / seconds,
                          items_per_s=len(scores) / seconds, tokens=tokens, scores=scores)))


if __name__ == "__main__":
    what, *places = [arg for arg in sys.argv[1:] if "=" not in arg]
    options = dict(arg.split("=", 1) for arg in sys.argv[1:] if "=" in arg)
    if what == "make":
        make(*places, int(options.get("limit", 16)))
    else:
        run(*places, options.get("dtype", "f32"))
