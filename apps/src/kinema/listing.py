"""What `kinema components` prints: a table for eyes, tab-separated lines for scripts."""

import sys

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kinema.components import describe, listing


def show_components(*, plain: bool = False) -> None:
    """List every installed component: kind, name, distribution, version. Imports none of them."""
    _show(("kind", "name", "distribution", "version"), listing(), plain=plain)


def show_component(name: str, *, plain: bool = False) -> None:
    """Show the settings of the components called `name`. Raises ConfigError where there is none."""
    for found in describe(name):
        heading = f"{found.kind} {found.name} ({found.distribution} {found.version}): {found.summary}"
        rows = [(s.key, s.type, "required" if s.default is None else s.default, s.meaning) for s in found.settings]
        _show(("key", "type", "default", "meaning"), rows, plain=plain, heading=heading)


def _show(columns: tuple[str, ...], rows: list[tuple[str, ...]], *, plain: bool, heading: str = "") -> None:
    if plain:
        sys.stdout.writelines("\t".join(row) + "\n" for row in rows)
        return
    console = Console(highlight=False)
    if heading:
        console.print(heading, markup=False)
    table = Table(*columns, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    console.print(table)
