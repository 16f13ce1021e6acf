"""The `kinema` command: it parses and hands over. What a command does lives in the module that its function imports."""

import json
import sys
from importlib.metadata import version
from typing import Annotated, Any

import typer

from kinema.cli_making import COMMANDS
from kinema.errors import reported

# Nothing heavy is imported before a command runs: `kinema --help` has to answer at once.

app = typer.Typer(help="Train and run latent video diffusion transformers.", add_completion=False)
data_app = typer.Typer(help="Make and inspect datasets.")
train_app = typer.Typer(help="Train a component. Settings follow as section.key=value, over those of --config.")
import_app = typer.Typer(help="Make a model folder of one that another library saved.")
app.add_typer(data_app, name="data")
app.add_typer(train_app, name="train")
study_app = typer.Typer(help="Compare many trainings. A study that was stopped goes on when it is called again.")
app.add_typer(import_app, name="import")
app.add_typer(study_app, name="study")

Config = Annotated[str | None, typer.Option("--config", "-c", metavar="FILE", help="YAML file or URL.")]
Settings = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings over the file's.")]
PrintConfig = Annotated[bool, typer.Option("--print-config", help="Print the whole config and stop.")]
Resume = Annotated[
    str | None,
    typer.Option(metavar="auto|PATH", help="Go on from the newest checkpoint of --run, or from this one."),
]
Seed = Annotated[int | None, typer.Option(help="Seed of all random numbers.")]
Out = Annotated[str, typer.Option("--out", "-o", metavar="PATH", help="Where to write.")]


def main() -> None:
    """Run the command line. A user's mistake costs one line on stderr and exit code 2."""
    usage_error = typer.BadParameter.__mro__[1]  # typer carries its own copy of click's
    with reported():
        try:
            code = app(standalone_mode=False)
        except usage_error as error:
            message = " ".join(error.format_message().split())
            typer.echo(f"kinema: {message} See `kinema --help`.", err=True)
            code = 2
        except typer.Abort:
            raise KeyboardInterrupt from None
    sys.exit(code if isinstance(code, int) else 0)


@app.callback(invoke_without_command=True)
def _kinema(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if show_version:
        typer.echo(f"kinema {version('kinema')}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def components(
    name: Annotated[str | None, typer.Argument(help="Show the settings of this component.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Tab-separated lines, for scripts.")] = False,
) -> None:
    """List the installed components, or one's settings with types and defaults."""
    from kinema.listing import show_component, show_components

    show_component(name, plain=plain) if name else show_components(plain=plain)


@app.command()
def doctor() -> None:
    """Check this installation: one line a check. Exits with 1 if one fails."""
    from kinema.doctor import run_doctor

    raise typer.Exit(run_doctor())


@app.command()
def demo(
    budget: Annotated[str, typer.Option(metavar="full|smoke", help="About 25 minutes, or 3.")] = "full",
    out: Out = "demo",
    seed: Seed = None,
) -> None:
    """Train everything from a made world of mp4 files, generate, and score it."""
    from kinema.demo import run_demo

    run_demo(budget=budget, out=out, **_given(seed=seed))


@data_app.command("make-world")
def make_world(
    out: Annotated[str, typer.Argument(metavar="OUT", help="Folder to write.")],
    clips: Annotated[int, typer.Option(min=1, help="How many.")] = 1000,
    split: Annotated[str | None, typer.Option(help="Evaluation prompts of this split in place of a world.")] = None,
    sizes: Annotated[str, typer.Option(help="Frames x height x width of the prompts' clips.")] = "9x32x32",
    frame_rate: Annotated[
        float | None, typer.Option("--fps", min=0.1, help="Frames per second of the prompts' clips; else 8, 12 or 16.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
    scale: Annotated[int, typer.Option(min=1, help="Multiplies every length; 2: frames of 64 pixels and more.")] = 1,
    texture: Annotated[float, typer.Option(min=0, help="Strength of the patterns, in levels of 255.")] = 0,
    noise: Annotated[float, typer.Option(min=0, help="Deviation of the camera's noise, in levels of 255.")] = 0,
    camera: Annotated[float, typer.Option(min=0, help="Pixels a second that the background passes by.")] = 0,
    styles: Annotated[str, typer.Option(help="How objects are drawn: flat,outline,textured,pixelated.")] = "flat",
    events: Annotated[str, typer.Option(help="What can happen: none,pair,occluder,leave,swing,cut,change.")] = "none",
) -> None:
    """Write a dataset of captioned clips of moving shapes, with exact ground truth.

    With --split: clips whose captions name every attribute, over the combinations of that split.
    """
    from kinema.made_world import make_world_command

    look = {"look": {"texture": texture, "noise": noise, "camera": camera}, "styles": styles, "events": events}
    of_prompts = {"split": split, "sizes": sizes, "frame_rate": frame_rate}
    make_world_command(out, clips=clips, **of_prompts, workers=workers, seed=seed, scale=scale, **look)


def _train_command(kind: str, summary: str) -> None:
    """Add `kinema train KIND`, which calls `train_KIND` of `kinema.training.run`."""

    @train_app.command(kind, help=summary)
    def command(
        config: Config = None,
        settings: Settings = None,
        resume: Resume = None,
        seed: Seed = None,
        print_config: PrintConfig = False,
    ) -> None:
        from kinema.training import run

        train = getattr(run, f"train_{kind}")
        train(config, _settings(settings, seed), resume=resume, print_only=print_config)


_train_command("vae", "Train a video VAE.")
_train_command("clip", "Train a CLIP on captions and frames.")
_train_command("dit", "Train a diffusion transformer on a VAE's latents.")


@import_app.command("wan")
def import_wan_command(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Where diffusers saved a pipeline of Wan.")],
    out: Out = "wan",
) -> None:
    """Make a model folder of a diffusers pipeline of Wan: VAE, transformer, umT5 and schedule."""
    from kinema.import_wan import import_wan

    typer.echo(f"wrote {import_wan(folder, out)}")


@study_app.command("sampling")
def study_sampling_command(
    demo: Annotated[str, typer.Argument(metavar="DEMO", help="Folder that `kinema demo` wrote.")],
    minutes: Annotated[float, typer.Option(min=0.01, help="Of each training, on one thread.")] = 5,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each law.")] = 3,
    clips: Annotated[int, typer.Option(min=2, help="Clips that are made and judged in each cell.")] = 128,
    laws: Annotated[str, typer.Option(help="Predictions of a ddpm law, edm and flow.")] = "x0,eps,v,edm,flow",
    names: Annotated[str | None, typer.Option("--samplers", help="Installed samplers; all by default.")] = None,
    steps: Annotated[str, typer.Option(help="Numbers of sampling steps.")] = "4,8,16,32,64",
    reference: Annotated[int, typer.Option(min=1, help="Steps of the walk that others are compared with.")] = 500,
    fvd: Annotated[bool, typer.Option(help="Frechet video distances too, in the features of the demo's CLIP.")] = True,
    out: Out = "study",
) -> None:
    """Train noise laws at equal compute; steps against quality for every law and sampler."""
    from pathlib import Path

    from kinema.study_sampling import SamplingStudy, study_sampling

    given = {"minutes": minutes, "seeds": seeds, "clips": clips, "reference": reference, "fvd": fvd}
    lists = {"laws": _words(laws), "samplers": _words(names or "")}
    numbers = [_count(word) for word in _words(steps)]
    typer.echo(study_sampling(SamplingStudy(Path(demo), Path(out), **given, **lists, steps=numbers)))


def _words(text: str) -> list[str]:
    """The words between commas, each once."""
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def _count(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise typer.BadParameter(f"{word!r} is no number of steps; give whole numbers from 1, as 4,8,16")
    return int(word)


@app.command()
def encode(
    config: Config = None,
    settings: Settings = None,
    seed: Seed = None,
    print_config: PrintConfig = False,
) -> None:
    """Cache latents and text features of a dataset."""
    from kinema.encode import encode_command

    encode_command(config, _settings(settings, seed), print_only=print_config)


for making in COMMANDS:
    app.command()(making)


@app.command()
def evaluate(
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[vae MODEL] [KEY=VALUE]...", help="vae: only what a VAE makes of the clips."),
    ] = None,
    config: Config = None,
    data: Annotated[str | None, typer.Option(metavar="DIR", help="Folder or manifest of the clips.")] = None,
    seed: Seed = None,
    print_config: PrintConfig = False,
) -> None:
    """Score a model: prompts of a split, generated and compared with its clips; or a VAE's reconstructions."""
    words = settings or []
    path = [] if data is None else [f"data={{name: manifest, path: {json.dumps(data)}}}"]
    if words[:1] == ["vae"]:
        from kinema.evaluate_vae import evaluate_vae_command

        model = [f"model={word}" for word in words[1:2] if "=" not in word]
        rest = [*model, *path, *words[1 + len(model) :]]
        evaluate_vae_command(config, _settings(rest, seed), print_only=print_config)
        return
    from kinema.evaluate import evaluate_command

    evaluate_command(config, _settings([*path, *words], seed), print_only=print_config)


def _settings(words: list[str] | None, seed: int | None) -> list[str]:
    return [*(words or []), *(f"{key}={value}" for key, value in _given(seed=seed).items())]


def _given(**options: Any) -> dict[str, Any]:
    """The options that the user gave; the others keep the callee's default."""
    return {key: value for key, value in options.items() if value is not None}
