"""`kinema doctor`: what of this installation works, one line a check."""

import importlib
import os
import platform
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from typing import NamedTuple

import torch
from rich.console import Console

from kinema.components import get, registries
from kinema.errors import ConfigError
from kinema.placement import bf16_in_hardware


class Check(NamedTuple):
    """One line: `state` is "ok", "warn" or "fail"."""

    state: str
    subject: str
    finding: str


def run_doctor() -> int:
    """Print all checks; 1 if one fails, else 0."""
    console, colours = Console(highlight=False), {"ok": "green", "warn": "yellow", "fail": "red"}
    failed = False
    for check in all_checks():
        console.print(f"[{colours[check.state]}]{check.state:4}[/]", f"{check.subject}:", check.finding, soft_wrap=True)
        failed |= check.state == "fail"
    return int(failed)


def all_checks() -> Iterator[Check]:
    """Run every check; one that breaks is a failed one."""
    for check in (_python, _versions, _cpu, _accelerator, _torchvision, _codecs, _components, _tracking):
        try:
            yield from check()
        except Exception as error:  # whatever is broken here is what the user wants to read
            yield Check("fail", check.__name__.strip("_"), f"{type(error).__name__}: {' '.join(str(error).split())}")


def _python() -> Iterator[Check]:
    state = "ok" if sys.version_info >= (3, 11) else "fail"
    yield Check(state, "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _versions() -> Iterator[Check]:
    """Each requirement of kinema, and of its packages on core, against what is installed."""
    from packaging.requirements import Requirement

    found, missing, wrong = [], [], []
    for text in requires("kinema") or []:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            missing.append(requirement.name)
            continue
        fits = requirement.specifier.contains(installed, prereleases=True)
        (found if fits else wrong).append(f"{requirement.name} {installed}")
    if missing:
        yield Check("fail", "packages", f"not installed: {', '.join(missing)}")
    if wrong:
        yield Check("fail", "packages", f"of a version that does not fit: {', '.join(wrong)}")
    yield Check("ok", "packages", ", ".join(found))


def _cpu() -> Iterator[Check]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = torch.get_num_threads()
    capability = torch.backends.cpu.get_cpu_capability()
    state = "warn" if threads > cores else "ok"
    hint = "; more threads than cores: set OMP_NUM_THREADS" if threads > cores else ""
    yield Check(state, "cpu", f"{cores} cores, {threads} torch threads, {capability}{hint}")
    fast = bf16_in_hardware(torch.device("cpu"))
    yield Check("ok", "bf16 on the cpu", "in hardware" if fast else "emulated and slow: train in fp32 here")


def _accelerator() -> Iterator[Check]:
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    yield Check("ok", "accelerator", ", ".join(names) or "none: everything runs on the cpu")


def _torchvision() -> Iterator[Check]:
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        hint = "run `make install`, which repairs it" if "nms" in str(error) else "reinstall it"
        yield Check("fail", "torchvision", f"{error}; {hint} (open_clip, timm and lightning need it)")
        return
    except ModuleNotFoundError:
        yield Check("fail", "torchvision", "not installed (open_clip and timm need it)")
        return
    yield Check("ok", "torchvision", f"{version('torchvision')} imports")


def _codecs() -> Iterator[Check]:
    import av

    lacking = [name for name, mode in (("libx264", "w"), ("h264", "r")) if not _has_codec(av.Codec, name, mode)]
    if lacking:
        yield Check("fail", "video", f"PyAV {av.__version__} lacks {', '.join(lacking)}: reinstall it from its wheel")
    else:
        yield Check("ok", "video", f"PyAV {av.__version__} writes and reads H.264")


def _has_codec(codec: Callable[[str, str], object], name: str, mode: str) -> bool:
    try:
        codec(name, mode)
    except ValueError:  # PyAV's UnknownCodecError is one
        return False
    return True


def _components() -> Iterator[Check]:
    """Import every installed component."""
    for kind, registry in registries().items():
        broken = []
        for name in registry.names():
            try:
                get(registry, name)
            except ConfigError as error:
                broken.append(str(error))
        for finding in broken:
            yield Check("fail", f"{kind} components", finding)
        if not broken:
            yield Check("ok", f"{kind} components", ", ".join(registry.names()) or "none installed")


def _tracking() -> Iterator[Check]:
    from mlflow import MlflowClient

    from kinema.mlflow_store import default_uri, shown

    uri = default_uri()
    local = uri.removeprefix("sqlite:///")
    if local != uri and not os.path.exists(local):
        folder = os.path.dirname(local)
        writable = os.access(folder, os.W_OK)
        finding = "does not exist yet; the first run makes it" if writable else "cannot be made: no write permission"
        yield Check("ok" if writable else "fail", "mlflow", f"{shown(uri)} {finding}")
        return
    try:
        count = len(MlflowClient(uri).search_experiments())
    except Exception as error:  # MLflow raises its own, requests' and SQLAlchemy's
        reason = shown(" ".join(str(error).split()))[:160]
        yield Check("warn", "mlflow", f"{shown(uri)} cannot be reached ({reason}); runs keep their values in files")
        return
    yield Check("ok", "mlflow", f"{shown(uri)} answers, {count} experiments")
