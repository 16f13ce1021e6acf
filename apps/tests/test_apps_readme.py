"""The README's example runs, and runs again where it stopped."""

import re
import subprocess
import sys
from pathlib import Path

from kinema.checkpoint import checkpoints


def test_the_example_trains_and_resumes(tmp_path):
    text = (Path(__file__).parent.parent / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    script = tmp_path / "train.py"
    for steps in ("100", "150"):
        script.write_text(code.replace("max_steps=100", f'max_steps={steps}, accelerator="cpu"'))
        done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        weight = float(done.stdout.split()[-1])
        assert 2.5 < weight < 3.5
    (run,) = (tmp_path / "runs").iterdir()
    assert [path.name for path in checkpoints(run)] == ["step-000100", "step-000150"]
    assert (tmp_path / "mlflow.db").exists()
