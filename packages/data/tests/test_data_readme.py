"""The README's example runs, and importing the package is light."""

import re
import subprocess
import sys
from pathlib import Path

import pytest


def test_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})  # the project's own file
    assert "ClipInfo(id='noise0', frames=9, height=32, width=48, frame_rate=8.0" in capsys.readouterr().out


def test_importing_loads_nothing_heavy() -> None:
    code = "import kinema_data, sys; print([m for m in ('pyarrow', 'torchvision', 'lightning') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
