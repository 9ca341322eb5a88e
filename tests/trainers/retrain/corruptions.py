"""Ways in which new rows go wrong, and changes that are harmless: what a retraining has to refuse, and what not.

Each takes the rows that were there, the new rows, a generator and the share of the new rows that it spoils; it returns
all rows as they are now. Rows are (text, label). The texts of the new rows are of the kind of the former ones.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

Row = tuple[str, str]
Rows = list[Row]
Change = Callable[[Rows, Rows, random.Random, float], Rows]


def _spoiled(new: Rows, draw: random.Random, share: float) -> tuple[Rows, Rows]:
    """Splits the new rows into those that stay good and those to spoil."""
    rows = draw.sample(new, len(new))
    count = round(share * len(rows))
    return rows[count:], rows[:count]


def _each(spoil: Callable[[Row, random.Random, list[str]], Row]) -> Change:
    def change(old: Rows, new: Rows, draw: random.Random, share: float) -> Rows:
        good, bad = _spoiled(new, draw, share)
        labels = sorted({label for _, label in old})
        return [*old, *good, *(spoil(row, draw, labels) for row in bad)]

    return change


def _other(label: str, draw: random.Random, labels: list[str]) -> str:
    return draw.choice([one for one in labels if one != label])


def _turned(step: int) -> Change:
    return _each(lambda row, draw, labels: (row[0], labels[(labels.index(row[1]) + step) % len(labels)]))


def _moved(steps: int) -> Change:
    """The labels of the spoiled rows, shifted by some rows."""

    def change(old: Rows, new: Rows, draw: random.Random, share: float) -> Rows:
        good, bad = _spoiled(new, draw, share)
        texts, labels = [text for text, _ in bad], [label for _, label in bad]
        return [*old, *good, *zip(texts, labels[steps:] + labels[:steps], strict=True)]

    return change


def _shuffled(old: Rows, new: Rows, draw: random.Random, share: float) -> Rows:
    good, bad = _spoiled(new, draw, share)
    labels = draw.sample([label for _, label in bad], len(bad))
    return [*old, *good, *zip((text for text, _ in bad), labels, strict=True)]


def _words_of_another(old: Rows, new: Rows, draw: random.Random, share: float) -> Rows:
    """Texts that were joined with the row of another key."""
    good, bad = _spoiled(new, draw, share)
    return [*old, *good, *((draw.choice(bad)[0] + f" {i}", label) for i, (_, label) in enumerate(bad))]


def _again(old: Rows, new: Rows, draw: random.Random, share: float) -> Rows:
    good, bad = _spoiled(new, draw, share)
    return [*old, *good, *draw.sample(old, len(bad))]


def _all_relabelled(old: Rows, new: Rows, draw: random.Random, share: float) -> Rows:
    """The whole label column, shuffled in a share of the rows."""
    labels = sorted({label for _, label in old})
    return [(text, _other(label, draw, labels) if draw.random() < share else label) for text, label in [*old, *new]]


def _swapped(old: Rows, new: Rows, draw: random.Random, share: float) -> Rows:
    """The two most frequent labels change places in the whole file, in a share of the rows."""
    (a, _), (b, _) = Counter(label for _, label in old).most_common(2)
    turn = {a: b, b: a}
    return [(text, turn.get(label, label) if draw.random() < share else label) for text, label in [*old, *new]]


def _label_lost(old: Rows, new: Rows, draw: random.Random, share: float) -> Rows:
    lost = Counter(label for _, label in old).most_common()[-1][0]
    return [row for row in [*old, *new] if row[1] != lost]


def _label_merged(old: Rows, new: Rows, draw: random.Random, share: float) -> Rows:
    first, second, *_ = sorted({label for _, label in old})
    return [(text, first if label == second else label) for text, label in [*old, *new]]


def _cut_off(old: Rows, new: Rows, draw: random.Random, share: float) -> Rows:
    return old[: len(old) // 2]


CORRUPTIONS: dict[str, Change] = {
    "labels shuffled among the new rows": _shuffled,
    "labels at random": _each(lambda row, draw, labels: (row[0], _other(row[1], draw, labels))),
    "labels shifted by one row": _moved(1),
    "labels shifted by ten rows": _moved(10),
    "labels turned by one": _turned(1),
    "labels turned back by one": _turned(-1),
    "one label for all": _each(lambda row, draw, labels: (row[0], labels[0])),
    "another label for all": _each(lambda row, draw, labels: (row[0], labels[-1])),
    "texts of other rows": _words_of_another,
    "one text for all": _each(lambda row, draw, labels: ("ban bas bal", row[1])),
    "the text is the number of the row": _each(lambda row, draw, labels: (str(draw.randrange(10**9)), row[1])),
    "the text is the label of another row": _each(
        lambda row, draw, labels: (draw.choice(labels) + f" {draw.random()}", row[1])
    ),
    "the text is a date": _each(
        lambda row, draw, labels: (
            f"2026-{draw.randrange(1, 13):02d}-{draw.randrange(1, 29):02d} {draw.randrange(10**6)}",
            row[1],
        )
    ),
    "the text is hexadecimal": _each(lambda row, draw, labels: (f"{draw.getrandbits(128):032x}", row[1])),
    "the text is an address": _each(lambda row, draw, labels: (f"https://example.org/{draw.getrandbits(40)}", row[1])),
    "the text is cut at two letters": _each(
        lambda row, draw, labels: (f"{row[0][:2]} {draw.randrange(10**6)}", row[1])
    ),
    "the text is a message of an error": _each(
        lambda row, draw, labels: (f"NullPointerException at 0x{draw.getrandbits(32):x}", row[1])
    ),
    "letters at random": _each(lambda row, draw, labels: ("".join(draw.choices("qwxyzjvc", k=24)), row[1])),
    "yesterday's rows again": _again,
    "the label column of the whole file at random": _all_relabelled,
    "two labels swapped in the whole file": _swapped,
    "a label lost by a join": _label_lost,
    "a label merged into another": _label_merged,
    "the file cut off": _cut_off,
    "labels upside down": _each(
        lambda row, draw, labels: (
            row[0],
            labels[-1 - labels.index(row[1])]
            if len(labels) % 2 == 0 or labels.index(row[1]) != len(labels) // 2
            else labels[0],
        )
    ),
}


def _texts(edit: Callable[[str, random.Random], str]) -> Change:
    def change(old: Rows, new: Rows, draw: random.Random, share: float) -> Rows:
        return [*old, *((edit(text, draw), label) for text, label in new)]

    return change


def _only(chosen: Callable[[list[str]], list[str]]) -> Change:
    """New rows of some labels alone."""

    def change(old: Rows, new: Rows, draw: random.Random, share: float) -> Rows:
        labels = chosen(sorted({label for _, label in old}))
        return [*old, *(row for row in new if row[1] in labels)]

    return change


def _without(part: float) -> Change:
    def change(old: Rows, new: Rows, draw: random.Random, share: float) -> Rows:
        return [*draw.sample(old, round((1 - part) * len(old))), *new]

    return change


def _relabelled(part: float) -> Change:
    def change(old: Rows, new: Rows, draw: random.Random, share: float) -> Rows:
        labels = sorted({label for _, label in old})
        return [
            *((text, _other(label, draw, labels)) if draw.random() < part else (text, label) for text, label in old),
            *new,
        ]

    return change


def _edited(part: float) -> Change:
    def change(old: Rows, new: Rows, draw: random.Random, share: float) -> Rows:
        return [*((text + " ban", label) if draw.random() < part else (text, label) for text, label in old), *new]

    return change


def _first(count: int) -> Change:
    return lambda old, new, draw, share: [*old, *new[:count]]


def _new_label(count: int) -> Change:
    """A label that nobody knew, whose texts are of words of its own."""

    def change(old: Rows, new: Rows, draw: random.Random, share: float) -> Rows:
        words = ["dis", "fus", "gos", "kes", "mas"]
        return [*old, *new, *((" ".join(draw.choices(words, k=6)), "novel") for _ in range(count))]

    return change


def _copies(count: int) -> Change:
    return lambda old, new, draw, share: [*old, *new, *draw.sample(old, count)]


HARMLESS: dict[str, Change] = {
    "new rows": lambda old, new, draw, share: [*old, *new],
    "new rows first": lambda old, new, draw, share: [*new, *old],
    "another order": lambda old, new, draw, share: draw.sample([*old, *new], len(old) + len(new)),
    "a few new rows": _first(20),
    "half the new rows": _first(150),
    "a tenth removed": _without(0.1),
    "a quarter removed": _without(0.25),
    "a window that moves": lambda old, new, draw, share: [*old[len(new) :], *new],
    "only new rows, as many as before": lambda old, new, draw, share: (
        [*old[: len(old) // 4], *new, *new[:10]][: len(old)] + old[len(old) // 4 : len(old) // 2]
    ),
    "three of a hundred labels mended": _relabelled(0.03),
    "one of twenty labels mended": _relabelled(0.05),
    "a tenth of the texts edited": _edited(0.1),
    "a third of the texts edited": _edited(0.33),
    "new rows of one label": _only(lambda labels: labels[:1]),
    "new rows of another label": _only(lambda labels: labels[-1:]),
    "new rows of two labels": _only(lambda labels: labels[:2]),
    "a new label of twenty rows": _new_label(20),
    "a new label of a hundred rows": _new_label(100),
    "a few copies": _copies(15),
    "upper case": _texts(lambda text, draw: text.upper()),
    "first letters in upper case": _texts(lambda text, draw: text.title()),
    "full stops": _texts(lambda text, draw: text + "."),
    "blanks": _texts(lambda text, draw: f"  {text} "),
    "longer texts": _texts(lambda text, draw: f"{text} {text}"),
    "shorter texts": _texts(lambda text, draw: " ".join(text.split()[:4])),
    "words in another order": _texts(lambda text, draw: " ".join(draw.sample(text.split(), len(text.split())))),
    "a word left out": _texts(lambda text, draw: " ".join(text.split()[1:]) or text),
    "a number behind": _texts(lambda text, draw: f"{text} {draw.randrange(100)}"),
    "a greeting in front": _texts(lambda text, draw: f"hello {text}"),
    "marks between words": _texts(lambda text, draw: text.replace(" ", ", ")),
}
