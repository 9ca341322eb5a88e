"""Image files in folders: `FOLDER/CLASS/IMAGE`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from backbone.errors import InputError
from backbone.files import sha256_file
from backbone.records import digest
from backbone.texts import require_unicode
from trainers.data.formats.format import Format, ReadSettings, Record

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")  # suffixes of image files


JUNK = ("thumbs.db", "desktop.ini", "__macosx", "@eadir")  # names that systems leave in folders, in lower case


class ImageFolder(Format, tag="image_folder"):
    """A folder with a subfolder of images per class. Names that begin with a dot, and `JUNK`, are passed over."""

    entry = "folder"
    has_columns = False
    of_images = True

    def identity(self, entry: str, split: str) -> str:
        """Returns a hash of every image, by its place in the folder."""
        folder, field = self.path(entry), f"data.{split}"
        return digest({str(path.relative_to(folder)): sha256_file(path) for path, _ in images_of(folder, field)})

    def records(self, entries: Sequence[str], settings: ReadSettings) -> Iterator[Record]:
        """Yields the bytes of each image and its class, in alphabetical order."""
        for path, label in images_of(self.path(entries[0]), f"data.{settings.split}"):
            yield str(path), {"image": path.read_bytes(), "label": label}

    def notes(self, entry: str, split: str) -> Iterator[str]:
        """Yields a sentence that names the classes without an image."""
        folder = self.path(entry)
        if empty := [inside.name for inside in _inside(folder) if inside.is_dir() and not _inside(inside)]:
            names = ", ".join(map(repr, empty))
            yield f"data.{split}: {folder}: no image in {names}; a class without images is left out"


def images_of(folder: Path, field: str) -> Iterator[tuple[Path, str]]:
    """Yields each image and its class; raises InputError for a file without a class, or that is no image."""
    for inside in _inside(folder):
        if not inside.is_dir():
            raise InputError(f"{field}: {inside}: is in no class; expected {folder}/CLASS/IMAGE, a folder per class")
        for path in _inside(inside):
            if path.is_dir():
                raise InputError(
                    f"{field}: {path}: is a folder inside {inside.name!r}; expected FOLDER/CLASS/IMAGE: move its "
                    f"images up, or, if {inside.name!r} is a split, name {inside}"
                )
            if not path.is_file():
                raise InputError(f"{field}: {path}: cannot be read; a link to nowhere?")
            if path.suffix.lower() not in IMAGES:
                raise InputError(f"{field}: {path}: not an image by its suffix; known are {' '.join(IMAGES)}")
            require_unicode(str(path), f"{field}: name of a file")
            yield path, inside.name


def _inside(folder: Path) -> list[Path]:
    """Returns the files and folders in a folder that are no leavings of a system, in alphabetical order."""
    return sorted(p for p in folder.iterdir() if not p.name.startswith(".") and p.name.lower() not in JUNK)
