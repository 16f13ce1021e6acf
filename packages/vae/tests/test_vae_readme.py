"""The README's example runs."""

import re
from pathlib import Path

import pytest


def test_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    text = Path(__file__).parents[1].joinpath("README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})  # the project's own file
    assert capsys.readouterr().out == "torch.Size([1, 3, 5, 32, 48])\ntorch.Size([1, 3, 4, 32, 48])\n"
