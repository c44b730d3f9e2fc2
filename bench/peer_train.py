"""What bench/train.sh compares with: the same LoRA training in transformers and PEFT, on the same rows in
each step (`order=FILE`: our output), padded to the longest of their batch. Prints one JSON line."""

import json
import sys
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, rows, *options = sys.argv[1:]
options = dict(option.split("=", 1) for option in options)
steps, batch = int(options.get("steps", 8)), int(options.get("batch", 8))
cut, rank = int(options.get("max_len", 256)), int(options.get("r", 32))
dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[options.get("dtype", "f32")]
device = "cuda" if options.get("device", "").startswith("libtorch:cuda") else "cpu"

tokenizer = AutoTokenizer.from_pretrained(folder)
pad = tokenizer.eos_token_id
model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device)
model = get_peft_model(model, LoraConfig(
    r=rank, lora_alpha=2 * rank, lora_dropout=0.05, task_type="CAUSAL_LM",
    target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]))
model.train()
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-4)
prompt = ("Below is an instruction that describes a task. Write a response that appropriately completes the "
          "request.\n\n### Instruction:\n{}\n\n### Response:")


def example(row):
    question = tokenizer(prompt.format(row["question"]))["input_ids"]
    answer = tokenizer(row["answer"])["input_ids"] + [tokenizer.eos_token_id]
    return (question + answer)[:cut], ([-100] * len(question) + answer)[:cut]


with open(rows) as lines:
    examples = [example(json.loads(line)) for line, _ in zip(lines, range(batch * (steps + 1)))]
with open(options["order"]) as ours:
    order = json.loads(ours.readlines()[-1])["rows"]
real = labels = 0
for step in range(steps + 1):
    if step == 1:  # the first warms up
        start, real, labels = time.time(), 0, 0
    now = [examples[row] for row in order[step]]
    longest = max(len(ids) for ids, _ in now)
    fill = lambda values, filler: torch.tensor([v + [filler] * (longest - len(v)) for v in values], device=device)
    mask = fill([[1] * len(ids) for ids, _ in now], 0)
    targets = fill([target for _, target in now], -100)
    loss = model(input_ids=fill([ids for ids, _ in now], pad), attention_mask=mask, labels=targets).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    last = loss.item()
    real += int(mask.sum())
    labels += int((targets != -100).sum())
seconds = time.time() - start
peak = next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps(dict(peer="transformers + peft", seconds=seconds, loss=last, real_tokens_per_s=real / seconds,
                      label_tokens_per_s=labels / seconds, peak_rss_mib=peak)))
