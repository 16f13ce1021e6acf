"""What all studies share: cells of figures that are kept as soon as they are known, so that a study can be stopped."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kinema.errors import UserError

Figures = dict[str, float]


class Results:
    """Figures by cell, in a file that is written anew after each cell.

    Args:
        file: made by the first cell; a study that goes on reads it.
        settings: what all cells depend on.

    Raises:
        UserError: the file is of a study with other settings.
    """

    def __init__(self, file: Path, settings: Mapping[str, Any]) -> None:
        self.file, self.settings = file, dict(settings)
        self.cells: dict[str, Figures] = {}
        if file.is_file():
            content = json.loads(file.read_text())
            other = {k: (content["settings"].get(k), v) for k, v in settings.items() if content["settings"].get(k) != v}
            if other:
                listed = ", ".join(f"{key} {before} and not {now}" for key, (before, now) in other.items())
                raise UserError(f"{file} is of a study with {listed}; name another folder with --out")
            self.cells = content["cells"]

    def get(self, key: str, measure: Callable[[], Figures]) -> Figures:
        """The figures of a cell: those that are kept, else measured now and kept."""
        if key not in self.cells:
            self.cells[key] = measure()
            temporary = self.file.with_suffix(f".{os.getpid()}.tmp")
            temporary.write_text(json.dumps({"settings": self.settings, "cells": self.cells}, indent=1))
            temporary.replace(self.file)
        return self.cells[key]
