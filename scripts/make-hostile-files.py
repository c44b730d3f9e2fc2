#!/usr/bin/env python3
"""Writes the hand-made hostile files of tests/fixtures/hostile, one folder for each kind of file, and a
few that are in order and begin with `ok`.

    make-hostile-files.py tests/fixtures/hostile

The test `hostile` reads each of them and compares the error with errors.txt beside the folders. Files
named `found-...` are not made here: a fuzzer found them.
"""
import json
import os
import struct
import sys

OUT = sys.argv[1]


def write(kind, name, content):
    os.makedirs(f"{OUT}/{kind}", exist_ok=True)
    with open(f"{OUT}/{kind}/{name}", "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())


# safetensors

def safetensors(kind_name, header, data=b"", length=None):
    header = header if isinstance(header, str) else json.dumps(header)
    size = len(header.encode()) if length is None else length
    write("safetensors", kind_name, struct.pack("<Q", size) + header.encode() + data)


def f32(shape, start, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


one = json.dumps(f32([1], 0, 4))
safetensors("overlapping", {"a": f32([2], 0, 8), "b": f32([2], 4, 12)}, bytes(12))
safetensors("same-bytes-twice", {"a": f32([2], 0, 8), "b": f32([2], 0, 8)}, bytes(8))
safetensors("gap", {"a": f32([1], 0, 4), "b": f32([1], 8, 12)}, bytes(12))
safetensors("out-of-range", {"a": f32([100], 0, 400)}, bytes(4))
safetensors("end-before-start", {"a": f32([1], 4, 0)}, bytes(4))
safetensors("offset-above-64-bits", '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,36893488147419103236]}}', bytes(4))
safetensors("negative-offset", '{"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}', bytes(4))
safetensors("shape-overflows", {"a": f32([1 << 32, 1 << 32], 0, 4)}, bytes(4))
safetensors("shape-and-offsets-disagree", {"a": f32([3], 0, 8)}, bytes(8))
safetensors("sum-overflows", {str(i): f32([(1 << 61) - (i == 7)], i << 61, min((i + 1) << 61, (1 << 64) - 1), "U8")
                              for i in range(8)}, bytes(16))
safetensors("name-twice", f'{{"a":{one},"a":{one}}}', bytes(4))
safetensors("name-twice-by-escape", f'{{"a":{one},"\\u0061":{one}}}', bytes(4))
safetensors("metadata-twice", '{"__metadata__":{},"__metadata__":{"a":"b"}}')
safetensors("metadata-is-a-tensor", f'{{"__metadata__":{one}}}', bytes(4))
safetensors("unknown-type", {"a": f32([1], 0, 4, "F31")}, bytes(4))
safetensors("half-a-byte", {"a": f32([1], 0, 1, "F4")}, bytes(1))
safetensors("giant-header", "{}", length=100_000_001)
safetensors("header-length-of-all-ones", "{}", length=(1 << 64) - 1)
safetensors("header-past-the-end", "{}", length=1000)
safetensors("header-of-nothing", "", length=0)
write("safetensors", "name-not-utf8", struct.pack("<Q", 7) + b'{"\xff":1}')
safetensors("nested-too-deep", "[" * 5000)
safetensors("many-dimensions", {"a": f32([1] * 5000, 0, 4)}, bytes(4))
safetensors("bytes-left-over", {"a": f32([1], 0, 4)}, bytes(9))
safetensors("name-steers-the-terminal", {"\x1b[2J" + "x" * 2000: f32([1], 0, 8)}, bytes(8))
safetensors("ok", {"__metadata__": {"format": "pt"}, "a": f32([2, 1], 0, 8), "b": f32([3], 8, 14, "F16"),
                   "c": f32([], 14, 16, "BF16"), "d": f32([0], 16, 16), "e": f32([2], 16, 17, "F4")}, bytes(17))
write("safetensors", "empty", b"")
write("safetensors", "three-bytes", b"\x02\x00\x00")

# the list of shards

SHARD = "model-00001-of-00003.safetensors"
NORM = "model.embed_tokens.weight"


def index(name, weight_map):
    text = weight_map if isinstance(weight_map, str) else json.dumps({"metadata": {}, "weight_map": weight_map})
    write("safetensors_index", name, text)


for name, shard in [("shard-in-the-parent", "../" + SHARD), ("shard-at-an-absolute-path", "/etc/passwd"),
                    ("shard-in-a-folder", "a/" + SHARD), ("shard-with-a-backslash", "..\\" + SHARD),
                    ("shard-with-a-zero", SHARD + "\0"), ("shard-is-dots", ".."), ("shard-without-a-name", ""),
                    ("shard-is-the-index", "model.safetensors.index.json"), ("shard-is-not-there", "b.safetensors"),
                    ("shard-is-a-number", 7), ("shard-is-a-list", [SHARD])]:
    index(name, {NORM: shard})
index("ok", {NORM: SHARD})
index("tensor-is-not-there", {"lm_head.weight": SHARD})
index("tensor-twice", f'{{"weight_map":{{"{NORM}":"{SHARD}","{NORM}":"b.safetensors"}}}}')
index("map-twice", f'{{"weight_map":{{"{NORM}":"{SHARD}"}},"weight_map":{{}}}}')
index("map-is-a-list", '{"weight_map":[]}')
index("no-map", "{}")
index("a-number", "7")
index("nested-too-deep", '{"weight_map":' * 500)

# config.json

BASE = {
    "model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
    "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 0, "tie_word_embeddings": True,
}


def config(name, **changes):
    write("config_json", name, json.dumps({**BASE, **changes}))


BIG = 1 << 62
for field in ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
              "num_key_value_heads", "head_dim", "max_position_embeddings"]:
    config(f"huge-{field}", **{field: BIG})
    config(f"zero-{field}", **{field: 0})
config("ok")
for name, changes in {"gemma3": {"model_type": "gemma3_text", "hidden_act": "gelu_pytorch_tanh", "head_dim": 8},
                      "qwen2": {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 8},
                      "internlm2": {"model_type": "internlm2", "bias": True}}.items():
    config(f"ok-but-for-the-weights-{name}", **changes)
config("layers-at-the-limit", num_hidden_layers=1 << 12)
config("sizes-at-the-limit", vocab_size=1 << 24, hidden_size=1 << 20, intermediate_size=1 << 20,
       num_attention_heads=1 << 7, num_key_value_heads=1 << 7, head_dim=1 << 13, num_hidden_layers=1 << 12)
config("heads-times-head-dim", num_attention_heads=1 << 14, num_key_value_heads=1, head_dim=1 << 13)
config("negative-size", hidden_size=-32)
config("fractional-size", hidden_size=32.5)
config("size-above-64-bits", hidden_size=1 << 70)
config("size-is-a-text", hidden_size="9" * 5000)
config("epsilon-is-zero", rms_norm_eps=0)
config("theta-is-infinite", rope_theta=1e308, rope_scaling={"rope_type": "linear", "factor": 1e300})
config("special-id-outside", eos_token_id=64)
config("special-id-above-32-bits", bos_token_id=1 << 40)
config("rope-factor-is-zero", rope_scaling={"rope_type": "dynamic", "factor": 0})
config("rope-hides-a-table", rope_scaling={"rope_type": "yarn", "factor": 4, "x": {}})
config("rope-by-kind-of-layer", rope_parameters={"full_attention": {"rope_type": "linear", "factor": 8}})
config("partial-rotary-is-a-text", rope_parameters={"rope_type": "default", "partial_rotary_factor": "0.5"})
config("sliding-pattern-is-zero", model_type="gemma3_text", hidden_act="gelu_pytorch_tanh", sliding_window_pattern=0)
config("layer-types-without-end", model_type="gemma3_text", hidden_act="gelu_pytorch_tanh",
       layer_types=["full_attention"] * 300)
config("model-type-steers-the-terminal", model_type="\x1b[2J" + "x" * 3000)
write("config_json", "field-twice", json.dumps(BASE)[:-1] + ', "vocab_size": 65}')
write("config_json", "a-list", "[]")
write("config_json", "nested-too-deep", "[" * 5000)
write("config_json", "number-without-end", '{"vocab_size": ' + "9" * 4000 + "}")
write("config_json", "not-utf8", b'{"model_type": "\xff"}')
write("config_json", "empty", b"")

# adapter_config.json

LORA = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}


def adapter(name, **changes):
    write("adapter_config", name, json.dumps({**LORA, **changes}))


adapter("ok-but-for-the-weights", target_modules="all-linear", exclude_modules=["o_proj"], rank_pattern={"q_proj": 2},
        layers_to_transform=[0], alpha_pattern={".*k_proj": 3.5}, use_rslora=True, bias="lora_only")
adapter("rank-is-zero", r=0)
adapter("rank-is-huge", r=BIG)
adapter("rank-above-64-bits", r=1 << 70)
adapter("rank-is-negative", r=-1)
adapter("rank-is-a-text", r="x" * 3000)
adapter("rank-not-that-of-the-weights", r=65536)
write("adapter_config", "alpha-is-infinite", json.dumps(LORA).replace("8", "1e999"))
adapter("dropout-of-everything", lora_dropout=1.0)
adapter("pattern-that-multiplies", target_modules="((((a{99}){99}){99}){99}){99}")
adapter("pattern-with-lookahead", target_modules="(?=x).*")
adapter("pattern-not-closed", target_modules="(" * 300)
adapter("pattern-closes-our-group", target_modules="a)|(?:.*v_proj")
adapter("excluded-pattern-closes-our-group", exclude_modules="a)|(?:.*v_proj")
adapter("pattern-nested-too-deep", target_modules="(" * 3000 + ")" * 3000)
adapter("rank-patterns-that-multiply", rank_pattern={f"\\w{{{n}}}": 4 for n in range(50, 400)})
adapter("rank-pattern-of-zero", rank_pattern={"q_proj": 0})
adapter("rank-pattern-not-closed", rank_pattern={"q_proj(": 4})
adapter("rank-pattern-closes-our-group", rank_pattern={"a)|(?:.*v_proj": 2})
adapter("alpha-pattern-is-a-text", alpha_pattern={"q_proj": "8"})
adapter("module-that-is-not-there", target_modules=["q_proj", "\x1b[2J" + "x" * 500])
adapter("layers-that-are-not-there", layers_to_transform=[BIG, 99])
adapter("layer-is-negative", layers_to_transform=[-1])
adapter("modules-to-save", modules_to_save=["lm_head"])
adapter("unknown-kind", peft_type="x" * 3000)
adapter("kind-is-a-number", peft_type=7)
adapter("target-is-a-number", target_modules=7)
write("adapter_config", "rank-twice", json.dumps(LORA)[:-1] + ', "r": 8}')
write("adapter_config", "a-list", "[]")
write("adapter_config", "nested-too-deep", "[" * 5000)
BOTTLENECK = {"peft_type": "BOTTLENECK", "task_type": "CAUSAL_LM", "bottleneck_size": 4, "non_linearity": "relu",
              "placement": "houlsby", "scaling": 1.0, "adapter_dropout": 0.0}
for name, changes in [("bottleneck-is-huge", {"bottleneck_size": BIG}), ("bottleneck-of-zero", {"bottleneck_size": 0}),
                      ("bottleneck-without-weights", {}), ("bottleneck-with-an-unknown-field", {"x": 1})]:
    write("adapter_config", name, json.dumps({**BOTTLENECK, **changes}))

# GGUF

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)


def text(value):
    value = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(value)) + value


def pair(key, kind, value):
    packed = text(value) if kind == STRING else value if isinstance(value, bytes) else struct.pack(
        {U8: "<B", U32: "<I", I32: "<i", F32: "<f", BOOL: "<B", U64: "<Q", I64: "<q", F64: "<d"}[kind], value)
    return text(key) + struct.pack("<I", kind) + packed


def array(kind, length, content=b""):
    return struct.pack("<IQ", kind, length) + content


def tensor(name, shape, kind=0, offset=0):
    dims = b"".join(struct.pack("<Q", size) for size in shape)
    return text(name) + struct.pack("<I", len(shape)) + dims + struct.pack("<IQ", kind, offset)


def header(pairs=(), tensors=(), tensor_count=None, pair_count=None, version=3, data=b"", alignment=32):
    count = lambda given, things: len(things) if given is None else given
    head = b"GGUF" + struct.pack("<IQQ", version, count(tensor_count, tensors), count(pair_count, pairs))
    head += b"".join(pairs) + b"".join(tensors)
    return head + bytes(-len(head) % alignment) + data


def gguf(name, *args, **kwargs):
    write("gguf", name, header(*args, **kwargs))


SIZES = {"embedding_length": 4, "feed_forward_length": 8, "block_count": 1, "context_length": 16,
         "attention.head_count": 2}


TOKENS = array(STRING, 8, b"".join(text(letter) for letter in "abcdefgh"))
TOKENIZER = [pair("tokenizer.ggml.model", STRING, "gpt2"), pair("tokenizer.ggml.tokens", ARRAY, TOKENS),
             pair("tokenizer.ggml.merges", ARRAY, array(STRING, 0))]


def model(name, sizes={}, extra=(), more=(), rename={}, tokenizer=TOKENIZER, kind="llama"):
    """A whole model of one layer, with some numbers changed."""
    pairs = [pair("general.architecture", STRING, kind)] if kind else []
    pairs += [pair(f"{kind}.{key}", U64, size) for key, size in {**SIZES, **sizes}.items()]
    pairs += [pair(f"{kind}.attention.layer_norm_rms_epsilon", F32, 1e-5), *extra, *tokenizer]
    # In the file's order of dimensions: that of a row first.
    shapes = {"token_embd.weight": [4, 8], "output_norm.weight": [4]}
    for part, shape in {"attn_norm": [4], "attn_q": [4, 4], "attn_k": [4, 4], "attn_v": [4, 4],
                        "attn_output": [4, 4], "ffn_norm": [4], "ffn_gate": [4, 8], "ffn_up": [4, 8],
                        "ffn_down": [8, 4]}.items():
        shapes[f"blk.0.{part}.weight"] = shape
    shapes.update(more)
    tensors, data = [], b""
    for tensor_name, shape in shapes.items():
        values = 1
        for size in shape:
            values *= size
        tensors.append(tensor(rename.get(tensor_name, tensor_name), shape, 0, len(data)))
        data += bytes(4 * values)
        data += bytes(-len(data) % 32)
    gguf(name, pairs, tensors, data=data)


ALL = (1 << 64) - 1
gguf("tensor-count-of-all-ones", tensor_count=ALL)
gguf("pair-count-of-all-ones", pair_count=ALL)
gguf("more-tensors-than-bytes", tensor_count=1000, pair_count=0)
gguf("key-length-of-all-ones", [struct.pack("<Q", ALL) + b"abc"])
gguf("text-length-of-all-ones", [pair("general.name", STRING, "x")[:-9] + struct.pack("<Q", ALL)])
gguf("array-length-of-all-ones", [pair("a", ARRAY, array(U8, ALL))])
gguf("array-length-times-size-overflows", [pair("a", ARRAY, array(F64, 1 << 61))])
gguf("array-of-arrays-without-end", [pair("a", ARRAY, array(ARRAY, 1) * 50)])
gguf("array-of-an-unknown-type", [pair("a", ARRAY, array(77, 0))])
gguf("value-of-an-unknown-type", [pair("a", 13, b"")])
gguf("boolean-of-two", [pair("a", BOOL, 2)])
gguf("key-twice", [pair("a", U8, 1), pair("a", U8, 1)])
gguf("key-not-utf8", [pair(b"\xff", U8, 1)])
gguf("key-steers-the-terminal", [pair("\x1b[2J" + "k" * 500, BOOL, 2)])
for name, kind, value in [("zero", U32, 0), ("of-three", U32, 3), ("huge", U64, 1 << 63), ("negative", I32, -32),
                          ("a-text", STRING, "32")]:
    gguf(f"alignment-{name}", [pair("general.alignment", kind, value)])
gguf("tensor-of-no-dimensions", tensors=[tensor("a", [])])
gguf("tensor-of-many-dimensions", tensors=[text("a") + struct.pack("<I", 0xFFFFFFFF) + bytes(40)])
gguf("tensor-of-an-unknown-type", tensors=[tensor("a", [32], 99)], data=bytes(128))
gguf("tensor-of-a-removed-type", tensors=[tensor("a", [32], 4)], data=bytes(128))
gguf("tensor-sizes-overflow", tensors=[tensor("a", [1 << 32, 1 << 32])])
gguf("tensor-bytes-overflow", tensors=[tensor("a", [1 << 62])])
gguf("tensor-of-half-a-block", tensors=[tensor("a", [31], 8)], data=bytes(64))
gguf("tensor-not-aligned", tensors=[tensor("a", [1], 0, 4)], data=bytes(64))
gguf("tensor-past-the-end", tensors=[tensor("a", [1000])], data=bytes(64))
gguf("tensor-offset-of-all-ones", tensors=[tensor("a", [1], 0, ALL - 31)], data=bytes(64))
gguf("tensors-overlap", tensors=[tensor("a", [16]), tensor("b", [16], 0, 32)], data=bytes(96))
gguf("tensor-twice", tensors=[tensor("a", [8]), tensor("a", [8], 0, 32)], data=bytes(64))
gguf("tensor-with-a-long-name", tensors=[tensor("a" * 1025, [8])], data=bytes(32))
FORMATS = {0: (1, 4), 1: (1, 2), 30: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
           10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210)}
tensors, data = [], b""
for kind, (values, size) in FORMATS.items():
    tensors.append(tensor(f"t{kind}", [values], kind, len(data)))
    data += bytes(range(1, 1 + min(size, 254))) + bytes(max(0, size - 254))
    data += bytes(-len(data) % 32)
gguf("no-model-but-every-number-format", tensors=tensors, data=data)
gguf("version-4", version=4)
gguf("big-endian", version=3 << 24)
write("gguf", "empty", b"")
write("gguf", "cut-in-the-counts", header()[:20])
model("head-width-is-huge", extra=[pair("llama.attention.key_length", U64, 1 << 45)], more={"rope_freqs.weight": [1]})
model("head-width-of-all-ones", extra=[pair("llama.attention.key_length", U64, ALL)])
for field in SIZES:
    model(f"huge-{field.replace('.', '-').replace('_', '-')}", {field: 1 << 60})
    model(f"zero-{field.replace('.', '-').replace('_', '-')}", {field: 0})
model("layers-at-the-limit", {"block_count": 1 << 12})
model("layer-by-two-names", more={"blk.00.attn_q.weight": [4, 4]})
model("layer-beyond-the-last", more={"blk.7.attn_q.weight": [4, 4]})
model("layer-without-a-tensor", rename={"blk.0.attn_q.weight": "output.weight"})
model("ok")
model("of-no-architecture", kind="")
model("of-an-unknown-architecture", kind="bert")
model("mixture-of-experts", extra=[pair("llama.expert_count", U32, 8)])
model("yarn", extra=[pair("llama.rope.scaling.type", STRING, "yarn")])
model("theta-is-a-text", extra=[pair("llama.rope.freq_base", STRING, "10000")])
model("values-of-another-width", extra=[pair("llama.attention.value_length", U64, 4)])
model("heads-do-not-divide", {"attention.head_count": 3})
model("query-bias-alone", more={"blk.0.attn_q.bias": [4]})
QWEN_BIASES = {f"blk.0.attn_{part}.bias": [4] for part in "qkv"}
model("qwen-with-ffn-bias", more={**QWEN_BIASES, "blk.0.ffn_down.bias": [4]}, kind="qwen2")
model("rotations-of-another-width", more={"rope_freqs.weight": [3]})
model("rotations-by-an-unknown-rule", more={"rope_freqs.weight": [1]})
model("without-embeddings", rename={"token_embd.weight": "output.weight"})
model("query-of-other-sizes", more={"blk.0.attn_q.weight": [4, 3]})
model("without-a-tokenizer", tokenizer=[])
for name, pairs in [
    ("tokens-are-numbers", [pair("tokenizer.ggml.tokens", ARRAY, array(U32, 2, bytes(8)))]),
    ("fewer-types-than-tokens", [pair("tokenizer.ggml.tokens", ARRAY, TOKENS),
                                 pair("tokenizer.ggml.token_type", ARRAY, array(I32, 1, bytes(4)))]),
    ("no-merges", [pair("tokenizer.ggml.tokens", ARRAY, TOKENS)]),
    ("merge-of-one-token", [pair("tokenizer.ggml.tokens", ARRAY, TOKENS),
                            pair("tokenizer.ggml.merges", ARRAY, array(STRING, 1, text("\x1b" + "a" * 500)))]),
    ("merge-of-an-unknown-token", [pair("tokenizer.ggml.tokens", ARRAY, TOKENS),
                                   pair("tokenizer.ggml.merges", ARRAY, array(STRING, 1, text("a c")))]),
    ("token-twice", [pair("tokenizer.ggml.tokens", ARRAY, array(STRING, 2, text("a" * 9000) * 2)),
                     pair("tokenizer.ggml.merges", ARRAY, array(STRING, 0))]),
]:
    model(f"tokenizer-{name}", tokenizer=[pair("tokenizer.ggml.model", STRING, "gpt2"), *pairs])
WORDS = pair("tokenizer.ggml.tokens", ARRAY, TOKENS)


def scores(*values):
    return pair("tokenizer.ggml.scores", ARRAY, array(F32, len(values), struct.pack(f"<{len(values)}f", *values)))


for name, kind, pairs in [
    ("without-tokens", "gpt2", []),
    ("of-an-unknown-kind", "wordpiece", [WORDS]),
    ("cut-by-an-unknown-rule", "gpt2", [WORDS, pair("tokenizer.ggml.pre", STRING, "unheard")]),
    ("types-are-floats", "gpt2", [WORDS, pair("tokenizer.ggml.token_type", ARRAY, array(F32, 8, bytes(32)))]),
    ("without-scores", "llama", [WORDS]),
    ("scores-are-numbers", "llama", [WORDS, pair("tokenizer.ggml.scores", ARRAY, array(U32, 8, bytes(32)))]),
    ("fewer-scores-than-tokens", "llama", [WORDS, scores(1)]),
    ("score-is-not-a-number", "llama", [WORDS, scores(*[float("nan")] * 8)]),
    ("token-is-long", "llama", [pair("tokenizer.ggml.tokens", ARRAY, array(STRING, 1, text("a" * 600))), scores(1)]),
    ("of-nothing", "llama", [pair("tokenizer.ggml.tokens", ARRAY, array(STRING, 0)), scores()]),
]:
    model(f"tokenizer-{name}", tokenizer=[pair("tokenizer.ggml.model", STRING, kind), *pairs])
gguf("name-past-the-end", tensors=[struct.pack("<Q", ALL) + bytes(40)])
write("gguf", "of-another-kind", b"GGML" + bytes(60))

# llama2.c

# dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len
STORIES = [4, 6, 2, 2, 1, 5, 3]
VALUES = 20 + 2 * (4 + 16 + 8 + 8 + 16 + 4 + 24 + 24 + 24) + 4 + 3 * 2


def llama2c(name, changes={}, values=VALUES):
    numbers = [changes.get(place, number) for place, number in enumerate(STORIES)]
    write("llama2c", name, struct.pack("<7i", *numbers) + bytes(4 * values))


llama2c("ok")
llama2c("versioned", {0: 0x616B3432})
llama2c("width-is-negative", {0: -4})
llama2c("layers-without-end", {2: 0x7FFFFFFF})
llama2c("heads-do-not-divide", {3: 3})
llama2c("vocabulary-of-nothing", {5: 0})
llama2c("cut-short", values=VALUES - 1)
llama2c("longer-than-it-says", values=VALUES + 1)
write("llama2c", "empty", b"")


def token(word, score=0.0, length=None):
    word = word if isinstance(word, bytes) else word.encode()
    return struct.pack("<fi", score, len(word) if length is None else length) + word


def llama2c_tokenizer(name, last, count=259):
    write("llama2c_tokenizer", name, struct.pack("<I", 1) + token("x") * count + last)


llama2c_tokenizer("ok", token("a"))
llama2c_tokenizer("cut-short", b"")
llama2c_tokenizer("length-is-negative", token("a", length=-1))
llama2c_tokenizer("length-past-the-end", token("a", length=0x7FFFFFFF))
llama2c_tokenizer("not-utf8", token(b"\xff"))
llama2c_tokenizer("more-tokens-than-the-model", token("a") * 2)
llama2c_tokenizer("score-is-not-a-number", token("a", float("nan")))
write("llama2c_tokenizer", "empty", b"")

# recipes

STEPS = "steps: { a: { uses: command, with: { run: 'true', outputs: [x] } } }\n"

write("recipe", "ok", "version: 1\n" + STEPS)
write("recipe", "nested-too-deep", "version: 1\na: " + "[" * 2000)
laugh = "version: 1\nparams:\n  a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
laugh += "".join(f"  a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)) + STEPS
write("recipe", "aliases-that-multiply", laugh)
write("recipe", "alias-of-itself", "version: 1\nparams: &a { x: *a }\n" + STEPS)
write("recipe", "includes-itself", "version: 1\ninclude: [recipe.yaml]\nsteps: { a: { uses: nothing } }\n")
write("recipe", "includes-a-device", "version: 1\ninclude: [/dev/zero]\n" + STEPS)
axes = "".join(f"      a{n}: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]\n" for n in range(12))
write("recipe", "matrix-that-multiplies",
      "version: 1\nsteps:\n  a:\n    uses: command\n    with: { run: 'true', outputs: [x] }\n    matrix:\n" + axes)
write("recipe", "expression-without-end",
      "version: 1\nparams: { a: \"${{ range(99999999) | map('string') | join('x' * 99999) }}\" }\n" + STEPS)
write("recipe", "text-that-doubles", "version: 1\nparams:\n  a0: " + "x" * 1000 + "\n"
      + "".join(f"  a{n}: \"${{{{ params.a{n - 1} }}}}${{{{ params.a{n - 1} }}}}\"\n" for n in range(1, 40))
      + STEPS)
write("recipe", "parameters-in-a-circle",
      "version: 1\nparams: { a: \"${{ params.b }}\", b: \"${{ params.a }}\" }\n" + STEPS)
write("recipe", "number-without-end", "version: 1\nparams: { a: " + "9" * 500 + " }\n" + STEPS)
write("recipe", "key-twice", "version: 1\nversion: 1\n" + STEPS)
write("recipe", "many-wrong-keys", "version: 1\n" + "".join(f"k{n}: 1\n" for n in range(300)) + STEPS)
write("recipe", "many-mistakes-on-a-line", "version: 1\nparams: { a: [" + "\"${{ nope }}\"," * 1500 + "] }\n" + STEPS)
write("recipe", "many-unknown-needs", "version: 1\nsteps: { a: { uses: command, with: { run: 'true', outputs: [x] }, needs: ["
      + ", ".join(f"b{n}" for n in range(3000)) + "] } }\n")
write("recipe", "steers-the-terminal", "version: 1\nsteps: { \"\\e[2J\": { uses: \"\\e[31m\" } }\n")
write("recipe", "not-utf8", b"version: 1\nsteps: { a\xff: 1 }\n")
write("recipe", "rank-is-huge",
      "version: 1\nsteps:\n  b: { uses: base, with: { source: . } }\n"
      "  d: { uses: dataset, with: { source: recipe.yaml, format: text } }\n"
      "  t: { uses: tokenize, with: { dataset: \"${{ steps.d }}\", base: \"${{ steps.b }}\", prompt: alpaca, max_seq_length: 8 } }\n"
      "  x: { uses: train, with: { base: \"${{ steps.b }}\", tokens: \"${{ steps.t }}\", adapter: "
      f"{{ type: lora, r: {BIG} }} }} }}\n")
write("recipe", "empty", b"")

# tasks

TEXT = "task: t\noutput_type: generate_until\n"
DOC = "doc_to_text: question\ndoc_to_target: answer\n"
END = "doc_to_target: answer\nmetadata: { version: 1 }\n"


def task(name, more, *, doc=DOC):
    write("task", name, f"{TEXT}{doc}{more}metadata: {{ version: 1 }}\n")


def template(name, text):
    write("task", name, f"{TEXT}doc_to_text: \"{text}\"\n{END}")


def pattern(name, text, more=""):
    step = f"function: regex, regex_pattern: \"{text}\"{more}"
    task(name, f"filter_list: [{{ name: f, filter: [{{ {step} }}] }}]\n")


write("task", "empty", "")
write("task", "not-utf8", b"task: \xff\xfe\n")
write("task", "nested", TEXT + "doc_to_text: " + "[" * 200 + "]" * 200 + "\n")
nines = ", ".join(["x"] * 9)
laugh = f"a0: &a0 [{nines}]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
write("task", "aliases", laugh)
write("task", "function-tag", TEXT + "process_docs: !function utils.process_docs\n")
write("task", "name-climbs-out", "task: ../../x\noutput_type: generate_until\n" + DOC + "metadata: { version: 1 }\n")
write("task", "rows-of-a-device", "task: t\noutput_type: loglikelihood_rolling\ndataset_path: json\n"
      "dataset_kwargs: { data_files: { test: /dev/zero } }\ntest_split: test\n" + END)
write("task", "not-a-list", "task: t\noutput_type: multiple_choice\ndoc_to_choice: \"{{ n }}\"\n" + END)
template("endless-template", "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}")
template("nested-template", "{% if n %}" * 300)
template("nested-values",
         "{% set s = namespace(x=[]) %}{% for i in range(99999) %}{% set s.x = [s.x] %}{% endfor %}{{ s.x }}")
template("huge-text", "{{ 'x' * 4000000000 }}")
template("long-template", "x" * 70000)
template("include", "{% include '/etc/passwd' %}")
pattern("huge-pattern", "(((a{1000}){1000}){1000})")
pattern("slow-pattern", "(a*)*(a*)*b")
pattern("far-match", "a", ", group_select: -9223372036854775808")
task("many-examples", "num_fewshot: 18446744073709551615\n")
task("many-tokens", "generation_kwargs: { max_gen_toks: 18446744073709551615, temperature: .nan }\n")
