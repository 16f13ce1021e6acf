"""The README's example runs and recovers the Gaussian."""

import re
from pathlib import Path


def test_readme_example_recovers_the_gaussian(capsys):
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    rows = re.findall(r"mean (\S+) std (\S+)", capsys.readouterr().out)
    assert len(rows) == 18
    for mean, std in rows:
        assert abs(float(mean) - 0.5) < 0.03 and abs(float(std) - 0.7) < 0.06
