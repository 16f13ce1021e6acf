"""The README's example runs."""

import re
from pathlib import Path


def test_example_runs(capsys):
    text = (Path(__file__).parents[1] / "README.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, re.S)
    exec(compile(example, "README.md", "exec"), {})
    assert "torch.Size([2, 5, 96]) tensor([5, 2])" in capsys.readouterr().out
