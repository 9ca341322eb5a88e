"""The roles of a table's columns, from what they hold: text, second text, label, and the head that fits the label.

Names of columns help where the content leaves several. Where both leave several, an InputError lists them. Imports no
jax.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from adapters.labels.cells import as_number, as_text, binary_digits, listed, plain, stripped
from backbone.errors import InputError
from trainers.data.lengths import word_count

Content = Literal["text", "names", "numbers", "lists", "tags", "dates", "addresses", "constant", "empty", "ids"]
Kind = Literal["classification", "multi_label", "regression", "token_tagging"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


LABEL_NAMES = _words(
    "label labels class classes category categories target targets intent intents sentiment emotion "
    "emotions topic topics tag tags score rating stars stance quality polarity toxic toxicity spam "
    "similarity relevance y"
)
FIRST_NAMES = ("label", "labels", "target", "gold_label", "class")  # names before all others
SCORES = _words("score rating similarity relevance value")
TEXT_NAMES = _words("text sentence content body review message tweet utterance comment question query")
WEAK_NAMES = _words(
    "id ids index idx key uid guid uuid confidence probability prob weight count date time year month "
    "created updated url link filename file source annotator worker split fold timestamp row number "
    "length"
)
PAIRS = (
    ("premise", "hypothesis"),
    ("question", "answer"),
    ("question", "sentence"),
    ("question", "passage"),
    ("question", "context"),
    ("query", "passage"),
    ("query", "document"),
    ("first", "second"),
    ("left", "right"),
    ("text", "text_pair"),
    ("claim", "evidence"),
)
SEPARATORS = ("|", ";", ",")
DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([T ].*)?|\d{1,2}:\d\d(:\d\d)?")
ADDRESS = re.compile(r"(https?://|www\.)\S+")
TAG = re.compile(r"O|[BILUES]-\S+")
SPLITS = _words(
    "train training dev development val valid validation test testing eval holdout publictest privatetest"
)  # values of splits
FLAGS = 3  # columns of 0 and 1 that are one label each of several, as in data of toxic comments
MAX_CLASSES = 20  # distinct whole numbers that are classes without a doubt
MAX_SHOWN = 30  # characters of a cell that messages show
DECISIVE = 0.95  # share of a column's cells that decides what it holds


@dataclass(frozen=True)
class Column:
    """What a column holds."""

    name: str
    content: Content
    rows: int  # rows of the table
    filled: int  # cells that are not blank
    distinct: int  # different values
    words: float  # mean words of a cell
    separator: str = ""  # text between several names in a cell
    fractions: bool = False  # numbers that are not all whole
    sample: tuple[str, ...] = ()  # the first different values, for messages

    @property
    def tokens(self) -> frozenset[str]:
        """Returns the words of the name, in lower case."""
        return frozenset(re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", self.name).lower()))

    @property
    def repeats(self) -> bool:
        """Returns whether values come back as labels do."""
        return 2 <= self.distinct <= self.filled / 2

    @property
    def weak(self) -> bool:
        """Returns whether the name is that of an id, a date, a confidence or their like."""
        return bool(self.tokens & WEAK_NAMES)

    @property
    def weight(self) -> float:
        """Returns how much the column looks like the text: its words, by the share of distinct cells."""
        return self.words * self.distinct / max(self.rows, 1)


@dataclass(frozen=True)
class Roles:
    """The roles of the columns of a table."""

    text: str
    text_pair: str  # "" without a second text
    label: str
    kind: Kind  # head.kind
    separator: str  # text between several labels of a cell; "" where it does not matter


@dataclass(frozen=True)
class Stated:
    """What a person said of the roles; "" is open."""

    text: str = ""
    text_pair: str = ""
    label: str = ""
    kind: str = ""  # head.kind


def described(table: Mapping[str, Sequence[Any]]) -> tuple[Column, ...]:
    """Returns what each column holds, of the cells of every row."""
    return tuple(_described(name, [plain(cell) for cell in cells]) for name, cells in table.items())


def roles_of(
    table: Mapping[str, Sequence[Any]],
    columns: Sequence[Column],
    where: str,
    stated: Stated = Stated(),
    *,
    named: bool = True,
) -> Roles:
    """Returns the roles of columns, those that are stated as they are; raises InputError where several would fit.

    Without `named` the columns have no names of their own, so that these say nothing.
    """
    known = {column.name: column for column in columns}
    for role, name in (("text", stated.text), ("text_pair", stated.text_pair), ("label", stated.label)):
        if name and name not in known:
            raise InputError(f"{where}: has no column {name!r}; it has {', '.join(known)}; set data.{role}")
    text, pair, label = stated.text, stated.text_pair, stated.label
    if not text:
        free = [c for c in columns if c.name not in (label, pair)]
        text, pair = _texts(free, where, pair, named)
    others = [c for c in columns if c.name not in (text, pair, *splits_in(table))]
    column = known[label] if label else _label(table, others, where)
    chosen: Any = stated.kind or _kind(column, where)
    if chosen == "token_tagging":
        pair = stated.text_pair
    return Roles(text, pair, column.name, chosen, column.separator if chosen == "multi_label" else "")


def _described(name: str, cells: list[Any]) -> Column:
    filled = [cell for cell in cells if not _blank(cell)]
    texts = [_text(cell, name) for cell in filled]
    distinct = len(set(texts))
    words = sum(map(word_count, texts)) / max(len(texts), 1)
    content, separator, fractions = _content(name, filled, texts, distinct, words)
    sample = tuple(dict.fromkeys(text[:MAX_SHOWN] for text in texts[:100]))[:3]
    return Column(name, content, len(cells), len(filled), distinct, round(words, 2), separator, fractions, sample)


def _content(name: str, filled: list[Any], texts: list[str], distinct: int, words: float) -> tuple[Content, str, bool]:
    """Returns what cells hold, the separator of several names, and whether numbers have fractions."""
    if not filled:
        return "empty", "", False
    if (numbers := _numbers(filled, name)) is not None:
        fractions = any(not number.is_integer() for number in numbers)
        return "constant" if distinct == 1 else "numbers", "", fractions
    if _share(isinstance(cell, (list, tuple, dict)) or _is_listed(cell, name) for cell in filled):
        return "tags" if _are_tags(filled, name) else "lists", "", False
    if _share(binary_digits(text) is not None for text in texts):
        return "lists", "", False
    if all(all(TAG.fullmatch(part) for part in text.split()) for text in texts) and words > 1:
        return "tags", "", False
    if distinct == 1:
        return "constant", "", False
    patterns: tuple[tuple[re.Pattern[str], Content], ...] = ((DATE, "dates"), (ADDRESS, "addresses"))
    for pattern, content in patterns:
        if _share(bool(pattern.fullmatch(text)) for text in texts):
            return content, "", False
    if separator := _separator(texts):
        return "names", separator, False
    if _is_ids(texts, distinct):
        return "ids", "", False
    return "names" if 2 * distinct <= len(texts) and words < 6 else "text", "", False


def _are_tags(cells: list[Any], name: str) -> bool:
    """Returns whether lists, or lists written out as text, hold a tag for each word, and some of several words."""
    rows: list[Sequence[Any]] = []
    for cell in cells:
        opened = listed(cell, name, "") if isinstance(cell, str) else cell
        if not isinstance(opened, (list, tuple)):
            return False
        rows.append(opened)
    tags = all(isinstance(part, str) and TAG.fullmatch(stripped(part)) for row in rows for part in row)
    return tags and any(len(row) > 1 for row in rows)


def _share(hits: Any) -> bool:
    """Returns whether nearly all are true."""
    flags = list(map(bool, hits))
    return bool(sum(flags) >= DECISIVE * len(flags))


def _blank(cell: Any) -> bool:
    return cell is None or (isinstance(cell, float) and cell != cell) or (isinstance(cell, str) and not stripped(cell))


def _text(cell: Any, name: str) -> str:
    return stripped(as_text(cell, name)) if isinstance(cell, (str, bytes)) else str(cell)


def _numbers(cells: list[Any], name: str) -> list[float] | None:
    """Returns the numbers of a column; None if a cell holds none."""
    try:
        return [as_number(cell, name, "") for cell in cells]
    except InputError:
        return None


def _is_listed(cell: Any, name: str) -> bool:
    try:
        return isinstance(cell, str) and listed(cell, name, "") is not None
    except InputError:
        return True


def _separator(texts: list[str]) -> str:
    """Returns what stands between the names of cells that hold several; "" for other cells.

    Names come back: there are fewer of them than of cells, and in the mean each is there four times.
    """
    for mark in SEPARATORS:
        parts = [[stripped(part) for part in text.split(mark)] for text in texts]
        names = [part for row in parts for part in row]
        several = sum(len(row) > 1 for row in parts)
        short = sum(len(part.split()) for part in names) <= 3 * len(names)
        come_back = 4 * len(set(names)) <= len(names) and len(set(names)) < len(set(texts))
        if several >= 0.1 * len(texts) and short and come_back:
            return mark
    return ""


def _is_ids(texts: list[str], distinct: int) -> bool:
    """Returns whether cells are single words with digits that hardly come back."""
    single = all(word_count(text) == 1 for text in texts)
    return single and distinct > 0.9 * len(texts) and _share(any(c.isdigit() for c in text) for text in texts)


def _texts(columns: list[Column], where: str, pair: str, by_name: bool) -> tuple[str, str]:
    """Returns the columns of the text and of the second text, "" if there is none."""
    sentences = [c for c in columns if c.content == "lists" and c.tokens & {"tokens", "words", "text", "sentence"}]
    texts = [c for c in columns if c.content == "text" and c.filled > c.rows / 2]
    if not texts and len(sentences) == 1:
        return sentences[0].name, ""
    if not texts:  # few rows, or texts that come back
        texts = [c for c in columns if c.content == "names" and c.words >= 2 and not c.separator]
    if not texts:
        raise InputError(f"{where}: no column looks like the text; {_settings('text', columns)}")
    texts.sort(key=lambda column: -column.weight)
    best = texts[0]
    if pair:
        return best.name, pair
    for other in texts[1:] if by_name else ():
        if couple := _couple(best, other):
            return couple
    rivals = [best, *(c for c in texts[1:] if c.weight >= best.weight / 2)]
    known = [c for c in rivals if c.tokens & TEXT_NAMES]
    if len(rivals) > 1 and len(known) != 1:
        raise InputError(f"{where}: {len(rivals)} columns could be the text; {_settings('text', rivals)}")
    return (known[0] if len(rivals) > 1 else best).name, ""


def _couple(one: Column, other: Column) -> tuple[str, str] | None:
    """Returns the names of two columns that are a pair by their names, the first text first."""
    for left, right in ((one.name, other.name), (other.name, one.name)):
        if (left.lower(), right.lower()) in PAIRS:
            return left, right
        marks = [
            re.sub(r"(?<![a-z])a(?![a-z])|1", "#", left.lower()),
            re.sub(r"(?<![a-z])b(?![a-z])|2", "#", right.lower()),
        ]
        if marks[0] == marks[1] and "#" in marks[0] and left != right:
            return left, right
    return None


def _label(table: Mapping[str, Sequence[Any]], columns: list[Column], where: str) -> Column:
    """Returns the column of the label; raises InputError if none, or more than one, could be it."""
    fitting = [c for c in columns if _may_be_label(c)]
    strong = _unlike([c for c in fitting if not c.weak], table)
    for group in (
        [c for c in strong if c.content == "tags"],
        [c for c in strong if c.name.lower() in FIRST_NAMES],
        [c for c in strong if c.tokens & LABEL_NAMES],
        strong,
        _unlike(fitting, table),
    ):
        flags = [] if {c.name.lower() for c in group} & {*FIRST_NAMES} else _flags(strong)
        if any(c in flags for c in group):
            raise InputError(
                f"{where}: {len(flags)} columns of 0 and 1 could be the label, or one label each of a row's several; "
                f"{_settings('label', flags)}, or write the names of each row's labels into one column"
            )
        if len(group) == 1:
            return group[0]
        if group:
            raise InputError(f"{where}: {len(group)} columns could be the label; {_settings('label', group)}")
    raise InputError(f"{where}: no column looks like the label; {_settings('label', columns)}")


def splits_in(table: Mapping[str, Sequence[Any]], roles: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
    """Returns the columns without a role that say of which split a row is, with their values: `train`, `test`."""
    splits = {}
    for name, cells in table.items():
        values = dict.fromkeys(stripped(str(cell)).casefold() for cell in cells if not _blank(cell))
        if name not in roles and len(values) > 1 and values.keys() <= SPLITS:
            splits[name] = tuple(values)
    return splits


def _flags(columns: list[Column]) -> list[Column]:
    """Returns the columns of 0 and 1, if there are as many as several labels of a row have."""
    flags = [c for c in columns if c.content == "numbers" and set(c.sample) <= {"0", "1"} and c.distinct == 2]
    return flags if len(flags) >= FLAGS else []


def _may_be_label(column: Column) -> bool:
    if column.content in ("lists", "tags"):
        return True
    if column.filled < 0.9 * column.rows:
        return False
    if column.content == "numbers":
        known = column.tokens & LABEL_NAMES
        unlikely = not column.fractions and column.distinct > 0.9 * column.rows  # whole numbers that never come back
        return bool(known) or not unlikely
    return bool(column.separator) or (column.content == "names" and column.repeats)


def _unlike(columns: list[Column], table: Mapping[str, Sequence[Any]]) -> list[Column]:
    """Returns the columns without those that say the same as another; names stay, and numbers of classes go."""
    kept: list[Column] = []
    for column in sorted(columns, key=lambda c: c.content == "numbers"):
        cells = list(map(str, table[column.name]))
        same = any(
            len(set(zip(cells, map(str, table[other.name]), strict=True))) == column.distinct == other.distinct
            for other in kept
        )
        kept += [] if same else [column]
    return kept


def _kind(column: Column, where: str) -> Kind:
    """Returns the head that reads a column of labels; raises InputError for whole numbers of either kind."""
    if column.content == "tags":
        return "token_tagging"
    if column.content == "lists":
        return "token_tagging" if column.tokens & {"ner", "pos", "slots", "bio", "iob"} else "multi_label"
    if column.separator:
        return "multi_label"
    if column.content != "numbers":
        return "classification"
    if column.fractions:
        return "regression"
    if column.distinct <= MAX_CLASSES:
        return "classification"
    if column.tokens & SCORES or not column.repeats:
        return "regression"
    if column.tokens & LABEL_NAMES:
        return "classification"
    raise InputError(
        f"{where}: {column.name}: {column.distinct} whole numbers may be classes or amounts; say which with --set "
        "head.kind=classification or --set head.kind=regression"
    )


def _settings(role: str, columns: Sequence[Column]) -> str:
    """Returns the settings of which a person chooses one."""
    choices = " or ".join(
        f"--set data.{role}={column.name!r} ({', '.join(column.sample)}{', ...' * (column.distinct > 3)})"
        for column in columns
    )
    return f"choose {choices}" if choices else f"the file has no other column for data.{role}"
