"""Images to rows of patches, exactly as the backbone was trained to see them.

A row is uint8 [T,P]: a token for each patch of P values (rows of pixels, channels last), behind empty places for the
special tokens. It has a length, a bucket and a hash like a row of token ids, so it takes the same way through
batches, cache and canary. The host decodes (Pillow), resizes and crops. Scaling and normalising run on the device, in
`backbone.network.encoder`.

Shapes: T tokens, P values of a patch, S pixels a side, C channels.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from backbone.compression import POINTER
from backbone.errors import InputError
from backbone.records import decode, digest, encode
from backbone.spec import ImageSpec
from backbone.texts import load_json

NUMERICS_VERSION = 2  # raised by hand when the same image would give other pixels
FILE = "preprocessing.json"
MAX_PIXELS = 1 << 27  # pixels of an image before and after it is resized, 400 MB in RGB
RESAMPLING = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # filters in the order of Pillow's numbers


@dataclass(frozen=True)
class ImagePreprocessing:
    """The way from an image to pixels of the size that the backbone takes."""

    image: ImageSpec  # size and patches
    resize: int  # pixels a side before the centre is cut out; the image's size: nothing is cut off
    keep_ratio: bool = False  # resize the shorter side to that, instead of both
    resample: Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"] = "bilinear"

    def __post_init__(self) -> None:
        if self.resize < self.image.size:
            raise InputError(f"resize: {self.resize} pixels do not hold the {self.image.size} that are cut out")

    @classmethod
    def from_file_text(cls, text: str, where: str) -> ImagePreprocessing:
        """Reads the text that `file_text` gives. Raises InputError naming `where`."""
        try:
            content = load_json(text)
        except ValueError as error:
            raise InputError(f"{where}: not JSON: {error}; import the backbone again") from error
        return decode(cls, content, where)

    @property
    def file_text(self) -> str:
        """Returns the content of `preprocessing.json` in a backbone folder."""
        return json.dumps(encode(self), indent=1)

    @cached_property
    def preprocessing_id(self) -> str:
        """Returns `sha256:<hex>` of everything that decides the pixels of an image."""
        return digest({"kind": "image", "numerics": NUMERICS_VERSION, **encode(self)})

    @property
    def max_tokens(self) -> int:
        """Returns the tokens of every image, the special ones included."""
        return self.image.tokens

    @property
    def vocabulary(self) -> int:
        """Returns 0: an image has no token ids."""
        return 0

    @property
    def fill(self) -> int:
        """Returns 0: nothing is padded, since every row has the same length."""
        return 0

    def encode(self, images: Sequence[Any], where: Sequence[str] = ()) -> list[np.ndarray]:
        """Returns rows uint8 [T,P] of encoded images (bytes) or of their files (str or Path).

        Raises InputError naming the file, or `where`, of an image that cannot be read.
        """
        return [self._row(image, where[i] if where else f"images[{i}]") for i, image in enumerate(images)]

    def _row(self, image: Any, where: str) -> np.ndarray:
        if isinstance(image, (str, Path)):
            where = str(image)
            try:
                image = Path(image).read_bytes()
            except OSError as error:
                raise InputError(f"{where}: cannot be read: {error}") from error
        if not isinstance(image, bytes):
            raise InputError(f"{where}: expected the name of a file or encoded bytes, got {type(image).__name__}")
        return patches(self.pixels(open_image(image, where), where), self.image)

    def pixels(self, picture: Any, where: str = "image") -> np.ndarray:
        """Returns a Pillow image of `open_image` as uint8 [S,S,C].

        Raises InputError naming `where` for an image so narrow that its resized form would pass `MAX_PIXELS`.
        """
        from PIL import Image

        picture = picture.convert("L" if self.image.channels == 1 else "RGB")
        width, height = picture.size
        target = (self.resize, self.resize)
        if self.keep_ratio:  # the longer side is cut to whole pixels, as transformers does
            longer = int(self.resize * max(width, height) / min(width, height))
            target = (self.resize, longer) if width < height else (longer, self.resize)
            if target[0] * target[1] > MAX_PIXELS:
                raise InputError(
                    f"{where}: {width} x {height} pixels would be resized to {target[0]} x {target[1]}; cut out the "
                    "part that matters"
                )
        if target != picture.size:
            picture = picture.resize(target, Image.Resampling(RESAMPLING.index(self.resample)))
        left, top = ((side - self.image.size) // 2 for side in target)
        picture = picture.crop((left, top, left + self.image.size, top + self.image.size))
        return np.asarray(picture, np.uint8).reshape(self.image.size, self.image.size, self.image.channels)


def open_image(content: bytes, where: str) -> Any:
    """Returns the decoded Pillow image in a mode that converts to grey or RGB, turned as its EXIF data say.

    Transparency is dropped, as transformers drops it: the colours behind it count. Raises InputError naming `where` for
    an image that is damaged, has more than `MAX_PIXELS`, several frames, or values that 8 bits do not hold.
    """
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise InputError(f"{where}: images need Pillow: pip install 'topgraft[images]'") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # ours is the limit, and an error
            file = Image.open(io.BytesIO(content))
            _require_fit(file, where)
            file.load()
            return _in_eight_bits(ImageOps.exif_transpose(file))
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(f"{where}: more than {MAX_PIXELS:,} pixels, which are not decoded: save it smaller") from error
    except UnidentifiedImageError as error:
        pointer = content.startswith(POINTER)
        fault = "a Git LFS pointer; run `git lfs pull`" if pointer else "of no format that is known, or damaged"
        raise InputError(f"{where}: not a readable image: {fault}") from error
    except Exception as error:  # Pillow raises what its readers of each format happen to raise
        raise InputError(f"{where}: not a readable image: {error or type(error).__name__}") from error


def _require_fit(file: Any, where: str) -> None:
    """Raises InputError if the header tells of too many pixels or of several frames."""
    width, height = file.size
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{where}: {width} x {height} pixels; more than {MAX_PIXELS:,} are not decoded: save it smaller"
        )
    # a camera's MPO file holds its JPEG first, and previews or depths behind it
    if getattr(file, "is_animated", False) and file.format != "MPO":
        raise InputError(f"{where}: holds {file.n_frames} frames or pages; save the one that is meant")


def _in_eight_bits(picture: Any) -> Any:
    """Returns a picture in a mode that `convert` makes grey or RGB of; raises ValueError for a depth it cannot hold."""
    from PIL import Image

    if picture.mode.startswith("I;16"):  # convert() would make everything above 255 white
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {picture.mode}; save it with 8 or 16 bits a channel")
    if picture.mode == "P" and "transparency" in picture.info:
        return picture.convert("RGBA")
    if picture.mode == "LAB":
        raise ValueError("pixels of mode LAB; save it in RGB")
    return picture


def patches(pixels: np.ndarray, image: ImageSpec) -> np.ndarray:
    """Returns the row uint8 [T,P] of pixels uint8 [S,S,C]."""
    side, patch = image.size // image.patch, image.patch
    cut = pixels.reshape(side, patch, side, patch, image.channels).transpose(0, 2, 1, 3, 4)
    empty = np.zeros((image.special, image.patch_width), np.uint8)
    return np.concatenate([empty, cut.reshape(side**2, image.patch_width)])


def from_published(config: Mapping[str, Any], image: ImageSpec, where: str) -> ImagePreprocessing:
    """Reads a `preprocessor_config.json` of transformers. Raises InputError naming the field."""
    for field in ("do_resize", "do_rescale", "do_normalize"):
        if config.get(field, True) is not True:
            raise InputError(f"{where}: {field}: {config[field]!r} is not supported; only true is")
    if abs(config.get("rescale_factor", 1 / 255) - 1 / 255) > 1e-9:
        raise InputError(f"{where}: rescale_factor: {config['rescale_factor']!r} is not supported; only 1/255 is")
    crops = config.get("do_center_crop", False)
    resize, ratio = _side(config.get("size", image.size), f"{where}: size")
    final = _side(config.get("crop_size", image.size), f"{where}: crop_size")[0] if crops else resize
    if final != image.size or (ratio and not crops):
        raise InputError(f"{where}: size: it gives images of another size than the {image.size} pixels of config.json")
    resample = config.get("resample", 2)
    if resample not in range(len(RESAMPLING)):
        raise InputError(f"{where}: resample: {resample!r} is none of Pillow's filters 0..{len(RESAMPLING) - 1}")
    values = {name: config.get(f"image_{name}", (0.5,) * image.channels) for name in ("mean", "std")}
    for name, value in values.items():
        if not isinstance(value, (list, tuple)) or len(value) != image.channels:
            raise InputError(f"{where}: image_{name}: expected {image.channels} numbers, got {value!r}")
    mean, std = (tuple(map(float, values[name])) for name in ("mean", "std"))
    spec = ImageSpec(image.size, image.patch, mean, std, image.special)
    return ImagePreprocessing(spec, resize, ratio, RESAMPLING[resample])  # type: ignore[arg-type]


def _side(size: Any, field: str) -> tuple[int, bool]:
    """Returns the pixels a side, and whether they are those of the shorter one."""
    if isinstance(size, int):
        return size, False
    if isinstance(size, Mapping) and set(size) == {"shortest_edge"}:
        return int(size["shortest_edge"]), True
    if isinstance(size, Mapping) and set(size) == {"height", "width"} and size["height"] == size["width"]:
        return int(size["height"]), False
    raise InputError(f"{field}: {size!r} is not supported; a number, height = width, or shortest_edge are")
