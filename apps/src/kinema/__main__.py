"""The `kinema` command, and `python -m kinema`, the same."""

import os
import sys

#: Commands that compute.
HEAVY = frozenset("train encode evaluate generate image animate extend loop connect edit reproduce demo".split())


def run() -> None:
    """`kinema.cli.main` in a process whose memory is in large pages: on a CPU a tenth of a training step's time.

    glibc decides on the pages when a process starts, so this one starts anew, with the same words and the same id.
    Whoever has set GLIBC_TUNABLES has decided otherwise. Other C libraries pass over the variable.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ and HEAVY.intersection(sys.argv[1:2]):
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    from kinema.cli import main  # noqa: PLC0415  takes longer than the start itself

    main()


if __name__ == "__main__":
    run()
