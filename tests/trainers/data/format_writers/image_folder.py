"""A folder with a subfolder of images per class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from tests.trainers.data.format_writers import ImageRows


def write(folder: Path, rows: ImageRows) -> dict[str, Any]:
    for number, (pixels, label) in enumerate(rows):
        place = folder / "pictures" / label
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number}.png")
    return {"train": str(folder / "pictures"), "format": "image_folder"}
