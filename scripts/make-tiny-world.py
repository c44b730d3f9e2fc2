#!/usr/bin/env python3
"""Writes the texts of a small invented world and a question task about it.

    make-tiny-world.py OUT_DIR

old.jsonl    text for the first version of the tiny base: what 240 creatures eat, where they live, ...
new.jsonl    text for its update: 120 new creatures, changed facts about a quarter of the old ones,
             new topics, and a share of the old text
train.jsonl  the fine-tuning task: questions in words that neither text uses, about 120 creatures
test.jsonl   held-out rows: the same kinds of question about 60 other creatures

The answers are in neither split's prompt: the tuned model must fetch them from what its base knows.
No question asks about a fact that the update changes.

Everything is generated from fixed seeds with our own generator (splitmix64), so that every Python
writes the same bytes. The texts are ours and carry the repository's licence.
"""
import json
import os
import sys

SYLLABLES = "ba ko li mu ne po ra si tu vo dal fen gim hor jup kes lom nar pim rud sol tav wen zik".split()
HOMES = "forest river desert swamp cave meadow island".split()
FOODS = "berries grass fish seeds roots honey leaves".split()
COLOURS = "red blue green black white brown golden".split()
SIZES = "tiny small large huge".split()
VALUES = {"home": HOMES, "food": FOODS, "colour": COLOURS, "size": SIZES}

# How the world's texts state a fact ...
STATEMENTS = {
    "home": ["The {c} lives in the {v}.", "You find the {c} in the {v}.", "Look for the {c} in the {v}."],
    "food": ["The {c} eats {v}.", "The {c} likes {v} best.", "Give the {c} some {v}."],
    "colour": ["The {c} is {v}.", "The {c} has {v} fur.", "I saw a {v} {c}."],
    "size": ["The {c} is {v}.", "The {c} grows {v}.", "What a {v} {c}!"],
}
# ... how they ask for one ...
QUESTIONS = {
    "home": ["Where does the {c} live? In the {v}."],
    "food": ["What does the {c} eat? It eats {v}."],
    "colour": ["What colour is the {c}? It is {v}."],
    "size": ["How big is the {c}? It is {v}."],
}
# ... and how the task asks: words the base has not met in this use.
TASK = {
    "home": ["Name the home of the {c}.", "The {c} : home?"],
    "food": ["Name the food of the {c}.", "The {c} : food?"],
    "colour": ["Name the colour of the {c}.", "The {c} : colour?"],
    "size": ["Name the size of the {c}.", "The {c} : size?"],
}


class Random:
    """splitmix64."""

    def __init__(self, seed):
        self.state = seed

    def next(self):
        mask = 2**64 - 1
        self.state = (self.state + 0x9E3779B97F4A7C15) & mask
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    def below(self, n):
        return self.next() % n

    def pick(self, items):
        return items[self.below(len(items))]

    def sample(self, items, k):
        items = list(items)
        for i in range(k):
            j = i + self.below(len(items) - i)
            items[i], items[j] = items[j], items[i]
        return items[:k]


def creatures(count, seed):
    names = [a + b for a in SYLLABLES for b in SYLLABLES if a != b]
    return Random(seed).sample(names, count)


def facts(names, seed):
    rng = Random(seed)
    return {name: {kind: rng.pick(values) for kind, values in VALUES.items()} for name in names}


def describe(rng, creature, fact):
    """One to three statements about a creature, then sometimes a question with its answer."""
    kinds = rng.sample(list(VALUES), 1 + rng.below(3))
    parts = [rng.pick(STATEMENTS[kind]).format(c=creature, v=fact[kind]) for kind in kinds]
    if rng.below(2):
        kind = rng.pick(list(VALUES))
        parts.append(rng.pick(QUESTIONS[kind]).format(c=creature, v=fact[kind]))
    return " ".join(parts)


def weather(rng):
    """A topic that only the update knows."""
    days = rng.sample("Monday Tuesday Friday Sunday".split(), 2)
    skies = rng.sample("rain snow wind fog sun".split(), 2)
    places = rng.sample(HOMES, 2)
    return (
        f"On {days[0]} there was {skies[0]} over the {places[0]}. On {days[1]} the {places[1]} had {skies[1]}. "
        f"So {days[1]} was the day of {skies[1]}."
    )


def trade(rng, creature, fact):
    """Another: the familiar words in a new use."""
    return (
        f"At the market a {creature} costs {rng.pick('two three four five'.split())} {rng.pick(COLOURS)} coins, "
        f"with {rng.pick(FOODS)} for the way to the {rng.pick(HOMES)}."
    )


def task_row(rng, creature, fact):
    kind = rng.pick(list(VALUES))
    question = rng.pick(TASK[kind]).format(c=creature)
    return dict(instruction=question, input="", output=f" Answer: {fact[kind]}", answer=fact[kind])


def main(out):
    os.makedirs(out, exist_ok=True)
    names = creatures(360, seed=1)
    old_names, new_names = names[:240], names[240:]
    stable, changed = old_names[:180], old_names[180:]
    old_facts = facts(old_names, seed=2)
    new_facts = {**old_facts, **facts(changed, seed=3), **facts(new_names, seed=4)}

    rng = Random(5)
    old_text = [describe(rng, name, old_facts[name]) for name in (rng.pick(old_names) for _ in range(40000))]
    rng = Random(6)
    new_text = []
    for _ in range(20000):
        roll = rng.below(100)
        if roll < 20:
            new_text.append(weather(rng))
        elif roll < 40:
            name = rng.pick(new_names + changed)
            new_text.append(trade(rng, name, new_facts[name]))
        else:
            name = rng.pick(new_names + changed if roll < 80 else old_names)
            new_text.append(describe(rng, name, new_facts[name]))

    rows = {}
    for split, count, seed, animals in (("train", 2400, 7, stable[:120]), ("test", 400, 8, stable[120:])):
        rng, seen, rows[split] = Random(seed), set(), []
        while len(rows[split]) < count:
            name = rng.pick(animals)
            row = task_row(rng, name, old_facts[name])
            if split == "train" or row["instruction"] not in seen:
                seen.add(row["instruction"])
                rows[split].append(row)

    texts = {"old": [{"text": t} for t in old_text], "new": [{"text": t} for t in new_text]}
    for name, items in {**texts, **rows}.items():
        with open(os.path.join(out, f"{name}.jsonl"), "w", encoding="utf-8") as file:
            file.writelines(json.dumps(item) + "\n" for item in items)


if __name__ == "__main__":
    main(sys.argv[1])
