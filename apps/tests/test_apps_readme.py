"""The README's example runs."""

import re
import subprocess
import sys
from pathlib import Path

from kinema.checkpoint import checkpoints


def test_the_example_trains(tmp_path):
    text = (Path(__file__).parent.parent / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    script = tmp_path / "train.py"
    script.write_text(code.replace("max_steps=100", 'max_steps=100, accelerator="cpu"'))
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 2.5 < float(done.stdout.split()[-1]) < 3.5
    (run,) = (tmp_path / "runs").iterdir()
    assert [path.name for path in checkpoints(run)] == ["step-000050", "step-000100"]
    assert (tmp_path / "mlflow.db").exists()
