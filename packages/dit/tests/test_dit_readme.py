"""The README's example runs."""

import re
from pathlib import Path


def test_the_example_runs():
    text = (Path(__file__).parents[1] / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    names = {}
    exec(code, names)
    assert names["video"].shape == (8, 3, 8, 8) and names["image"].shape == (8, 1, 6, 10)
