"""The base of data formats: the entries that it reads, the bytes that they are known by, and their records.

    class Chat(Format, tag="chat"):
        '''One row a line: the label, a colon and the text.'''

        suffixes = (".chat",)
        has_columns = False

        def records(self, entries, settings):
            for number, line in lines(settings.text_of(Path(entries[0]))):
                label, _, text = line.partition(":")
                yield f"{entries[0]}:{number}", {"text": text, "label": label}

A format knows no config, no head and no label set: `trainers.data.rows` makes rows of its records. A format of your
own is a class like this one in a config script, and `data.format` takes its tag. Nothing here imports jax, nor
pyarrow, Pillow or tensorflow_datasets before a file that needs them is read.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from backbone import texts
from backbone.compression import plain_name
from backbone.errors import InputError, nearest
from backbone.files import sha256_file
from backbone.texts import lines as lines  # formats of users import it from here
from backbone.variants.registered import REGISTRIES, VARIANTS, Registered, run_named_variants, variant, variants

AUTO = "auto"  # data.format that leaves the choice to each file's suffix
SHEETS = (".xlsx", ".xls", ".ods", ".numbers")  # suffixes of spreadsheets, which no format reads
OWN = f", or name the script of a format of your own in {VARIANTS}"
LAYOUT = ("delimiter", "word_column", "tag_column")  # fields of `data` that only some formats read

Record = tuple[str, Mapping[str, Any]]  # file and line, for messages; and the raw value of each column or role


@dataclass(frozen=True)
class ReadSettings:
    """The settings by which the entries of a split are read."""

    split: str = "train"  # name of the split, for messages
    columns: Mapping[str, str] = field(default_factory=dict)  # column of each role to be read; empty: every column
    header: tuple[str, ...] = ()  # names of the columns of a file without a header
    encoding: str = "utf-8"  # encoding of text files
    delimiter: str = ""  # character between two columns; empty: as the format has it
    word_column: str = ""  # number, from 1, or name of the column of words; empty: the first
    tag_column: str = ""  # number, from 1, or name of the column of tags; empty: the last

    def text_of(self, path: Path) -> str:
        """Returns the text of a file, without a byte order mark; raises InputError with the line of a bad byte."""
        return texts.read_text(
            path, self.encoding, "convert the file, or set data.encoding (latin-1, cp1252, utf-16, ...)"
        )

    def json_of(self, text: str, where: str) -> Any:
        """Returns the value of a JSON text; raises InputError for other text, and where a key to be read is doubled."""
        return texts.parse_json(text, where, self.read or None)

    @property
    def read(self) -> Collection[str]:
        """Returns the names of the columns that are to be read; () for all."""
        return dict.fromkeys(self.columns.values())

    def require_columns(self, names: Iterable[str], where: str, remedy: str = "") -> None:
        """Raises InputError unless `names` hold every column that is to be read, and hold it once.

        A format that knows its columns before the first record calls it, so that the error names the file. Two columns
        of one name that nobody reads do no harm, as the empty names behind the last column of a spreadsheet.
        """
        known = list(names)
        for name in self.read or (name for name in known if name):
            if known.count(name) > 1:
                raise InputError(f"{where}: {known.count(name)} columns have the name {name!r}; rename all but one")
        for role, column in self.columns.items():
            if column not in known:
                raise InputError(
                    f"{where}: has no column {column!r}; {nearest(column, known)}; set data.{role}{remedy}"
                )


class Format(Registered, by="format", folder="trainers.data.formats", needs=("records",), words=(AUTO,)):
    """A way to store rows in files. It has no state; its properties are class variables."""

    suffixes: ClassVar[tuple[str, ...]] = ()  # suffixes of files that are of this format with data.format=auto
    prefix: ClassVar[str] = ""  # start of an entry that is of this format, whatever data.format says
    entry: ClassVar[Literal["file", "folder", "name"]] = "file"  # what an entry of a split names
    files: ClassVar[tuple[str, ...]] = ()  # what the files of a split hold, in order; empty: any number, all of rows
    has_columns: ClassVar[bool] = True  # records have the file's columns; otherwise the roles text, image and label
    of_images: ClassVar[bool] = False  # every row is an image
    binary: ClassVar[bool] = False  # files are no text: `data.encoding` does not matter
    image_column: ClassVar[bool] = False  # a column may hold encoded images
    labels_per: ClassVar[Literal["", "word"]] = ""  # word: only heads that answer for each word fit; "": any head
    reads: ClassVar[tuple[str, ...]] = ()  # those of `LAYOUT` that the format reads

    def records(self, entries: Sequence[str], settings: ReadSettings) -> Iterator[Record]:
        """Yields every record of one entry, or of all of a split's where `files` says what they hold.

        Records have the columns that `settings` name, and may have more; all of them if none is named. Without columns
        they have the roles: text (or image) and label. Raises InputError with file and line at the first record that
        cannot be understood; none is left out.
        """
        raise NotImplementedError

    def first_line(self, entry: str, settings: ReadSettings) -> tuple[str, ...]:
        """Returns the fields of the line that names the columns; () for a format without such a line."""
        return ()

    def require_layout(self, settings: ReadSettings) -> None:
        """Raises InputError for a setting of `LAYOUT` that the format does not read."""
        for name in LAYOUT:
            if getattr(settings, name) and name not in self.reads:
                raise InputError(f"data.{name}: files of format {self.tag} do not have it")

    def path(self, entry: str) -> Path:
        """Returns the file or folder that an entry names."""
        return Path(entry)

    def identity(self, entry: str, split: str) -> str:
        """Returns what the content of an entry is known by; equal identities give equal records."""
        path = self.path(entry)
        packed = "" if plain_name(path) == path.name else Path(plain_name(path)).suffix
        return packed + path.suffix + sha256_file(path)

    def notes(self, entry: str, split: str) -> Iterable[str]:
        """Yields what is left out of an entry and should be known, a sentence each; the default leaves out nothing."""
        return ()

    def require_entry(self, entry: str, split: str) -> None:
        """Raises InputError unless the file or folder exists."""
        path = self.path(entry)
        if (self.entry == "file" and not path.is_file()) or (self.entry == "folder" and not path.is_dir()):
            raise InputError(f"data.{split}: {entry}: no such {self.entry}")


def named_format(tag: str, where: str = "data.format") -> Format:
    """Returns the format of a tag; raises InputError with the nearest names, or for one that entries choose."""
    chosen = variant(Format, tag, where)()
    if chosen.prefix:
        raise InputError(
            f"{where}: {tag} is chosen by an entry that begins with {chosen.prefix}; name {chosen.prefix}NAME in the "
            f"split and leave data.format={AUTO}"
        )
    return chosen


def known_formats() -> dict[str, type[Format]]:
    """Returns the class of every format, those of `TOPGRAFT_VARIANTS` included.

    A script whose classes are known does not run again, which would define them a second time.
    """
    names = [name.strip() for name in os.environ.get(VARIANTS, "").split(",") if name.strip()]
    known = {file for registry in REGISTRIES for file in registry.files.values()}
    if any(name not in sys.modules and str(Path(name).resolve()) not in known for name in names):
        run_named_variants()
    return variants(Format)


def format_of(entry: str, tag: str, split: str, *, image_column: bool = False) -> Format:
    """Returns the format of an entry: by its prefix, by `tag`, or with `auto` by its suffix.

    With `image_column` only formats with columns of images are looked at; if there is but one, any suffix will do.
    """
    chosen = None if tag == AUTO else named_format(tag)
    known = [cls() for cls in (variants(Format) if chosen else known_formats()).values()]
    by_prefix = [other for other in known if other.prefix and entry.startswith(other.prefix)]
    if by_prefix and not (chosen and chosen.files):
        return by_prefix[0]
    if chosen is not None:
        return chosen
    known = [other for other in known if not other.prefix and (other.image_column or not image_column)]
    name = plain_name(Path(entry))
    fitting = [other for other in known if Path(name).suffix.lower() in other.suffixes]
    if not fitting and image_column and len(known) == 1:
        fitting = known
    if len(fitting) == 1:
        return fitting[0]
    if not Path(entry).exists():
        raise InputError(f"data.{split}: {entry}: no such file")
    if not fitting:
        raise _unknown(entry, split, known)
    tags = " and ".join(other.tag for other in fitting)
    raise InputError(f"data.{split}: {entry}: the formats {tags} have this suffix; set data.format to one of them")


def _unknown(entry: str, split: str, known: Iterable[Format]) -> InputError:
    """Returns the error for an entry whose suffix no format has, with the remedy for what it is."""
    suffix = Path(entry).suffix.lower()
    where = f"data.{split}: {entry}: format unknown from its suffix"
    if suffix in SHEETS:
        return InputError(f"{where}; save the table as CSV UTF-8 and name that file")
    if suffix in (".zip", ".tar", ".tgz"):
        return InputError(f"{where}; an archive of several files is not read: unpack it, and name the files")
    folders = Path(entry).is_dir()
    fitting = [other for other in known if (other.entry == "folder") == folders]
    image = next((f"data.format={other.tag}" for other in fitting if folders and other.of_images), "")
    call = f"topgraft train image_classification --set {image} --set {shlex.quote(f'data.{split}={entry}')}"
    remedy = f"set data.format ({', '.join(other.tag for other in fitting)})"
    return InputError(f"{where}; {remedy}{f'; images are trained by `{call}`' if image else ''}{OWN}")
