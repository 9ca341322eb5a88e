"""A graft or backbone folder, verified and written below an address on an object store, where nothing changes later."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from adapters.artefact.manifest import MANIFEST
from adapters.artefact.read import read_graft
from backbone import remote
from backbone.errors import InputError
from backbone.files import BACKBONE_FILE


@dataclass(frozen=True)
class Uploaded:
    """What lies below an address now; `--json` prints it."""

    address: str
    id: str  # content_id of a graft, weights_id of a backbone
    files: int
    bytes: int


def upload(folder: str | Path, address: str) -> Uploaded:
    """Writes every file of a graft or backbone below an address, the one that describes the others last.

    What lies there already with the same content stays. Raises InputError for a damaged folder, an address that is
    none, and other content there.
    """
    folder, address = Path(folder), address.rstrip("/")
    if not remote.is_remote(address):
        raise InputError(f"{address}: is no address on an object store; expected s3://BUCKET/NAME or gs://BUCKET/NAME")
    last, name = _verified(folder)
    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    remote.upload(folder, [*(file for file in files if file != last), last], address)
    return Uploaded(address, name, len(files), sum((folder / file).stat().st_size for file in files))


def _verified(folder: Path) -> tuple[str, str]:
    """Returns the file that describes a folder, and its id, after every byte was verified."""
    if (folder / MANIFEST).is_file():
        return MANIFEST, read_graft(folder)[0].content_id
    if (folder / BACKBONE_FILE).is_file():
        from backbone.storage import load_backbone, read_record

        if base := read_record(folder).base:
            raise InputError(
                f"{folder}: holds what it adds to another trunk, {base[:19]}..., alone, which nobody finds elsewhere. "
                f"Write it whole: topgraft export-backbone {folder} --format hf --out DIR, import DIR, upload that"
            )
        return BACKBONE_FILE, load_backbone(folder, precision="float32").base_id
    raise InputError(f"{folder}: neither a graft (no {MANIFEST}) nor a backbone (no {BACKBONE_FILE})")
