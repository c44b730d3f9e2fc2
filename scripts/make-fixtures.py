#!/usr/bin/env python3
"""Makes the committed tiny models of tests/fixtures/models, with what transformers computes on them.

    make-fixtures.py tiny tests/fixtures/models      all of them
    make-fixtures.py architectures tests/fixtures/models       one of every architecture
    make-fixtures.py adapters tests/fixtures/models tests/fixtures/models   an adapter of every kind
    make-fixtures.py blocks tests/fixtures/gguf-blocks.json    what gguf reads out of quantised blocks

Needs torch, transformers, peft, safetensors and gguf (made with torch 2.9.0, transformers 5.23.0,
peft 0.21.2). Everything is drawn from fixed seeds.
"""
import json
import os
import sys

import numpy as np
import torch

PROMPTS = [[5, 17, 3, 42, 8, 61, 30, 2, 11, 29, 50], [9, 33, 21, 7, 44, 12, 60]]
SHAPE = dict(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.2, bos_token_id=1, eos_token_id=0,
)


def expected(model, path, greedy=16, cached=False):
    """Logits of every position of every prompt, and a greedy continuation of each: computed anew for
    every token, and where `cached` says so also with transformers' key-value cache. Gives False when two
    tokens were so close that comparing the choice would be a matter of rounding."""
    model.eval()
    out = []
    for ids in PROMPTS:
        with torch.no_grad():
            x = torch.tensor([ids])
            logits = model(x, use_cache=False).logits[0]
            new, closest = [], float("inf")
            for _ in range(greedy):
                last = model(x, use_cache=False).logits[0, -1]
                first, second = last.topk(2).values.tolist()
                closest = min(closest, first - second)
                token = int(last.argmax())
                new.append(token)
                x = torch.cat([x, torch.tensor([[token]])], 1)
            if closest < 1e-3:
                return False
            row = dict(input_ids=ids, logits=[[float(f"{v:.7g}") for v in row] for row in logits.tolist()], greedy=new)
            if cached:
                model(torch.tensor([ids[:1]]), use_cache=False)  # resets dynamic rotary frequencies
                state = model(torch.tensor([ids]), use_cache=True)
                row["greedy_cached"] = []
                for _ in range(greedy):
                    token = int(state.logits[0, -1].argmax())
                    row["greedy_cached"].append(token)
                    state = model(torch.tensor([[token]]), past_key_values=state.past_key_values, use_cache=True)
        out.append(row)
    with open(path, "w") as file:
        json.dump(out, file)
    return True


def randomize(model, seed, norm=1.0):
    """Norms and biases start at constants; give them values that a mistake would show in."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("norm.weight"):
                p.copy_(norm + 0.3 * torch.randn(p.shape, generator=g))
            elif name.endswith(".bias"):
                p.copy_(0.3 * torch.randn(p.shape, generator=g))
            else:
                p.copy_(0.2 * torch.randn(p.shape, generator=g))
        if norm == 0.0:
            # Gemma scales its embedding up; left as large, it would drown the layers.
            model.get_input_embeddings().weight.mul_(0.2)
    return model


def permute(w, heads):
    """Hugging Face's q/k row order to the interleaved one of GGUF files."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def unpermute(w, heads):
    return w.reshape(heads, w.shape[0] // heads // 2, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def gguf_file(model, path, kind):
    """Writes the model as GGUF and gives back the model of the de-quantised weights."""
    import gguf
    from gguf import GGMLQuantizationType as Q

    names = {
        "model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight", "input_layernorm.weight": "attn_norm.weight",
        "post_attention_layernorm.weight": "ffn_norm.weight", "self_attn.q_proj.weight": "attn_q.weight",
        "self_attn.k_proj.weight": "attn_k.weight", "self_attn.v_proj.weight": "attn_v.weight",
        "self_attn.o_proj.weight": "attn_output.weight", "mlp.gate_proj.weight": "ffn_gate.weight",
        "mlp.up_proj.weight": "ffn_up.weight", "mlp.down_proj.weight": "ffn_down.weight",
    }
    c = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(c.num_hidden_layers)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    rope = c.rope_parameters
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "llama3":
        # As llama.cpp's converter does: divisors of the frequencies, one for each pair.
        head = c.hidden_size // c.num_attention_heads
        plain = 1.0 / (rope["rope_theta"] ** (np.arange(0, head, 2) / head))
        writer.add_tensor("rope_freqs.weight", (plain / model.model.rotary_emb.inv_freq.numpy()).astype(np.float32))
    writer.add_rope_dimension_count(c.hidden_size // c.num_attention_heads)
    writer.add_vocab_size(c.vocab_size)
    # A byte-level BPE of 61 characters and one merge, enough for the reader to rebuild a tokenizer.
    tokens = ["<eos>", "<bos>"] + [chr(33 + i) for i in range(61)] + ["AB"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3] + [1] * 62)
    writer.add_token_merges(["A B"])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(1)
    qtype = getattr(Q, kind)
    state = {}
    for name, p in model.state_dict().items():
        if name == "lm_head.weight" and c.tie_word_embeddings:
            continue
        parts = name.split(".")
        if parts[1] == "layers":
            target = f"blk.{parts[2]}.{names['.'.join(parts[3:])]}"
        else:
            target = names[name]
        w = p.detach().numpy().astype(np.float32)
        heads = {"q_proj": c.num_attention_heads, "k_proj": c.num_key_value_heads}.get(parts[-2] if len(parts) > 2 else "")
        stored = permute(w, heads) if heads else w
        kept = Q.F32 if w.ndim == 1 else qtype
        data = gguf.quants.quantize(stored, kept)
        writer.add_tensor(target, data, raw_dtype=kept)
        back = gguf.quants.dequantize(data, kept).reshape(w.shape).astype(np.float32)
        state[name] = torch.from_numpy(np.ascontiguousarray(unpermute(back, heads) if heads else back))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    if c.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    twin = type(model)(c)
    twin.load_state_dict(state)
    return twin


def tiny(out):
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    models = {
        "llama": randomize(LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True)), 1),
        "llama-untied-sharded": randomize(LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=False)), 2),
        "qwen2": randomize(Qwen2ForCausalLM(Qwen2Config(**SHAPE, tie_word_embeddings=True)), 3),
    }
    for name, model in models.items():
        folder = f"{out}/{name}"
        os.makedirs(folder, exist_ok=True)
        model.save_pretrained(folder, max_shard_size="40KB" if "sharded" in name else "1GB")
        expected(model, f"{folder}/expected.json")
    for kind in ["F32", "F16", "Q8_0", "Q4_0", "Q4_1"]:
        folder = f"{out}/gguf-{kind.lower()}"
        os.makedirs(folder, exist_ok=True)
        expected(gguf_file(models["llama"], f"{folder}/model.gguf", kind), f"{folder}/expected.json")
    scaled = randomize(LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True, rope_parameters=dict(
        rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=8192))), 5)
    os.makedirs(f"{out}/gguf-llama3", exist_ok=True)
    expected(gguf_file(scaled, f"{out}/gguf-llama3/model.gguf", "F32"), f"{out}/gguf-llama3/expected.json")
    torch.manual_seed(4)
    config = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.05, task_type="CAUSAL_LM", init_lora_weights=False,
                        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])
    peft = get_peft_model(models["llama"], config)
    peft.save_pretrained(f"{out}/llama-lora")
    os.remove(f"{out}/llama-lora/README.md")
    # peft writes a set; sorted, the file is the same every time.
    path = f"{out}/llama-lora/adapter_config.json"
    with open(path) as file:
        settings = json.load(file)
    settings["target_modules"].sort()
    with open(path, "w") as file:
        json.dump(settings, file, indent=2, sort_keys=True)
    expected(peft, f"{out}/llama-lora/expected.json")


def adapters(models, out):
    """An adapter of every kind on a saved model: `models` is the folder of `tiny`."""
    import shutil

    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    kinds = {
        "rslora": ("llama", dict(use_rslora=True, target_modules=["q_proj", "down_proj"])),
        "dora": ("qwen2", dict(use_dora=True, target_modules=["q_proj", "k_proj", "o_proj", "up_proj"])),
        "bias-all": ("qwen2", dict(bias="all", target_modules=["q_proj", "up_proj"])),
        "bias-lora-only": ("qwen2", dict(bias="lora_only", target_modules=["q_proj", "up_proj"])),
        "regex": ("llama", dict(target_modules=r".*\.1\..*(q|v)_proj")),
        "all-linear": ("llama", dict(target_modules="all-linear", exclude_modules=["o_proj"])),
        "layers": ("llama", dict(target_modules=["v_proj", "gate_proj"], layers_to_transform=[1])),
        "patterns": ("llama", dict(
            target_modules=["q_proj", "k_proj", "up_proj"], rank_pattern={"q_proj": 2, "layers.1.mlp.up_proj": 3},
            alpha_pattern={"self_attn.k_proj": 16})),
    }
    for seed, (name, (base, settings)) in enumerate(kinds.items()):
        torch.manual_seed(40 + seed)
        model = AutoModelForCausalLM.from_pretrained(f"{models}/{base}", dtype=torch.float32)
        peft = get_peft_model(model, LoraConfig(
            r=4, lora_alpha=8, lora_dropout=0.05, task_type="CAUSAL_LM", init_lora_weights=False, **settings))
        with torch.no_grad():
            for key, p in peft.named_parameters():
                if p.requires_grad and (key.endswith(".bias") or "magnitude" in key):
                    p.add_(0.3 * torch.randn(p.shape))
        folder = f"{out}/{base}-{name}"
        shutil.rmtree(folder, ignore_errors=True)
        peft.save_pretrained(folder)
        os.remove(f"{folder}/README.md")
        expected(peft, f"{folder}/expected.json")


def internlm2(model, folder):
    """The same network under InternLM2's names: q, k and v packed group by group (each key head with
    its query heads before it), w1 the gate, w3 the up and w2 the down projection."""
    from safetensors.torch import save_file

    c = model.config
    head, group = c.hidden_size // c.num_attention_heads, c.num_attention_heads // c.num_key_value_heads
    state, out = model.state_dict(), {}
    for name, weight in state.items():
        parts = name.split(".")
        if "layers" not in parts:
            names = {"model.embed_tokens.weight": "model.tok_embeddings.weight", "lm_head.weight": "output.weight"}
            out[names.get(name, name)] = weight
            continue
        prefix, rest = ".".join(parts[:3]), ".".join(parts[3:])
        if rest == "self_attn.q_proj.weight":
            k, v = (state[f"{prefix}.self_attn.{x}_proj.weight"].reshape(-1, 1, head, c.hidden_size) for x in "kv")
            q = weight.reshape(c.num_key_value_heads, group, head, c.hidden_size)
            out[f"{prefix}.attention.wqkv.weight"] = torch.cat([q, k, v], 1).reshape(-1, c.hidden_size)
        elif rest not in ("self_attn.k_proj.weight", "self_attn.v_proj.weight"):
            names = {
                "self_attn.o_proj.weight": "attention.wo.weight", "mlp.gate_proj.weight": "feed_forward.w1.weight",
                "mlp.up_proj.weight": "feed_forward.w3.weight", "mlp.down_proj.weight": "feed_forward.w2.weight",
                "input_layernorm.weight": "attention_norm.weight", "post_attention_layernorm.weight": "ffn_norm.weight",
            }
            out[f"{prefix}.{names[rest]}"] = weight
    os.makedirs(folder, exist_ok=True)
    save_file({name: weight.contiguous() for name, weight in out.items()}, f"{folder}/model.safetensors")
    config = dict(
        architectures=["InternLM2ForCausalLM"], model_type="internlm2", bias=False, hidden_act="silu",
        rms_norm_eps=c.rms_norm_eps, rope_theta=10000, rope_scaling=None, tie_word_embeddings=False,
        **{name: SHAPE[name] for name in SHAPE},
    )
    with open(f"{folder}/config.json", "w") as file:
        json.dump(config, file, indent=2)


def architectures(out):
    """One tiny model of every architecture and rotary scaling, 64 greedy tokens each."""
    import transformers as t

    def rope(kind, **more):
        return dict(rope_parameters=dict(rope_type=kind, rope_theta=10000.0, **more))

    plain = dict(SHAPE, tie_word_embeddings=False, pad_token_id=0, attn_implementation="eager")
    short = dict(plain, max_position_embeddings=32)
    gemma = dict(plain, tie_word_embeddings=True, head_dim=16, query_pre_attn_scalar=24, sliding_window=6)
    models = {
        "llama-linear": (t.LlamaForCausalLM, t.LlamaConfig(**plain, **rope("linear", factor=2.5)), 1.0),
        "llama-dynamic": (t.LlamaForCausalLM, t.LlamaConfig(**short, **rope("dynamic", factor=4.0)), 1.0),
        "llama-llama3": (t.LlamaForCausalLM, t.LlamaConfig(**plain, **rope(
            "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)), 1.0),
        "mistral": (t.MistralForCausalLM, t.MistralConfig(**plain, sliding_window=6, head_dim=16), 1.0),
        "qwen2-window": (t.Qwen2ForCausalLM, t.Qwen2Config(
            **plain, use_sliding_window=True, sliding_window=6, max_window_layers=1), 1.0),
        "qwen3": (t.Qwen3ForCausalLM, t.Qwen3Config(**plain, head_dim=16), 1.0),
        "gemma2": (t.Gemma2ForCausalLM, t.Gemma2Config(
            **gemma, attn_logit_softcapping=5.0, final_logit_softcapping=8.0), 0.0),
        "gemma3": (t.Gemma3ForCausalLM, t.Gemma3TextConfig(**gemma, sliding_window_pattern=2), 0.0),
        "phi3": (t.Phi3ForCausalLM, t.Phi3Config(**plain, sliding_window=6), 1.0),
    }
    for number, (name, (kind, config, norm)) in enumerate(models.items()):
        for seed in range(10 + number, 1000, 100):
            model = randomize(kind(config), seed, norm)
            if expected(model, f"{out}/{name}.json", greedy=64, cached=name == "llama-dynamic"):
                break
        model.save_pretrained(f"{out}/{name}")
        os.rename(f"{out}/{name}.json", f"{out}/{name}/expected.json")
    for seed in range(30, 1000, 100):
        model = randomize(t.LlamaForCausalLM(t.LlamaConfig(**plain)), seed)
        internlm2(model, f"{out}/internlm2")
        if expected(model, f"{out}/internlm2/expected.json", greedy=64):
            break


def blocks(path):
    """Two blocks of random bytes of every block format, and their values."""
    import gguf
    from gguf import GGMLQuantizationType as Q

    # Where each format keeps its f16 scales, which must be finite.
    scales = dict(Q4_0=[0], Q4_1=[0, 2], Q5_0=[0], Q5_1=[0, 2], Q8_0=[0], Q2_K=[80, 82], Q3_K=[108],
                  Q4_K=[0, 2], Q5_K=[0, 2], Q6_K=[208])
    rng = np.random.default_rng(5)
    out = []
    for name, places in scales.items():
        kind = getattr(Q, name)
        size = gguf.GGML_QUANT_SIZES[kind][1]
        data = rng.integers(0, 256, (2, size), dtype=np.uint8)
        for at in places:
            data[:, at:at + 2] = rng.normal(size=(2, 1)).astype(np.float16).view(np.uint8)
        values = gguf.quants.dequantize(data, kind).astype(np.float32).reshape(-1)
        out.append(dict(type=int(kind), name=name, bytes=data.tobytes().hex(), values=[float(v) for v in values]))
    with open(path, "w") as file:
        json.dump(out, file)


if __name__ == "__main__":
    {"tiny": tiny, "architectures": architectures, "adapters": adapters, "blocks": blocks}[sys.argv[1]](*sys.argv[2:])
