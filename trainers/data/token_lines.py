"""The columns of files with a word a line: what lies between them, which holds the words and which the tags.

Columns lie between tabs, commas or blanks, alike in the whole file. The first way is taken by which every line has the
same number of columns, and one of them holds tags. So a blank inside a word needs a tab or a comma between the columns.
A file in which no way fits is refused at the line that fits least. Imports no jax.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from adapters.labels.tag_schemes import is_tag
from adapters.labels.tagging import OUTSIDE
from backbone.errors import InputError, nearest
from backbone.texts import lines
from trainers.data.formats.format import ReadSettings

DOCUMENT = "-DOCSTART-"  # first word of a line between two documents
CONLLU = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")
COMMENT = re.compile(r"# ?(sent_id|text|newdoc|newpar|global\.columns)\b")  # a comment that only CoNLL-U has
COLUMNS = re.compile(r"# ?global\.columns *= *(.*)")  # names of the columns in CoNLL-U Plus
NO_WORD = re.compile(r"[0-9]+[-.][0-9]+")  # number of a line of CoNLL-U that is several words, or none
TAB, TABS, COMMA, BLANKS = "a tab", "tabs", "a comma", "blanks"  # ways of splitting, for people


@dataclass(frozen=True)
class Token:
    """A line that is a word of a sentence."""

    line: int
    fields: tuple[str, ...]


@dataclass(frozen=True)
class Sentence:
    """Words and tags as they stand in the file."""

    lines: list[int]  # number of each word's line
    words: list[str]
    tags: list[str]


@dataclass(frozen=True)
class TokenFile:
    """The sentences of a file."""

    sentences: list[Sentence]
    notes: list[str]  # what was assumed and is not usual


class _Misfit(Exception):
    """A way of reading that a line does not fit. Of several ways, the one that got furthest is told."""

    def __init__(self, line: int, problem: str, *, columns: int = 2) -> None:
        super().__init__(problem)
        self.line = line
        self.reached = (columns, line)  # 0: the line has one column; 1: another number of them; 2: the wrong content


def read_tokens(text: str, settings: ReadSettings, where: str, *, conllu: bool = False) -> TokenFile:
    """Returns the sentences of a file; `conllu` says that its name is one of CoNLL-U.

    Raises InputError at the line that is ambiguous or does not fit.
    """
    numbered = list(lines(text))
    conllu = conllu or any(COMMENT.match(line) for _, line in numbered)
    names = settings.header
    if conllu:
        named = next((match[1].split() for _, line in numbered if (match := COLUMNS.match(line))), ())
        names = names or tuple(named)
        numbered = [(number, line) for number, line in numbered if not line.startswith("#")]
    numbered, notes = _without_titles(numbered)
    misfits = []
    for way, split in _ways(numbered, settings.delimiter):
        try:
            table = _Table(_split(numbered, split, conllu), names, settings, conllu)
            return TokenFile(
                list(table.sentences()), notes + table.notes + ([f"columns between {way}"] if way == COMMA else [])
            )
        except _Misfit as misfit:
            misfits.append(misfit)
    last = max(misfits, key=lambda misfit: misfit.reached)
    raise InputError(f"{where}:{last.line}: {last}")


Split = Callable[[str], list[str]]


def _ways(numbered: Sequence[tuple[int, str]], delimiter: str) -> Iterator[tuple[str, Split]]:
    """Yields the ways in which the lines may be split, the most likely first."""
    if delimiter not in ("", " "):
        yield repr(delimiter), lambda line: _quoted(line, delimiter)
        return
    if not delimiter:
        if any("\t" in line for _, line in numbered):
            yield TAB, lambda line: line.rstrip(" \t").split("\t")
            yield TABS, lambda line: re.split("\t+", line.rstrip(" \t"))
        else:
            yield COMMA, lambda line: _quoted(line, ",")
    yield BLANKS, lambda line: re.split("[ \t]+", line.strip(" \t"))


def _without_titles(numbered: list[tuple[int, str]]) -> tuple[list[tuple[int, str]], list[str]]:
    """Returns the lines without those that tell of a sentence (`# id 7`), and a note of them.

    Each sentence begins with such a line, and none of these ends in a tag; a word `#` has one.
    """
    before = [""] + [line for _, line in numbered]
    first = [
        number for (number, line), last in zip(numbered, before, strict=False) if line.strip() and not last.strip()
    ]
    opening = set(first)
    titles = [line for number, line in numbered if number in opening]
    if len(titles) < 2 or not all(line[:2] in ("# ", "#\t") and not is_tag(line.split()[-1]) for line in titles):
        return numbered, []
    note = f"lines before sentences are passed over, as {titles[0][:30]!r}"
    return [(number, line) for number, line in numbered if number not in opening], [note]


def _quoted(line: str, delimiter: str) -> list[str]:
    """Returns the fields of a line, which may stand in quotes."""
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True), [""])
    except csv.Error:
        return [line]


def _split(numbered: Sequence[tuple[int, str]], split: Split, conllu: bool) -> list[list[Token]]:
    """Returns the words of each sentence; an empty line ends one, and so does a new document."""
    sentences: list[list[Token]] = [[]]
    for number, line in numbered:
        fields = tuple(part.strip(" \t") for part in split(line))
        if not any(fields) or fields[0].split(" ")[0] == DOCUMENT:
            sentences.append([])
        elif not (conllu and NO_WORD.fullmatch(fields[0])):
            sentences[-1].append(Token(number, fields))
    return [sentence for sentence in sentences if sentence]


@dataclass
class _Table:
    """Words of sentences with their columns. Raises `_Misfit` where they are no table."""

    rows: list[list[Token]]
    names: Sequence[str]
    settings: ReadSettings
    conllu: bool
    notes: list[str] = field(default_factory=list)

    def sentences(self) -> Iterator[Sentence]:
        """Yields the sentences."""
        chosen = (self.settings.word_column, self.settings.tag_column)
        if self.rows and not self.names and any(name and not _is_number(name) for name in chosen):
            self._take_header([name for name in chosen if name and not _is_number(name)])
        if not self.rows:
            return
        self._require_columns(by_sentence=all(map(_is_number, chosen)))
        word = self._index("word_column") if self.settings.word_column else self._usual_word()
        tag = self._index("tag_column") if self.settings.tag_column else self._usual_tag(word)
        for sentence in self.rows:
            for token in sentence:
                if not token.fields[word]:
                    raise _Misfit(token.line, f"no word in column {word + 1}")
                if not is_tag(token.fields[tag]):
                    remedy = "; name its column in data.tag_column" if len(token.fields) > 2 else ""
                    remedy += "; names of columns go into data.word_column and data.tag_column" * (token.line == 1)
                    raise _Misfit(token.line, f"{token.fields[tag]!r} is no BIO tag (O, B-TYPE or I-TYPE){remedy}")
            words, tags = ([token.fields[column] for token in sentence] for column in (word, tag))
            yield Sentence([token.line for token in sentence], words, tags)

    def _take_header(self, chosen: Sequence[str]) -> None:
        """Takes the names of the columns from the first line, or from CoNLL-U."""
        first = self.rows[0][0]
        if set(chosen) <= set(first.fields):
            self.names = first.fields
            self.rows = [rest for sentence in self.rows if (rest := [t for t in sentence if t is not first])]
        elif self.conllu and len(first.fields) == len(CONLLU):
            self.names = CONLLU

    def _require_columns(self, *, by_sentence: bool) -> None:
        """Requires as many columns in every line, or in every line of a sentence, as in the line before."""
        count = len(self.names)
        for sentence in self.rows:
            for number, token in enumerate(sentence):
                if len(token.fields) < 2:
                    raise _Misfit(token.line, f"expected a word and its tag, got {token.fields[0]!r} alone", columns=0)
                if not count or (by_sentence and not number):
                    count = len(token.fields)
                if len(token.fields) != count:
                    raise _Misfit(
                        token.line,
                        f"{len(token.fields)} columns, expected {count}; where words hold blanks, put one tab between "
                        "the columns of every line",
                        columns=1,
                    )

    def _index(self, role: str) -> int:
        """Returns the index of the column that a setting names."""
        name, first = getattr(self.settings, role), self.rows[0][0]
        if not _is_number(name):
            if name not in self.names:
                raise _Misfit(first.line, f"has no column {name!r}; {nearest(name, self.names)}; set data.{role}")
            if self.names.count(name) > 1:
                raise _Misfit(first.line, f"{self.names.count(name)} columns have the name {name!r}; set its number")
            return self.names.index(name)
        for token in (token for sentence in self.rows for token in sentence):
            if not 1 <= int(name) <= len(token.fields):
                raise _Misfit(token.line, f"has {len(token.fields)} columns; data.{role} is {name}")
        return int(name) - 1

    def _usual_word(self) -> int:
        """Returns the first column, or the second where the first only numbers the words."""
        first = self.rows[0][0]
        if self.conllu and len(first.fields) == len(CONLLU):
            return 1
        numbers = [[token.fields[0] for token in sentence] for sentence in self.rows]
        if not all(text.isascii() and text.isdigit() for sentence in numbers for text in sentence):
            return 0
        counted = _are_counted([[int(text) for text in sentence] for sentence in numbers])
        if len(first.fields) > 2 and counted:
            self.notes.append("the first column numbers the words: they are in the second")
            return 1
        if counted or (len(first.fields) > 2 and sum(map(len, numbers)) > 1):
            raise _Misfit(first.line, "the first column holds numbers only; name that of the words in data.word_column")
        return 0

    def _usual_tag(self, word: int) -> int:
        """Returns the last column, or the only one with tags where the last has none."""
        tokens = [token for sentence in self.rows for token in sentence]
        last = len(tokens[0].fields) - 1

        def of_tags(column: int) -> bool:
            return all(is_tag(token.fields[column]) for token in tokens)

        def has_entity(column: int) -> bool:
            return any(token.fields[column] != OUTSIDE and is_tag(token.fields[column]) for token in tokens)

        if of_tags(last) or has_entity(last):
            return last
        others = [column for column in range(last) if column != word and of_tags(column) and has_entity(column)]
        if len(others) != 1:
            return last
        self.notes.append(f"the tags are in column {others[0] + 1}, the only one that holds tags")
        return others[0]


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _are_counted(numbers: Sequence[Sequence[int]]) -> bool:
    """Returns whether numbers count the words of each sentence, or of the whole file, from 0 or 1."""
    flat = [number for sentence in numbers for number in sentence]
    each = all(list(s) == list(range(s[0], s[0] + len(s))) and s[0] in (0, 1) for s in numbers)
    return len(flat) > 1 and flat[0] in (0, 1) and (each or flat == list(range(flat[0], flat[0] + len(flat))))
