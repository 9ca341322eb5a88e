"""The home: the folder of backbones, prepared data and compiled programs on a machine, `TOPGRAFT_HOME`.

Default `~/.cache/topgraft`. A user names a backbone by its folder, or by a name that the importer knows (`minilm`) and
imports into the home on first use. A graft names it by `weights_id`. Importing this module imports no jax, since a
command that only looks something up must be fast.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from backbone.errors import InputError
from backbone.texts import load_json

log = logging.getLogger(__name__)

MIN_COMPILE_SECONDS = 0.02  # what compiles faster is not kept: reading a kept program takes as long


def home() -> Path:
    """Returns the folder `TOPGRAFT_HOME`, default `~/.cache/topgraft`.

    Raises InputError if it is not set and this user has no home directory, as in many containers.
    """
    if place := os.environ.get("TOPGRAFT_HOME"):
        return Path(place)
    try:
        return Path.home() / ".cache" / "topgraft"
    except RuntimeError as error:
        raise InputError("TOPGRAFT_HOME: not set, and this user has no home directory; set it to a folder") from error


def boundaries_folder() -> Path:
    """Returns the folder of this machine's boundary caches."""
    return home() / "boundaries"


def machines_folder() -> Path:
    """Returns the folder of records of this machine, one for each set of versions and flags (`adapters.machine`)."""
    return home() / "machines"


def resolve_backbone(name: str) -> Path:
    """Returns the folder of a backbone given as a folder, or as `minilm`, imported on first use."""
    from backbone.files import BACKBONE_FILE
    from backbone.remote import local
    from backbone.storage import read_record

    path = local(name)
    if (path / BACKBONE_FILE).is_file() or name != "minilm":
        read_record(path)
        return path
    path = home() / "backbones" / name
    if not (path / BACKBONE_FILE).is_file():
        from backbone.exchange.importing import import_backbone

        log.info("importing %s into %s", name, path)
        try:
            import_backbone(name, path)
        except InputError:
            if not (path / BACKBONE_FILE).is_file():  # else another process was faster
                raise
    return path


def max_tokens_of(name: str) -> int | None:
    """Returns the longest input in tokens of a backbone, without importing jax; None where there is none yet."""
    from backbone.files import BACKBONE_FILE
    from backbone.remote import local

    for folder in (local(name), home() / "backbones" / name):
        try:
            longest = load_json((folder / BACKBONE_FILE).read_text(encoding="utf-8"))["max_tokens"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        return longest if isinstance(longest, int) else None
    return None


def stored_ids(name: str) -> tuple[str, str]:
    """Reads (weights_id, preprocessing_id) of a backbone folder, or of `minilm`, imported on first use.

    The first is that of the float32 weights. Needs no jax where the folder is there; raises InputError for another one.
    """
    from backbone.files import BACKBONE_FILE
    from backbone.remote import local

    path = local(name)
    if not (path / BACKBONE_FILE).is_file() and name == "minilm":
        path = home() / "backbones" / name
        if not (path / BACKBONE_FILE).is_file():
            path = resolve_backbone(name)
    try:
        record = load_json((path / BACKBONE_FILE).read_text(encoding="utf-8"))
        return str(record["weights_id"]), str(record["preprocessing_id"])
    except FileNotFoundError:
        raise InputError(
            f"backbone: {path}: not a backbone folder (no {BACKBONE_FILE}); make one with "
            f"`topgraft import-backbone SOURCE --out {path}`"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"backbone: {path / BACKBONE_FILE}: unreadable: {error}; import the backbone again") from error


def find_backbone(weights_id: str, hints: Sequence[str]) -> Path:
    """Returns the folder of the backbone that is `weights_id` in some precision: among `hints`, then in the home.

    Raises InputError with the places that it looked at and the backbones that it saw there.
    """
    from backbone.files import BACKBONE_FILE
    from backbone.precisions.precision import precision_of
    from backbone.storage import read_record

    stored = sorted((home() / "backbones").glob("*")) if (home() / "backbones").is_dir() else []
    seen = []
    for path in [*(Path(hint) for hint in hints if hint), *stored]:
        if not (path / BACKBONE_FILE).is_file():
            seen.append(f"{path}: no backbone")
            continue
        stored_id = read_record(path).weights_id
        if precision_of(stored_id, weights_id):
            return path
        seen.append(f"{path}: {stored_id[:19]}...")
    places = "\n  ".join(seen) or "nowhere: no place was given"
    raise InputError(
        f"the graft belongs to the backbone {weights_id[:19]}..., which was not found; pass --backbone DIR. "
        f"Looked at:\n  {places}"
    )


def use_compilation_cache() -> None:
    """Keeps compiled programs in the home between processes; `TOPGRAFT_COMPILATION_CACHE=0` switches it off.

    The folder is private, since compiled programs are code that will run.
    """
    if os.environ.get("TOPGRAFT_COMPILATION_CACHE", "1") == "0":
        return
    folder = home() / "programs"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
    except OSError as error:
        log.warning("no compilation cache at %s: %s", folder, error)
        return
    import jax

    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_SECONDS)
