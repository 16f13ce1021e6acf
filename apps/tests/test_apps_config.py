"""Config: the three layers, component nodes, and what is refused."""

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from kinema.config import (
    component,
    component_nodes,
    component_set,
    flatten,
    load_config,
    parse_words,
    to_yaml,
    validate_components,
)
from kinema.errors import ConfigError
from kinema.typed import fit


@dataclass
class Schedule:
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    shape: Literal["cosine", "constant"] = "constant"


@dataclass
class Trainer:
    max_steps: int = 10
    note: str | None = None
    schedule: Schedule = field(default_factory=Schedule)
    folder: Path = Path("runs")
    rates: dict[str, float] = field(default_factory=dict)

    def __post_init__(self):
        if self.max_steps < 0:
            raise ValueError(f"max_steps is {self.max_steps}; it starts at 0")


@dataclass
class Config:
    seed: int = 0
    vae: dict[str, Any] = component("vae", name="causal3d", latent_channels=8, num_blocks=2)
    sampler: dict[str, Any] = component("sampler", name="sdedit", strength=0.5, base={"name": "edm", "s_churn": 3})
    guidance: dict[str, Any] | None = component("guidance")
    text: dict[str, dict[str, Any]] = component_set("text", main={"name": "tiny", "width": 32})
    trainer: Trainer = field(default_factory=Trainer)


def loaded(*words, file=None):
    return load_config(Config, file, words)


def written(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_defaults_then_file_then_words(tmp_path):
    file = written(tmp_path, "seed: 1\ntrainer:\n  max_steps: 20\n  schedule: {lr: 0.5}\n")
    config = loaded("trainer.max_steps=30", file=file)
    assert (config.seed, config.trainer.max_steps, config.trainer.schedule.lr) == (1, 30, 0.5)
    assert config.trainer.schedule.betas == (0.9, 0.99)
    assert isinstance(config, Config) and isinstance(config.trainer.schedule, Schedule)


def test_defaults_are_not_shared_between_loads():
    loaded("vae.num_blocks=9", "text.other.name=tiny")
    assert loaded().vae["num_blocks"] == 2
    assert list(loaded().text) == ["main"]


def test_a_name_drops_the_keys_of_earlier_layers_in_any_order_of_the_words(tmp_path):
    words = ["vae.width=8", "vae.name=acme", "vae.depth=2"]
    for order in itertools.permutations(words):
        assert loaded(*order).vae == {"name": "acme", "width": 8, "depth": 2}
    assert loaded("vae.width=8").vae == {"name": "causal3d", "latent_channels": 8, "num_blocks": 2, "width": 8}
    file = written(tmp_path, "vae:\n  width: 4\n  name: acme\n")
    assert loaded("vae.depth=1", file=file).vae == {"name": "acme", "width": 4, "depth": 1}
    assert loaded("vae.name=third", file=file).vae == {"name": "third"}


def test_the_rule_holds_for_nested_components_and_for_sets():
    assert loaded("sampler.base.name=euler").sampler["base"] == {"name": "euler"}
    assert loaded("sampler.base.s_churn=4").sampler["base"] == {"name": "edm", "s_churn": 4}
    changed = loaded("text.main.name=open_clip", "text.second.name=tiny")
    assert changed.text == {"main": {"name": "open_clip"}, "second": {"name": "tiny"}}
    assert loaded("text.main=null", "text.b.name=tiny").text == {"b": {"name": "tiny"}}


def test_an_optional_component_can_be_set_and_taken_away(tmp_path):
    file = written(tmp_path, "guidance: {name: cfg, scale: 3}\n")
    assert loaded().guidance is None
    assert loaded(file=file).guidance == {"name": "cfg", "scale": 3}
    assert loaded("guidance=null", file=file).guidance is None
    with pytest.raises(ConfigError, match=r"vae needs a component; write vae.name="):
        loaded("vae=null")


def test_component_nodes_are_found_with_their_kinds():
    found = [(where, kind, node["name"]) for where, kind, node in component_nodes(loaded("guidance.name=cfg"))]
    assert found == [
        ("vae", "vae", "causal3d"),
        ("sampler", "sampler", "sdedit"),
        ("guidance", "guidance", "cfg"),
        ("text.main", "text", "tiny"),
    ]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("trainr.max_steps=1", r"trainr is no setting \(did you mean 'trainer'\?\)"),
        ("trainer.max_step=1", r"trainer.max_step is no setting \(did you mean 'max_steps'\?\)"),
        ("trainer.max_steps=many", r"trainer.max_steps is 'many'; it has to be a whole number"),
        ("trainer.max_steps=1.5", r"trainer.max_steps is 1.5; it has to be a whole number"),
        ("seed=true", r"seed is True; it has to be a whole number"),
        ("trainer.schedule.lr=.nan", r"trainer.schedule.lr is nan; it has to be a number"),
        ("trainer.schedule.betas=0.9", r"trainer.schedule.betas is 0.9; it has to be a list"),
        ("trainer.schedule.betas=[0.9]", r"trainer.schedule.betas is \[0.9\]; it has to be a list of 2"),
        ("trainer.schedule.shape=linear", r"shape is 'linear'; it has to be cosine or constant"),
        ("trainer.rates={a: x}", r"trainer.rates.a is 'x'; it has to be a number"),
        ("trainer=3", r"trainer is 3; it has to be a section"),
        ("trainer.max_steps=-1", r"trainer.max_steps is -1; it starts at 0"),
        ("vae=acme", r"vae is 'acme'; it has to be a component: write vae.name=acme"),
        ("text.main=tiny", r"text.main is 'tiny'; it has to be a component: write text.main.name=tiny"),
        ("seed", r"'seed' is no setting; write section.key=value"),
        ("a..b=1", r"'a..b=1' is no setting"),
        ("seed=${nothing.here}", r"seed: .*nothing.here"),
        ("seed=${", r"seed: "),
        ("vae.weights=???", r"vae.weights: "),
    ],
)
def test_mistakes_are_told_in_one_line_that_names_the_key(word, message):
    with pytest.raises(ConfigError, match=message) as caught:
        loaded(word)
    assert "\n" not in str(caught.value)


def test_numbers_are_read_as_yaml_12_has_them(tmp_path):
    file = written(tmp_path, "trainer:\n  note: no\n  max_steps: 1e3\n  schedule: {lr: '1e-4'}\n")
    config = loaded("vae.tolerance=1e-4", "vae.code=007", "vae.flag=false", "vae.gain=-2.5E+1", file=file)
    assert config.trainer.note == "no"
    assert config.trainer.max_steps == 1000 and isinstance(config.trainer.max_steps, int)
    assert config.trainer.schedule.lr == 1e-4
    assert config.vae["tolerance"] == 1e-4 and config.vae["gain"] == -25.0
    assert config.vae["code"] == "007" and config.vae["flag"] is False


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", ""),
        ("null", None),
        ("[1, 2.5, x]", [1, 2.5, "x"]),
        ("{name: a, depth: 2}", {"name": "a", "depth": 2}),
        ("a: b", "a: b"),
        ("s3://bucket/path", "s3://bucket/path"),
        ("'5'", "5"),
        ("x=y", "x=y"),
        ("*alias", "*alias"),
        ("2024-01-01", "2024-01-01"),
    ],
)
def test_a_word_is_read_as_the_user_meant_it(text, value):
    assert parse_words([f"a.b={text}"]) == {"a": {"b": value}}


def test_of_a_word_given_twice_the_last_counts_and_contradictions_are_refused():
    assert parse_words(["a=1", "a=2"]) == {"a": 2}
    with pytest.raises(ConfigError, match="a is set as a value"):
        parse_words(["a=1", "a.b=2"])
    with pytest.raises(ConfigError, match="a is set as a section"):
        parse_words(["a.b=2", "a=1"])


def test_a_value_may_refer_to_another_key_but_to_nothing_outside(monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    assert loaded("seed=${trainer.max_steps}", "vae.num_blocks=${seed}").vae["num_blocks"] == 10
    for value in ("${oc.env:SECRET}", "x${oc.env:SECRET}y", "${${trainer.note}:SECRET}"):
        with pytest.raises(ConfigError, match="is not read"):
            loaded(f"vae.key={value}", "trainer.note=oc.env")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: !!python/object/apply:os.system ['true']", r"line 1: YAML tags"),
        ("seed: !!python/name:os.system", r"line 1: YAML tags"),
        ("a: &a [x, x]\nb: &b [*a, *a]\n", r"line 2: YAML aliases are not read; refer .* \$\{section.key\}"),
        ("seed: 1\nseed: 2\n", r"line 2: 'seed' is given twice"),
        ("trainer:\n  note: a\n  note: b\n", r"line 3: 'note' is given twice"),
        ("seed: [", r"line 1: "),
        ("seed: 1\na: b: c\n", r"line 2: "),
        ("[" * 10_000, r"nested deeper than 32"),
        ("- 1", r"has to be a mapping"),
        ("? [a]\n: 1", r"key has to be text"),
        (b"seed: \xff", r"no text in UTF-8"),
        (b"#" * (1 << 20) + b"#", r"larger than"),
    ],
)
def test_hostile_or_broken_yaml_is_refused_with_its_line(tmp_path, text, message):
    file = written(tmp_path, text)
    with pytest.raises(ConfigError, match=message) as caught:
        loaded(file=file)
    assert str(caught.value).startswith(file)


def test_a_missing_file_is_named():
    with pytest.raises(ConfigError, match="there is no config file nowhere.yaml"):
        loaded(file="nowhere.yaml")


def test_an_empty_file_changes_nothing(tmp_path):
    assert loaded(file=written(tmp_path, "# only a comment\n")) == loaded()


def test_the_printed_config_reads_back_as_the_same(tmp_path):
    config = loaded("seed=5", "trainer.note=42", "vae.name=acme", "guidance.name=cfg", "trainer.rates.a=1e-9")
    assert loaded(file=written(tmp_path, to_yaml(config))) == config


def test_flat_parameters_hold_every_value_and_no_password():
    config = loaded("vae.weights=https://user:pw@host/x.safetensors", "trainer.schedule.lr=0.1")
    flat = flatten(config)
    assert flat["trainer.schedule.lr"] == 0.1
    assert flat["trainer.schedule.betas"] == "[0.9, 0.99]"
    assert flat["sampler.base.name"] == "edm"
    assert flat["trainer.folder"] == "runs"
    assert flat["vae.weights"] == "https://***@host/x.safetensors"
    assert "pw" not in to_yaml(config)


def test_components_are_checked_before_anything_is_built():
    validate_components(loaded())
    validate_components(loaded("vae.widths=[8, 16]", "vae.strides=[[1, 2, 2]]"))
    for word, message in {
        "vae.name=causl3d": "did you mean 'causal3d'",
        "vae.num_block=3": r"vae.num_block is no setting of 'causal3d' \(did you mean 'num_blocks'\?\)",
        "vae.num_blocks=two": "vae.num_blocks is 'two'; it has to be a whole number",
        "text.main.text_widths=[3]": "text.main.text_widths is read off the other components",
        "sampler.base.name=eulr": "did you mean 'euler'",
        "sampler.base.latent_channels=3": "sampler.base.latent_channels is read off",
    }.items():
        with pytest.raises(ConfigError, match=message):
            validate_components(loaded(word))


def test_a_required_value_has_to_come_from_somewhere():
    @dataclass
    class Needs:
        path: str

    with pytest.raises(ConfigError, match="path needs a value"):
        load_config(Needs)
    assert load_config(Needs, overrides=["path=here"]).path == "here"


@pytest.mark.parametrize(
    ("value", "hint", "fitted"),
    [
        (3, float, 3.0),
        ("2e3", int, 2000),
        ([1, [2, 3]], tuple[int, tuple[int, ...]], (1, (2, 3))),
        (None, int | None, None),
        (3, float | int, 3),
        ("3", float | str, "3"),
        ([1, 2], list[float], [1.0, 2.0]),
        (7, str, "7"),
    ],
)
def test_values_are_fitted_to_annotations(value, hint, fitted):
    result = fit(value, hint, "key")
    assert result == fitted and type(result) is type(fitted)
