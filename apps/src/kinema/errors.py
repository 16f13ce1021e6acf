"""What the user did wrong, told in one line and exit code 2; everything else keeps its traceback."""

import dis
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType


class UserError(Exception):
    """A mistake of the user's. The message says what is wrong and what would be right, in one line."""


class ConfigError(UserError):
    """A config, component or checkpoint that does not fit."""


#: Paths that are not there or not ours are the user's to mend, whichever library notices.
_PATH_ERRORS = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)


@contextmanager
def reported() -> Iterator[None]:
    """Report a user's mistake as `kinema: <message>` on stderr and exit with 2; also usable as a decorator.

    A mistake is a `UserError`, a path that is not there, or a ValueError or LookupError that is of a class of Kinema's
    packages or that a `raise` statement of theirs issued: those messages are written for the user. The same errors from
    anywhere else are bugs and pass through. KINEMA_DEBUG=1 shows the traceback of both. Ctrl-C exits with 130.
    """
    try:
        yield
    except KeyboardInterrupt:
        print("kinema: stopped", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if os.environ.get("KINEMA_DEBUG") == "1" or not is_mistake(error):
            raise
        print(f"kinema: {message(error)}", file=sys.stderr)
        sys.exit(2)


def is_mistake(error: BaseException) -> bool:
    """Whether `error` was written for the user (see `reported`)."""
    if isinstance(error, (UserError, *_PATH_ERRORS)):
        return True
    if not isinstance(error, (ValueError, LookupError)):
        return False
    # What a worker process raised is raised again by torch, so the frame alone does not tell.
    return _is_ours(type(error).__module__) or _raised_by_us(error.__traceback__)


def message(error: BaseException) -> str:
    """The error's text on one line, without the quotes that KeyError puts around it."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.strerror or 'cannot read'}: {error.filename}"
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return " ".join(text.split()) or type(error).__name__


def _raised_by_us(trace: TracebackType | None) -> bool:
    """Whether the innermost frame is a `raise` statement in one of our packages.

    A failing `{}["x"]` or `int("x")` in our code also ends in our frame, but at another instruction: that is a bug.
    """
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    instruction = dis.opname[trace.tb_frame.f_code.co_code[trace.tb_lasti]]
    return _is_ours(trace.tb_frame.f_globals.get("__name__", "")) and instruction == "RAISE_VARARGS"


def _is_ours(module: str) -> bool:
    package = module.split(".", maxsplit=1)[0]
    return package == "kinema" or package.startswith("kinema_")
