#!/usr/bin/env python3
"""Writes the texts of a small invented world and a multiple-choice task about it.

    make-tiny-world.py OUT_DIR

old.jsonl   text for the first version of the tiny base
new.jsonl   text for its update: new animals, some changed facts, a new topic, a share of old text
train.json  the fine-tuning task (LLM-Adapters layout: instruction, input, output, answer)
test.json   held-out rows of the same task: other combinations; facts about other animals

Everything is generated from fixed seeds with our own generator (splitmix64), so that every Python
writes the same bytes. The texts are ours and carry the repository's licence.
"""
import json
import os
import sys

NAMES = "Ann Bob Cid Dora Emil Fay Gus Hana Ivan June Kurt Lena Max Nora Otto Pia".split()
NEW_NAMES = "Quin Rosa Sven Tara Ugo Vera Wim Yara".split()
PLACES = "park shop lake barn mill tower garden bridge market harbour".split()
THINGS = "ball cup hat key lamp coin book drum rope bell".split()
COLOURS = "red blue green black white brown grey gold".split()
FRUITS = "apples pears plums nuts figs cherries".split()
HOMES = "forest river desert swamp cave meadow".split()
FOODS = "berries grass fish seeds roots honey".split()
OLD_ANIMALS = (
    "fox owl bear deer hare mole otter newt crow goat wolf lynx seal toad swan boar hen ram eel bat "
    "ant bee crab dove duck frog gull hawk ibis kite lark mink moth mule pony rook slug stag tern wasp"
).split()
NEW_ANIMALS = "yak emu asp cod elk jay koi nit ox pug roe tit vole wren zebu".split()
ORDINALS = ["one", "two", "three", "four"]


class Random:
    """splitmix64."""

    def __init__(self, seed):
        self.state = seed & (2**64 - 1)

    def next(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & (2**64 - 1)
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
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

    def chance(self, percent):
        return self.below(100) < percent


def facts(animals, rng):
    return {a: dict(home=rng.pick(HOMES), food=rng.pick(FOODS), colour=rng.pick(COLOURS)) for a in animals}


def fact_question(rng, animal, fact):
    """(question, right answer, all possible answers) about one animal."""
    kind = rng.pick(["home", "food", "colour"])
    if kind == "home":
        return f"Where does the {animal} live?", f"the {fact['home']}", [f"the {h}" for h in HOMES]
    if kind == "food":
        return f"What does the {animal} eat?", fact["food"], FOODS
    return f"What colour is the {animal}?", fact["colour"], COLOURS


def place_story(rng, names):
    who = rng.sample(names, 3)
    where = rng.sample(PLACES, 3)
    story = " ".join(f"{n} went to the {p}." for n, p in zip(who, where))
    i = rng.below(3)
    return story, f"Where is {who[i]}?", f"the {where[i]}", [f"the {p}" for p in where], f"{who[i]} is in the {where[i]}."


def thing_story(rng, names):
    who = rng.sample(names, 3)
    things = rng.sample(THINGS, 3)
    colours = [rng.pick(COLOURS) for _ in who]
    story = " ".join(f"{n} has a {c} {t}." for n, c, t in zip(who, colours, things))
    i = rng.below(3)
    return story, f"Who has the {things[i]}?", who[i], who, f"{who[i]} has the {things[i]}."


def count_story(rng, names):
    who = rng.sample(names, 3)
    counts = rng.sample(range(1, 10), 3)
    fruit = rng.pick(FRUITS)
    story = " ".join(f"{n} has {c} {fruit}." for n, c in zip(who, counts))
    best = who[counts.index(max(counts))]
    return story, f"Who has the most {fruit}?", best, who, f"{best} has the most {fruit}."


STORIES = [place_story, thing_story, count_story]


def describe(rng, animal, fact):
    parts = [
        f"The {animal} lives in the {fact['home']}.",
        f"The {animal} eats {fact['food']}.",
        f"The {animal} is {fact['colour']}.",
    ]
    text = " ".join(rng.sample(parts, 2 + rng.below(2)))
    if rng.chance(50):
        question, answer, _ = fact_question(rng, animal, fact)
        text += f" {question} {answer[0].upper() + answer[1:]}."
    return text


def listing(rng, question, answer, options):
    """The world's own way to choose: numbered words, then the number word of the right one."""
    wrong = rng.sample([o for o in options if o != answer], min(3, len(set(options)) - 1))
    count = min(len(wrong), 1 + rng.below(3))
    shown = rng.sample(wrong[:count] + [answer], count + 1)
    lines = ", ".join(f"{ORDINALS[i]} {o}" for i, o in enumerate(shown))
    return f"{question} Choose: {lines}. It is {ORDINALS[shown.index(answer)]}, {answer}."


def document(rng, names, knowledge):
    roll = rng.below(100)
    animals = list(knowledge)
    if roll < 30:
        animal = rng.pick(animals)
        return describe(rng, animal, knowledge[animal])
    if roll < 42:
        animal = rng.pick(animals)
        question, answer, options = fact_question(rng, animal, knowledge[animal])
        return listing(rng, question, answer, options)
    story, question, answer, options, statement = rng.pick(STORIES)(rng, names)
    if roll < 60:
        return f"{story} {statement}"
    if roll < 75:
        return f"{story} {question} {statement}"
    return f"{story} {listing(rng, question, answer, options)}"


def weather(rng):
    """A topic that only the update knows."""
    days = rng.sample("Monday Tuesday Friday Sunday".split(), 2)
    skies = rng.sample("rain snow wind fog sun".split(), 2)
    place = rng.pick(PLACES)
    return (
        f"On {days[0]} there was {skies[0]} at the {place}. On {days[1]} there was {skies[1]}. "
        f"When was there {skies[1]} at the {place}? On {days[1]}."
    )


def task_row(rng, names, animals, knowledge):
    if rng.chance(40):
        animal = rng.pick(animals)
        question, answer, options = fact_question(rng, animal, knowledge[animal])
        context = ""
    else:
        context, question, answer, options, _ = rng.pick(STORIES)(rng, names)
    wrong = rng.sample([o for o in options if o != answer], 2)
    shown = rng.sample(wrong + [answer], 3)
    choices = " ".join(f"Answer{i + 1}: {o}" for i, o in enumerate(shown))
    label = f"answer{shown.index(answer) + 1}"
    instruction = f"{context} {question} {choices}".strip()
    return dict(instruction=instruction, input="", output=f"the correct answer is {label}", answer=label)


def main(out):
    os.makedirs(out, exist_ok=True)
    old_facts = facts(OLD_ANIMALS, Random(1))
    rng = Random(2)
    changed = set(rng.sample(OLD_ANIMALS, 10))
    stable = [a for a in OLD_ANIMALS if a not in changed]
    new_facts = dict(old_facts, **facts(sorted(changed), Random(3)), **facts(NEW_ANIMALS, Random(4)))

    rng = Random(5)
    old_text = [document(rng, NAMES, old_facts) for _ in range(40000)]
    rng = Random(6)
    new_text = []
    for _ in range(20000):
        roll = rng.below(100)
        if roll < 25:
            new_text.append(weather(rng))
        elif roll < 60:
            animal = rng.pick(NEW_ANIMALS + sorted(changed))
            new_text.append(describe(rng, animal, new_facts[animal]))
        else:
            new_text.append(document(rng, NAMES + NEW_NAMES, new_facts))

    # The test asks about other animals than training does, and none whose facts the update changes.
    test_animals, train_animals = stable[:15], stable[15:]
    rng = Random(7)
    seen = set()
    rows = {}
    for split, count, animals in (("train", 3000, train_animals), ("test", 400, test_animals)):
        rows[split] = []
        while len(rows[split]) < count:
            row = task_row(rng, NAMES, animals, old_facts)
            if row["instruction"] not in seen:
                seen.add(row["instruction"])
                rows[split].append(row)

    for name, texts in (("old", old_text), ("new", new_text)):
        with open(os.path.join(out, f"{name}.jsonl"), "w") as file:
            for text in texts:
                file.write(json.dumps({"text": text}) + "\n")
    for split, items in rows.items():
        with open(os.path.join(out, f"{split}.json"), "w") as file:
            file.write("[\n" + ",\n".join(json.dumps(row) for row in items) + "\n]\n")


main(sys.argv[1])
