"""Events delivered to MLflow: always by MlflowClient and run id, since the fluent API opens stray runs."""

import fcntl
import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from kinema.outbox import Event, Restart

# Before its import, which reads them. A call must not hold the queue for minutes: the default is 7 retries of 120 s.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")

from mlflow import MlflowClient  # noqa: E402
from mlflow.entities import Experiment, Metric, Param, RunTag  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from PIL import Image  # noqa: E402

#: What passes by itself, such as a locked database.
_PASSING = ("TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")


def default_uri() -> str:
    """MLFLOW_TRACKING_URI as it is now, or mlflow.db in the working folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').resolve()}"


def shown(text: str) -> str:
    """A URI, or a text with some, without users and passwords."""
    return re.sub(r"(://)[^/@\s]*@", r"\1***@", text)


class MlflowStore:
    """One MLflow run, made at the first delivery and found again by `mlflow.json` in the run's folder.

    Args:
        folder: the run's; its name becomes the run's name and the tag `kinema.run_id`.
        uri: of the tracking store.
        experiment: made if it does not exist.
    """

    def __init__(self, folder: Path, *, uri: str, experiment: str) -> None:
        self.folder = folder
        self.uri = uri
        self.experiment = experiment
        self.run_id: str | None = None
        self._client: MlflowClient | None = None
        self._params: dict[str, str] = {}

    def deliver(self, events: Sequence[Event]) -> None:
        """Send events; one that fails although the store answers is dropped with a warning.

        Raises:
            ConnectionError: the store is away.
            Restart: this is a new MLflow run, which wants all events.
        """
        try:
            client = self._connected()
            for batch in _batches(events):
                self._send_surely(client, batch)
        except Restart:
            raise
        except Exception as error:  # MLflow's, requests', SQLAlchemy's, an object store's
            raise ConnectionError(shown(" ".join(str(error).split()))[:200]) from error

    def _connected(self) -> MlflowClient:
        if self._client is not None:
            return self._client
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # tells of every table it makes
        with _first_come(self.uri):
            return self._found_or_made(MlflowClient(self.uri))

    def _found_or_made(self, client: MlflowClient) -> MlflowClient:
        known = self.folder / "mlflow.json"
        saved = json.loads(known.read_text()) if known.exists() else {}
        run = _find_run(client, saved["run_id"]) if saved.get("uri") == self.uri else None
        if run is None:
            tags = {"kinema.run_id": self.folder.name}
            experiment_id = self._experiment(client).experiment_id
            run = client.create_run(experiment_id, run_name=self.folder.name, tags=tags)
            known.write_text(json.dumps({"uri": self.uri, "run_id": run.info.run_id}))
            self._client, self.run_id = client, run.info.run_id
            raise Restart
        self._client, self.run_id, self._params = client, run.info.run_id, dict(run.data.params)
        return client

    def _experiment(self, client: MlflowClient) -> Experiment:
        found = client.get_experiment_by_name(self.experiment)
        if found is None:
            location = None
            if self.uri.startswith("sqlite:///"):
                # Beside the database, not in whatever folder the process runs in.
                location = (Path(self.uri.removeprefix("sqlite:///")).resolve().parent / "mlruns").as_uri()
            client.create_experiment(self.experiment, artifact_location=location)
            found = client.get_experiment_by_name(self.experiment)
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return found

    def _send_surely(self, client: MlflowClient, batch: Sequence[Event]) -> None:
        try:
            self._send(client, batch)
        except Exception as error:
            if getattr(error, "error_code", None) in _PASSING:
                raise
            client.get_run(self.run_id)  # raises if it is the store that fails, not the event
            if len(batch) == 1:
                reason = shown(" ".join(str(error).split()))[:200]
                rank_zero_warn(f"MLflow did not take {batch[0]}, which is left out there: {reason}")
                return
            for event in batch:
                self._send_surely(client, [event])

    def _send(self, client: MlflowClient, batch: Sequence[Event]) -> None:
        """Send metrics, params and tags together, or one event of another kind."""
        event = batch[0]
        match event["kind"]:
            case "status":
                if event["value"] == "RUNNING":
                    client.update_run(self.run_id, status="RUNNING")
                else:
                    client.set_terminated(self.run_id, event["value"], event["time"])
            case "image":
                with Image.open(self.folder / event["file"]) as image:
                    client.log_image(self.run_id, image, key=event["key"], step=event["step"], timestamp=event["time"])
            case "artifact":
                client.log_artifact(self.run_id, str(self.folder / event["file"]), event["to"])
            case _:
                self._send_values(client, batch)

    def _send_values(self, client: MlflowClient, batch: Sequence[Event]) -> None:
        metrics = [_metric(event) for event in batch if event["kind"] == "metric"]
        tags = [RunTag(event["key"], event["value"]) for event in batch if event["kind"] == "tag"]
        params: dict[str, str] = {}
        for event in batch:
            if event["kind"] == "param":
                key, value = event["key"], event["value"]
                before = self._params.get(key, params.get(key))
                if before is None:
                    params[key] = value
                elif before != value:  # MLflow's params are for good, so a resumed run's change is a tag
                    tags.append(RunTag(f"changed.{key}", value))
        client.log_batch(self.run_id, metrics, [Param(*item) for item in params.items()], tags)
        self._params |= params


@contextmanager
def _first_come(uri: str) -> Iterator[None]:
    """One process at a time opens a database file: two that make its tables at once leave it broken for good."""
    if not uri.startswith("sqlite:///"):
        yield
        return
    file = Path(uri.removeprefix("sqlite:///"))
    with file.with_name(f".{file.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)  # closing is not enough: forked workers have the file open too


def _find_run(client: MlflowClient, run_id: str) -> Any:
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return run if run.info.lifecycle_stage == "active" else None


def _metric(event: Event) -> Metric:
    value = float("nan") if event["value"] is None else event["value"]
    return Metric(event["key"], value, event["time"], event["step"])


def _batches(events: Sequence[Event]) -> list[list[Event]]:
    """Events in order, neighbours that are values in one batch, the others alone."""
    batches: list[list[Event]] = []
    joinable = False
    for event in events:
        value = event["kind"] in ("metric", "param", "tag")
        if value and joinable:
            batches[-1].append(event)
        else:
            batches.append([event])
        joinable = value
    return batches
