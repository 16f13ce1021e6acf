"""The commands that make clips: they parse and hand over, as those of `kinema.cli`, which adds them."""

from collections.abc import Iterable
from typing import Annotated, Any

import typer

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Model folder or URL (hf://owner/name too).")]
Out = Annotated[str, typer.Option("--out", "-o", metavar="PATH", help="Where to write.")]
Frames = Annotated[int, typer.Option(min=1, help="Frames; 1 makes an image.")]
Height = Annotated[int, typer.Option(min=1, help="Height in pixels.")]
Width = Annotated[int, typer.Option(min=1, help="Width in pixels.")]
FrameRate = Annotated[
    float | None, typer.Option("--fps", min=0.1, help="Frames per second; the model's own rate by default.")
]
Negative = Annotated[
    str, typer.Option("--negative-prompt", metavar="PROMPT", help="What to lead away from: for edit, what VIDEO shows.")
]
Steps = Annotated[int | None, typer.Option(min=1, help="Sampling steps; the model's own number by default.")]
NoiseSeed = Annotated[int, typer.Option("--seed", help="Seed of the noise.")]
StepCache = Annotated[
    float, typer.Option(min=0, help="Reuse the transformer's output until it has changed by this share; 0: never.")
]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Over the model's: --set dit.attention=window")
]
Device = Annotated[str | None, typer.Option(metavar="cpu|cuda|...", help="Where to compute; a GPU if there is one.")]
Prompt = Annotated[str, typer.Argument(metavar="PROMPT", help="What is to be seen.")]
Video = Annotated[str, typer.Argument(metavar="VIDEO", help="The given video; it keeps its size and frame rate.")]
Context = Annotated[int, typer.Option(min=1, help="Latent frames that the new ones go on from.")]
Candidates = Annotated[int, typer.Option(min=1, help="So many are made; the one that goes on most evenly is kept.")]


def generate(
    model: Model,
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT...", help="One clip a prompt.")],
    frames: Frames = 9,
    height: Height = 32,
    width: Width = 32,
    frame_rate: FrameRate = None,
    window: Annotated[
        int | None, typer.Option(min=1, help="Frames that are made at once; a long video is made window by window.")
    ] = None,
    context: Context = 2,
    preview: Annotated[bool, typer.Option("--preview", help="First at half the size; the rest follows it.")] = False,
    negative_prompt: Negative = "",
    steps: Steps = None,
    step_cache: StepCache = 0,
    settings: Set = None,
    device: Device = None,
    seed: NoiseSeed = 0,
    out: Out = "generated",
) -> None:
    """Make videos, or images (--frames 1), from prompts."""
    from kinema.generate import Sizes, generate_command

    sizes = Sizes(frames, height, width, frame_rate, window, context)
    making = _making(model, out, steps, step_cache, seed, settings, device, negative_prompt)
    _tell(generate_command(making, prompts, sizes, preview=preview))


def image(
    model: Model,
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT...", help="One image a prompt.")],
    height: Height = 32,
    width: Width = 32,
    negative_prompt: Negative = "",
    steps: Steps = None,
    step_cache: StepCache = 0,
    settings: Set = None,
    device: Device = None,
    seed: NoiseSeed = 0,
    out: Out = "generated",
) -> None:
    """Make images from prompts: png files."""
    from kinema.generate import Sizes, generate_command

    making = _making(model, out, steps, step_cache, seed, settings, device, negative_prompt)
    _tell(generate_command(making, prompts, Sizes(1, height, width)))


def animate(
    model: Model,
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="The given frame; its size is the video's.")],
    prompt: Prompt = "",
    frames: Frames = 9,
    frame_rate: FrameRate = None,
    at: Annotated[str, typer.Option(metavar="first|middle|last", help="When the image is seen.")] = "first",
    negative_prompt: Negative = "",
    steps: Steps = None,
    step_cache: StepCache = 0,
    settings: Set = None,
    device: Device = None,
    seed: NoiseSeed = 0,
    out: Out = "generated",
) -> None:
    """Make a video that begins with an image, ends in it or passes by it."""
    from kinema.generate import animate_command

    making = _making(model, out, steps, step_cache, seed, settings, device, negative_prompt)
    _tell(animate_command(making, image, prompt, frames=frames, frame_rate=frame_rate, at=at))


def extend(
    model: Model,
    video: Video,
    prompt: Prompt = "",
    frames: Annotated[int, typer.Option(min=1, help="New frames, on each side that is asked for.")] = 8,
    forward: Annotated[bool, typer.Option("--forward", help="After the video; so it is without the next two.")] = False,
    backward: Annotated[bool, typer.Option("--backward", help="Before the video.")] = False,
    both: Annotated[bool, typer.Option("--both", help="Before and after it.")] = False,
    context: Context = 2,
    candidates: Candidates = 1,
    negative_prompt: Negative = "",
    steps: Steps = None,
    step_cache: StepCache = 0,
    settings: Set = None,
    device: Device = None,
    seed: NoiseSeed = 0,
    out: Out = "generated",
) -> None:
    """Make a video longer, at its end, its beginning or both."""
    from kinema.task_commands import extend_command

    sides = {"before": backward or both, "after": forward or both or not backward}
    making = _making(model, out, steps, step_cache, seed, settings, device, negative_prompt)
    _tell([extend_command(making, video, prompt, frames=frames, context=context, candidates=candidates, **sides)])


def loop(
    model: Model,
    video: Video,
    prompt: Prompt = "",
    frames: Annotated[int, typer.Option(min=1, help="New frames; a multiple of the VAE's temporal stride.")] = 8,
    context: Context = 2,
    candidates: Candidates = 1,
    negative_prompt: Negative = "",
    steps: Steps = None,
    step_cache: StepCache = 0,
    settings: Set = None,
    device: Device = None,
    seed: NoiseSeed = 0,
    out: Out = "generated",
) -> None:
    """Lead a video's end back to its beginning, so that it can be shown without end."""
    from kinema.task_commands import loop_command

    making = _making(model, out, steps, step_cache, seed, settings, device, negative_prompt)
    _tell([loop_command(making, video, prompt, frames=frames, context=context, candidates=candidates)])


def connect(
    model: Model,
    first: Annotated[str, typer.Argument(metavar="A", help="The video at the beginning.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The video at the end; brought to the size of the first.")],
    prompt: Prompt = "",
    frames: Annotated[int, typer.Option(min=1, help="New frames; a multiple of the VAE's temporal stride.")] = 8,
    context: Context = 2,
    candidates: Candidates = 1,
    negative_prompt: Negative = "",
    steps: Steps = None,
    step_cache: StepCache = 0,
    settings: Set = None,
    device: Device = None,
    seed: NoiseSeed = 0,
    out: Out = "generated",
) -> None:
    """Lead from one video to another."""
    from kinema.task_commands import connect_command

    making = _making(model, out, steps, step_cache, seed, settings, device, negative_prompt)
    _tell([connect_command(making, first, second, prompt, frames=frames, context=context, candidates=candidates)])


def edit(
    model: Model,
    video: Video,
    prompt: Prompt,
    strength: Annotated[float, typer.Option(help="From 0, as it is, to 1, all new.")] = 0.6,
    mask: Annotated[str | None, typer.Option(metavar="IMAGE", help="White where the video is to change.")] = None,
    height: Annotated[int | None, typer.Option(min=1, help="Paint beyond the frame, to so many rows.")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Paint beyond the frame, to so many columns.")] = None,
    negative_prompt: Negative = "",
    steps: Steps = None,
    step_cache: StepCache = 0,
    settings: Set = None,
    device: Device = None,
    seed: NoiseSeed = 0,
    out: Out = "generated",
) -> None:
    """Change a video or an image towards a prompt: all of it, a region, or beyond its frame (with --strength 1)."""
    from kinema.task_commands import edit_command

    making = _making(model, out, steps, step_cache, seed, settings, device, negative_prompt)
    _tell([edit_command(making, video, prompt, strength=strength, mask=mask, height=height, width=width)])


def reproduce(
    file: Annotated[str, typer.Argument(metavar="FILE", help="What `kinema generate` wrote.")],
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model folder that made it.")],
    out: Out = "reproduced",
) -> None:
    """Make a generated file again from what it says of itself, and compare. Exits with 1 if frames differ."""
    from kinema.reproduce import reproduce_command

    path, difference = reproduce_command(file, model, out=out)
    same = "has the same frames" if difference == 0 else f"differs by up to {difference} of 255 levels"
    typer.echo(f"wrote {path}; it {same}")
    raise typer.Exit(int(difference > 0))


#: In the order of the help.
COMMANDS = (generate, image, animate, extend, loop, connect, edit, reproduce)


def _making(*values: Any) -> Any:
    """`kinema.making.Making` of its attributes, imported when a command runs; None of settings means none."""
    from kinema.making import Making

    *others, settings, device, negative_prompt = values
    return Making(*others, settings or (), device, negative_prompt)


def _tell(written: Iterable[Any]) -> None:
    for path in written:
        typer.echo(f"wrote {path}")
