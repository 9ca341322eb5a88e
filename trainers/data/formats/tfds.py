"""Data sets by their name in TensorFlow Datasets: an entry `tfds:NAME[/CONFIG][:SPLIT]`."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from backbone.errors import InputError, nearest
from trainers.data.formats.format import Format, ReadSettings, Record

log = logging.getLogger(__name__)


class Tfds(Format, tag="tfds"):
    """A data set that TFDS has prepared, or can prepare; its features are the columns."""

    prefix = "tfds:"
    entry = "name"
    image_column = True

    def identity(self, entry: str, split: str) -> str:
        """Returns the full name with its version, the split, and the size of each split."""
        builder, chosen = tfds_builder(entry.removeprefix(self.prefix), split)
        sizes = {s: [info.num_examples, info.num_bytes] for s, info in builder.info.splits.items()}
        return f"{builder.info.full_name}:{chosen}:{json.dumps(sizes, sort_keys=True)}"

    def records(self, entries: Sequence[str], settings: ReadSettings) -> Iterator[Record]:
        """Yields the examples of the split, numbered from 0; of a ClassLabel the names."""
        (entry,) = entries
        builder, split = tfds_builder(entry.removeprefix(self.prefix), settings.split)
        if split not in builder.info.splits:
            raise InputError(f"{entry}: has no split {split!r}; {nearest(split, builder.info.splits)}")
        features = builder.info.features
        settings.require_columns(features, entry)
        columns = list(dict.fromkeys(settings.columns.values())) or list(features)
        names = {column: _names_of(features[column]) for column in columns if column == settings.columns.get("label")}
        for number, example in enumerate(builder.as_data_source(split=split)):
            where = f"{entry}:{number}"
            record = {column: example[column] for column in columns}
            yield where, record | {column: tfds_label(record[column], name, where) for column, name in names.items()}


def _names_of(feature: Any) -> Callable[[int], str] | None:
    """Returns the function from the numbers of a ClassLabel, or of a sequence of them, to names; None for others."""
    return getattr(feature, "int2str", None) or getattr(getattr(feature, "feature", None), "int2str", None)


def tfds_label(value: Any, to_name: Callable[[int], str] | None, where: str) -> Any:
    """Returns the name of a class of TFDS, or a list of names; raises InputError for -1, which stands for no label."""
    if hasattr(value, "ndim") and value.ndim:
        return [tfds_label(item, to_name, where) for item in value]
    if to_name is not None:
        if int(value) < 0:
            raise InputError(f"{where}: no label ({int(value)}); choose a split that has labels")
        return to_name(int(value))
    return value.item() if hasattr(value, "item") else value


def tfds_builder(name: str, split: str) -> tuple[Any, str]:
    """Returns the prepared builder and the split of `NAME[/CONFIG][:SPLIT]`; `split` is the default.

    Raises InputError when TFDS does not know the name or cannot prepare it here.
    """
    import tensorflow_datasets as tfds

    from trainers.runs.logs import silent_tfds

    name, _, chosen = name.partition(":")
    try:
        builder = tfds.builder(name, file_format="array_record")
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        try:
            builder = tfds.builder(name)
        except (tfds.core.DatasetNotFoundError, ValueError, ImportError):
            raise InputError(f"tfds:{name}: TFDS does not know this name: {str(error).splitlines()[0]}") from error
    except ImportError as error:
        raise InputError(f"tfds:{name}: needs TensorFlow to be prepared: pip install 'topgraft[tensorflow]'") from error
    if not Path(builder.data_dir).exists():
        log.info("tfds:%s: TFDS prepares it, once; a large data set takes long", name)
    try:
        with silent_tfds():
            builder.download_and_prepare()
    except ImportError as error:
        raise InputError(f"tfds:{name}: needs TensorFlow to be prepared: pip install 'topgraft[tensorflow]'") from error
    except (OSError, ValueError, AssertionError, tfds.download.DownloadError) as error:
        raise InputError(
            f"tfds:{name}: cannot be prepared here: {type(error).__name__}: {str(error).splitlines()[0]}; prepare it "
            f"where there is network (pip install 'topgraft[tensorflow]' if it asks for TensorFlow) and copy its folder"
        ) from error
    return builder, chosen or split
