"""A data set that TFDS prepares itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.trainers.data.format_writers import TextRows, text_file


def write(folder: Path, rows: TextRows) -> dict[str, Any]:
    """Has TFDS itself prepare the rows, in a process of its own; TFDS_DATA_DIR is the folder."""
    code = (
        "import json, sys\nimport tensorflow_datasets as tfds\nrows = json.loads(sys.argv[1])\n"
        "class ExampleRows(tfds.core.GeneratorBasedBuilder):\n"
        "    '''Rows of an example.'''\n"
        "    VERSION = tfds.core.Version('1.0.0')\n"
        "    def _info(self):\n"
        "        names = sorted({label for _, label in rows})\n"
        "        features = {'text': tfds.features.Text(), 'label': tfds.features.ClassLabel(names=names)}\n"
        "        features = tfds.features.FeaturesDict(features)\n"
        "        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)\n"
        "    def _generate_examples(self): pass\n"
        "    def _split_generators(self, manager): return {'train': self._rows()}\n"
        "    def _rows(self):\n"
        "        for i, (text, label) in enumerate(rows): yield i, {'text': text, 'label': label}\n"
        "ExampleRows(data_dir=sys.argv[2], file_format='array_record').download_and_prepare()\n"
    )
    script = Path(text_file(folder / "example_rows.py", code))
    subprocess.run([sys.executable, script, json.dumps(rows), folder], check=True, capture_output=True)
    script.unlink()
    return {"train": "tfds:example_rows"}
