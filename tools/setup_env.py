"""Makes `.venv`: all packages of this checkout, editable, with the tools for tests and checks.

Run by any Python 3.11 or newer: `python3 tools/setup_env.py`. Needs the standard library alone. A second run does
nothing unless constraints.txt, a pyproject.toml or these tools have changed; entry points of an editable install are
read from its pyproject.toml when it is installed, so a change there has to be installed again.
"""

import hashlib
import time

import environments

ENVIRONMENT = environments.ROOT / ".venv"
STAMP = ENVIRONMENT / "kinema-setup"


def fingerprint() -> str:
    """A hash of all that the environment depends on."""
    files = [environments.CONSTRAINTS, *(environments.ROOT / "tools").glob("*.py")]
    files += [folder / "pyproject.toml" for folder in (environments.ROOT, *environments.packages())]
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.relative_to(environments.ROOT)}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def development_tools() -> list[str]:
    """The requirements of the root's dependency group `dev`."""
    import tomllib  # noqa: PLC0415  an older Python has to reach the message in `environments.create`

    return tomllib.loads((environments.ROOT / "pyproject.toml").read_text())["dependency-groups"]["dev"]


def main() -> None:
    """Make or renew the environment."""
    wanted = fingerprint()
    if STAMP.exists() and STAMP.read_text() == wanted:
        return
    start = time.monotonic()
    print("Setting up .venv (a few minutes the first time)", flush=True)
    environments.create(ENVIRONMENT)
    editable = [part for folder in environments.packages() for part in ("-e", environments.with_tests(folder))]
    # The builder once for all packages, not an environment of its own for each.
    environments.install(ENVIRONMENT, "hatchling", "editables")
    # One call, so that pip weighs every package's range against the others of this checkout.
    environments.install(ENVIRONMENT, "--no-build-isolation", *editable, *development_tools())
    environments.repair_torchvision(ENVIRONMENT)
    STAMP.write_text(wanted)
    print(f".venv is ready ({time.monotonic() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
