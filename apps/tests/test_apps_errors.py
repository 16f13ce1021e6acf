"""What is told in one line, and what keeps its traceback."""

import importlib
import sys

import pytest
from kinema_core import vaes

from kinema.errors import ConfigError, UserError, message, reported

OURS = """
def refuse(error): raise error
def index(table): return table["missing"]
def parse(text): return int(text)
def unpack(values): a, b = values
class BadClip(ValueError): pass
"""


def ours(function, argument):
    """Calls a function of a module with one of our names."""
    getattr(importlib.import_module("kinema_made_up.part"), function)(argument)


@pytest.fixture(autouse=True)
def made_up(tmp_path, monkeypatch):
    (tmp_path / "kinema_made_up").mkdir()
    (tmp_path / "kinema_made_up" / "part.py").write_text(OURS)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("kinema_made_up.part", None)
    sys.modules.pop("kinema_made_up", None)


def shown(capsys, action, *args):
    """What stderr says after a reported mistake; asserts the exit code."""
    with pytest.raises(SystemExit) as caught, reported():
        action(*args)
    assert caught.value.code == 2
    return capsys.readouterr().err


def test_mistakes_are_one_line_with_exit_code_2(capsys):
    def refuse():
        raise ConfigError("a is 1;\n  it has to be 2")

    assert shown(capsys, refuse) == "kinema: a is 1; it has to be 2\n"
    assert shown(capsys, ours, "refuse", ValueError("17 frames are too many")) == "kinema: 17 frames are too many\n"
    assert shown(capsys, ours, "refuse", KeyError("no vae is named 'x'")) == "kinema: no vae is named 'x'\n"
    assert shown(capsys, vaes.get, "acme_nowhere").startswith("kinema: no vae component is named 'acme_nowhere'")
    assert shown(capsys, open, "/nowhere/at/all") == "kinema: No such file or directory: /nowhere/at/all\n"


@pytest.mark.parametrize(
    ("function", "argument", "kind"),
    [
        ("index", {}, KeyError),
        ("parse", "x", ValueError),
        ("unpack", [1], ValueError),
        ("refuse", TypeError("bug"), TypeError),
        ("refuse", RuntimeError("bug"), RuntimeError),
    ],
)
def test_bugs_in_our_code_keep_their_traceback(function, argument, kind):
    with pytest.raises(kind), reported():
        ours(function, argument)


def test_an_error_of_our_class_is_a_mistake_whoever_raises_it_again(capsys):
    def again():
        raise importlib.import_module("kinema_made_up.part").BadClip("a.mp4 ends early")

    assert shown(capsys, again) == "kinema: a.mp4 ends early\n"


def test_a_foreign_value_error_is_a_bug():
    def theirs():
        raise ValueError("of some library")

    with pytest.raises(ValueError, match="library"), reported():
        theirs()


def test_debugging_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("KINEMA_DEBUG", "1")
    with pytest.raises(UserError), reported():
        raise UserError("x")


def test_ctrl_c_exits_with_130(capsys):
    with pytest.raises(SystemExit) as caught, reported():
        raise KeyboardInterrupt
    assert caught.value.code == 130
    assert capsys.readouterr().err == "kinema: stopped\n"


def test_an_error_without_text_is_named():
    assert message(LookupError()) == "LookupError"


def test_reported_decorates_a_command(capsys):
    @reported()
    def command(value):
        if value:
            raise UserError("told")
        return "done"

    assert command(0) == "done"
    with pytest.raises(SystemExit):
        command(1)
    assert capsys.readouterr().err == "kinema: told\n"
