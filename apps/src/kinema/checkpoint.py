"""Checkpoints that a kill at any moment leaves whole: a fresh directory, renamed when complete, then `LATEST`.

    step-000123/trainer.ckpt     Lightning's checkpoint (a directory under sharding strategies)
    step-000123/manifest.json    {"step", "serial", "files": {name: {"size", "sha256"}}, ...}, written last
    LATEST                       the name of the newest

A name is never used twice, since overwriting destroys the old checkpoint before the new one is whole.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kinema.errors import UserError

MANIFEST = "manifest.json"
LATEST = "LATEST"


def trainer_file(checkpoint: Path) -> Path:
    """Lightning's own part of a checkpoint, for `trainer.fit(ckpt_path=...)`."""
    return checkpoint / "trainer.ckpt"


def read_manifest(checkpoint: Path) -> dict[str, Any] | None:
    """The manifest of a checkpoint directory; None where there is none that can be read."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text())
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and isinstance(manifest.get("files"), dict) else None


def is_whole(checkpoint: Path) -> bool:
    """Whether it was finished, and all its files are there in their full size."""
    manifest = read_manifest(checkpoint)
    if manifest is None or checkpoint.name.endswith(".tmp"):
        return False
    sizes = {name: entry["size"] for name, entry in manifest["files"].items()}
    return all((checkpoint / name).is_file() and (checkpoint / name).stat().st_size == sizes[name] for name in sizes)


def verify(checkpoint: Path) -> None:
    """Compare every file with its hash: what to do before trusting one from elsewhere.

    Raises:
        UserError: it is not whole, or a file has changed.
    """
    manifest = read_manifest(checkpoint)
    if manifest is None or not is_whole(checkpoint):
        raise UserError(f"{checkpoint} is no whole checkpoint")
    for name, entry in manifest["files"].items():
        if _sha256(checkpoint / name) != entry["sha256"]:
            raise UserError(f"{checkpoint / name} is not the file that was saved (its sha256 differs)")


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints in a run's folder, in the order in which they were saved."""
    found = [path for path in folder.glob("step-*") if is_whole(path)]
    return sorted(found, key=_serial)


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint that `LATEST` names or, if that one is not whole, the last whole one; None without any."""
    try:
        latest = folder / (folder / LATEST).read_text().strip()
    except OSError:
        latest = None
    if latest is not None and latest.parent == folder and is_whole(latest):
        return latest
    return next(reversed(checkpoints(folder)), None)


def begin(folder: Path, step: int) -> Path:
    """Make an empty `.tmp` directory for a checkpoint, and remove what killed processes left of theirs."""
    for left in folder.glob("step-*.tmp"):
        shutil.rmtree(left)
    name, branch = f"step-{step:06d}", 1
    # After a resume from further back the same step comes again.
    while (folder / name).exists():
        branch += 1
        name = f"step-{step:06d}-{branch}"
    temporary = folder / f"{name}.tmp"
    temporary.mkdir(parents=True)
    return temporary


def commit(temporary: Path, *, step: int, facts: Mapping[str, Any] | None = None, keep: int = 2) -> Path:
    """Finish a checkpoint: manifest, flush to disk, rename, `LATEST`, and remove the oldest beyond `keep`.

    Args:
        temporary: what `begin` made, with its files written.
        step: optimiser steps done.
        facts: goes into the manifest too.
        keep: how many to keep, this one included.

    Returns:
        The checkpoint's final path.
    """
    folder, final = temporary.parent, temporary.with_suffix("")
    files = sorted(path for path in temporary.rglob("*") if path.is_file())
    earlier = checkpoints(folder)
    manifest = {
        "step": step,
        "serial": 1 + max((_serial(path) for path in earlier), default=0),
        "versions": {dist: version(dist) for dist in ("kinema", "kinema-core", "torch", "lightning")},
        **(facts or {}),
        "files": {
            str(path.relative_to(temporary)): {"size": path.stat().st_size, "sha256": _sha256(path)} for path in files
        },
    }
    _write_durably(temporary / MANIFEST, json.dumps(manifest, indent=1))
    for path in files:
        _sync(path)
    _sync(temporary)
    temporary.rename(final)
    _write_durably(folder / f"{LATEST}.tmp", final.name)
    os.replace(folder / f"{LATEST}.tmp", folder / LATEST)
    _sync(folder)
    for old in earlier[: len(earlier) + 1 - keep]:
        # The manifest first: what is half removed is then no checkpoint any more.
        (old / MANIFEST).unlink()
        shutil.rmtree(old)
    return final


def _serial(checkpoint: Path) -> int:
    manifest = read_manifest(checkpoint)
    return manifest["serial"] if manifest else 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_durably(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
