"""The record of a run in MLflow, as a Lightning logger that never stops or delays a training."""

import math
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from PIL import Image
from torch import Tensor

from kinema.components import origins
from kinema.config import component_nodes, flatten, to_yaml
from kinema.mlflow_store import MlflowStore, default_uri, shown
from kinema.outbox import Outbox

_STATUS = {"success": "FINISHED", "finished": "FINISHED", "failed": "FAILED"}


class MlflowTracker(Logger):
    """Logs a run to MLflow, and to `metrics.jsonl` in its folder, which is delivered when an absent server is back.

    On ranks other than 0 every method does nothing. Keys lose what MLflow does not allow in them.

    Args:
        folder: the run's, of `open_run`; a resumed run goes on in the same MLflow run.
        experiment: made if it does not exist.
        uri: of the tracking store; by default MLFLOW_TRACKING_URI, else mlflow.db in the working folder.
        tags: set at the start.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        experiment: str = "kinema",
        uri: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.folder = Path(folder).resolve()
        self._store = MlflowStore(self.folder, uri=uri or default_uri(), experiment=experiment)
        self._tags = dict(tags or {})
        self._outbox: Outbox | None = None
        self._running = False

    @property
    def name(self) -> str:
        """The experiment."""
        return self._store.experiment

    @property
    def version(self) -> str:
        """Our run id."""
        return self.folder.name

    @property
    def save_dir(self) -> str:
        """The run's folder."""
        return str(self.folder)

    @property
    def mlflow_run_id(self) -> str | None:
        """MLflow's run id; None on other ranks and until the store was reached (see `flush`)."""
        return self._store.run_id

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float | Tensor], step: int | None = None) -> None:
        """Numbers at a step. An infinite one becomes a tag, since MLflow would draw it as 1.8e308."""
        for key, number in metrics.items():
            value = float(number)
            if math.isinf(value):
                self._put("tag", key=_key(f"infinite.{key}"), value=f"{value} at step {step}")
            else:
                self._put(
                    "metric", key=_key(key), value=None if math.isnan(value) else value, step=step or 0, time=_now()
                )

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any], *_: Any, **__: Any) -> None:
        """Parameters; on resume new ones are added, and changed ones become tags `changed.<key>`."""
        for key, value in params.items():
            self._put("param", key=_key(key), value=str(value))

    @rank_zero_only
    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Tags; a later value replaces an earlier one."""
        for key, value in tags.items():
            self._put("tag", key=_key(key), value=str(value))

    @rank_zero_only
    def log_config(self, config: Any) -> None:
        """The resolved config: as config.yaml, as flat parameters, and its components' origins as tags.

        A resumed run with another config adds config_resume_1.yaml, ...
        """
        text, path, count = to_yaml(config), self.folder / "config.yaml", 0
        while path.exists() and path.read_text() != text:
            count += 1
            path = self.folder / f"config_resume_{count}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        self._put("artifact", file=path.name, to=None)
        self.log_hyperparams(flatten(config))
        self.log_tags(origins({where: (kind, node["name"]) for where, kind, node in component_nodes(config)}))

    @rank_zero_only
    def log_image(self, key: str, image: Tensor | np.ndarray, step: int) -> None:
        """A picture (H, W, 3) uint8 that MLflow shows over the steps, such as a contact sheet."""
        pixels = np.asarray(image)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise ValueError(f"an image has to be uint8 (H, W, 3), got {pixels.dtype} {pixels.shape}")
        file = Path("images", f"{_file_name(key)}_{step:06d}.png")
        (self.folder / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(self.folder / file)
        self._put("image", key=_key(key).replace(":", "_"), file=str(file), step=step, time=_now())

    @rank_zero_only
    def log_video(self, path: str | Path, step: int) -> None:
        """A file, copied and shown as videos/step_000100/<its name>: H.264 mp4 in yuv420p plays in MLflow's pages."""
        self.log_file(path, f"videos/step_{step:06d}")

    @rank_zero_only
    def log_file(self, path: str | Path, to: str = "") -> None:
        """Any file as an artifact in the folder `to` of the run."""
        source, folder = Path(path).resolve(), Path(*map(_file_name, Path(to).parts))
        if self.folder in source.parents:
            file = source.relative_to(self.folder)
        else:
            file = folder / _file_name(source.name)
            (self.folder / folder).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, self.folder / file)
        self._put("artifact", file=str(file), to=str(folder) if to else None)

    @rank_zero_only
    def flush(self, timeout: float = 60.0) -> bool:
        """Deliver everything now; False if the store is away or slower than `timeout` seconds."""
        return self._outbox is None or self._outbox.flush(timeout)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Set the run's status (Lightning says "success" or "failed") and deliver; never raises."""
        if self._running:
            self._put("status", value=_STATUS.get(status, "FAILED"), time=_now())
            self._running = False
        if not self.flush():
            rank_zero_warn(
                f"MLflow at {shown(self._store.uri)} does not have all of this run; "
                f"{self.folder / 'metrics.jsonl'} has, and is delivered when the run is next resumed"
            )

    def _put(self, kind: str, **event: Any) -> None:
        if self._outbox is None:
            self._outbox = Outbox(self.folder / "metrics.jsonl", self._store.deliver)
        if not self._running:
            self._running = True
            self._put("status", value="RUNNING", time=_now())
            self.log_tags(self._tags)
        self._outbox.put({"kind": kind, **event})


def _key(key: str) -> str:
    """A key MLflow accepts."""
    key = re.sub(r"[^\w\-. :/]", "_", key)
    return re.sub(r"/+", "/", key.replace("..", "_")).strip("/")[:250]


def _file_name(name: str) -> str:
    return re.sub(r"[^\w\-.]", "_", name).replace("..", "_")


def _now() -> int:
    return time.time_ns() // 1_000_000
