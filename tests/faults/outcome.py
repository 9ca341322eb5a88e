"""What a reader sees below the root: each part is that of before the verb, or that of after it; nothing is between."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapters.artefact.read import read_graft
from backbone.cache import VARIANT_FILE, RowCache, Variant
from backbone.files import sha256_file
from backbone.home import boundaries_folder
from backbone.records import decode
from registry.audit import audit
from registry.database import open_registry
from registry.entries import NoRegistry
from registry.store import Store
from registry.transfer import read
from tests.faults.world import World

Parts = Mapping[str, Any]  # JSON values by part; None for a part that is not there


def seen(world: World) -> Parts:
    """Reads every part, every byte of it. Raises what a reader would, and AssertionError for a log with gaps."""
    return {
        "registry": registry_of(world),
        "export": exported(world.exported),
        "graft": graft_of(world.workdir / "graft"),
        "peft": files_of(world.peft),
    }


def registry_of(world: World) -> Any:
    """Returns versions, log and what is live of each task, once the audit has read every artefact."""
    if not world.database.exists():
        return None
    try:
        registry = open_registry(world.url, create=False)
    except NoRegistry:
        return None
    with contextlib.closing(registry):
        if not (tasks := registry.tasks()):
            return None
        audit(registry, Store(world.store))
        lives = registry.lives()
        return {
            task: {
                "live": [lives[task].version, lives[task].content_id] if task in lives else None,
                "log": [[entry.from_version, entry.to_version] for entry in registry.promotions(task)],
                "versions": [[v.content_id, v.state] for v in reversed(registry.versions(task))],
            }
            for task in tasks
        }


def exported(file: Path) -> Any:
    """Returns the number of lines of each table of an export."""
    return {name: len(rows) for name, rows in read(file).items()} if file.exists() else None


def graft_of(folder: Path) -> Any:
    """Returns the content id of a graft folder; the folder is there whole, or not at all."""
    return read_graft(folder)[0].content_id if folder.exists() else None


def files_of(folder: Path) -> Any:
    """Returns the hash of each file."""
    return {file.name: sha256_file(file) for file in sorted(folder.iterdir())} if folder.exists() else None


def between(now: Parts, before: Parts, end: Parts) -> list[str]:
    """Returns what is neither as before nor as after the verb."""
    files = ("export", "graft", "peft")
    problems = [f"{name}: {now[name]}" for name in files if now[name] not in (before[name], end[name])]
    first, last = before["registry"] or {}, end["registry"] or {}
    for task, state in (now["registry"] or {}).items():
        empty = {"live": None, "log": [], "versions": []}
        old, new = first.get(task, empty), last[task]
        if (state["live"], state["log"]) not in ((old["live"], old["log"]), (new["live"], new["log"])):
            problems.append(f"live: {state['live']} with the log {state['log']}")
        if not {v for v, _ in old["versions"]} <= {v for v, _ in state["versions"]} <= {v for v, _ in new["versions"]}:
            problems.append(f"versions: {state['versions']}")
    if first.keys() - (now["registry"] or {}).keys():
        problems.append("the registry is gone")
    return problems


def cached_rows(world: World) -> dict[str, str]:
    """Returns the hash of each row of each cache, as it is read without looking for damage first."""
    rows = {}
    for folder in sorted(boundaries_folder().glob("*/")):
        if not (folder / VARIANT_FILE).exists():
            continue
        variant = decode(Variant, json.loads((folder / VARIANT_FILE).read_text()), str(folder))
        cache = RowCache(boundaries_folder(), variant)
        for key, place in cache._places.items():
            states = cache.read(key)
            rows[f"{folder.name} {key.hex()}"] = f"{place.bucket} {hashlib.sha256(states.tobytes()).hexdigest()[:16]}"
    return rows


def listing(world: World) -> list[str]:
    """Returns the files and folders below the root, with # for what differs from run to run."""
    names = set()
    for folder, folders, files in os.walk(world.root):
        for name in (*folders, *files):
            names.add(plain(str((Path(folder) / name).relative_to(world.root))))
    return sorted(name for name in names if not name.startswith(("home/programs", "home/machines")))


def plain(name: str) -> str:
    """Returns a path with # for numbers of processes, times and random ids, as `calls.c` writes it."""
    return re.sub(r"[0-9A-Za-z]+", lambda part: "#" if varies(part[0]) else part[0], name)


def varies(word: str) -> bool:
    """Returns whether a word of a path is a number of three digits, or a longer name with digits or of a temporary."""
    digits = sum(letter.isdecimal() for letter in word)
    if len(word) == 6 and word.upper() == word:
        return True
    return (digits >= 3 and digits == len(word)) or ((digits > 0 or word.startswith("tmp")) and len(word) >= 7)
