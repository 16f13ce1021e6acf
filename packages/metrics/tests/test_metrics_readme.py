"""The README's example runs."""

import re
import warnings
from pathlib import Path


def test_readme_example_runs(capsys):
    text = Path(__file__).parents[1].joinpath("README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(code, {})
    printed = capsys.readouterr().out
    assert "{'fvd_clip': " in printed and "{'clip_score_toy': " in printed
