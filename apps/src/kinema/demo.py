"""`kinema demo`: from a folder of mp4 files to videos that follow their prompts, by the commands that users type.

Every stage is a `kinema` command in a process of its own, its output in `logs/`; what this file adds is their order and
the summary of their reports.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from kinema.errors import UserError
from kinema.scoring import table
from kinema.stages import Stages

ATTRIBUTES = ("colour", "shape", "size", "motion", "background", "count", "all")
#: Sizes that the generated clips are judged at; those of the training clips first, then sizes never trained.
SIZES = ("9x32x32", "17x32x32", "9x32x48", "9x48x32", "5x48x48", "1x32x32", "1x48x48")
NEW_SIZES = ("9x40x40", "9x48x48", "13x32x32", "9x32x64", "9x64x32", "1x40x56")
PROMPTS = (
    "a large red circle bounces on a black background",
    "a small yellow cross moves to the upper right on a grey background",
    "a medium blue triangle orbits on a white background",
    "a large green square shrinks on a black background",
)


@dataclass(frozen=True)
class Budget:
    """How much of everything.

    Attributes:
        train_clips: of the world.
        held_out_clips: of each of its other two splits.
        prompts: of each evaluation.
        per_size: prompts of each size.
        settings: words for a stage, over those of its config.
    """

    train_clips: int
    held_out_clips: int
    prompts: int
    per_size: int
    settings: Mapping[str, Sequence[str]]

    def words(self, stage: str) -> Sequence[str]:
        """The settings of a stage; none where it keeps its config's."""
        return self.settings.get(stage, ())


_FEW_SAMPLES = ("samples.clips=4", "samples.num_steps=4")
BUDGETS = {
    "full": Budget(16000, 400, 384, 36, {"finish": ["trainer.max_steps=2400", "trainer.max_minutes=25"]}),
    "smoke": Budget(
        400,
        40,
        24,
        4,
        {
            "vae": ["trainer.max_minutes=0.15"],
            "clip": ["trainer.max_minutes=0.15"],
            "dit": ["trainer.max_minutes=0.15", *_FEW_SAMPLES],
            "finish": ["trainer.max_minutes=0.1", *_FEW_SAMPLES],
            "evaluate": ["num_steps=4"],
        },
    ),
}


def run_demo(*, budget: str = "full", out: str = "demo", seed: int = 0) -> None:
    """Run all stages in the new folder `out`, write `report.json` and print its table.

    Raises:
        UserError: an unknown budget, a folder that is there already, or a stage that failed (its log is named).
    """
    if budget not in BUDGETS:
        raise UserError(f"budget {budget!r} is unknown; choose {' or '.join(BUDGETS)}")
    folder = Path(out)
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty; name another folder with --out, or delete it")
    folder.mkdir(parents=True, exist_ok=True)
    stages = Stages(folder.resolve(), seed)
    _train(stages, BUDGETS[budget])
    _evaluate(stages, BUDGETS[budget])
    report = _report(stages)
    (folder / "report.json").write_text(json.dumps(report, indent=1))
    print(_summary(report))
    print(f"wrote {folder / 'report.json'}; models, samples and logs are in {folder}")


def _train(stages: Stages, budget: Budget) -> None:
    clips = budget.train_clips + 2 * budget.held_out_clips
    stages.run({"world": ["data", "make-world", "world", f"--clips={clips}", "--workers=2"]})
    stages.run(
        {
            "vae": ["train", "vae", f"--config={_config('vae')}", *budget.words("vae"), "run.out=models/vae"],
            "clip": ["train", "clip", f"--config={_config('clip')}", *budget.words("clip"), "run.out=models/clip"],
        }
    )
    stages.run({"encode": ["encode", "model=models/vae", "out=cache"]})
    shared = ["train", "dit", f"--config={_config('dit')}", "vae=models/vae", "clip=models/clip"]
    stages.run({"dit": [*shared, *budget.words("dit"), "run.out=models/first"]})
    # Goes on from the first stage's weights, as dit.yaml says.
    weights = [f"{key}.weights=models/first/{key}/model.safetensors" for key in ("dit", "text.main")]
    lower = ["diffusion.time_mean=0.8", "keep_share=0.3", "keep_weights={}", "optim.decay=1", "batch_cells=12288"]
    stages.run({"finish": [*shared, *budget.words("finish"), *weights, *lower, "run.out=models/dit"]})


def _evaluate(stages: Stages, budget: Budget) -> None:
    made = {
        "held_out": ("report", stages.seed + 1, budget.prompts, ["9x32x32"]),
        "reference": ("report", stages.seed + 2, budget.prompts, ["9x32x32"]),
        "seen": ("train", stages.seed + 3, budget.prompts, ["9x32x32"]),
        "sizes": ("report", stages.seed + 4, budget.per_size * len(SIZES + NEW_SIZES), SIZES + NEW_SIZES),
    }
    commands: dict[str, list[str]] = {}
    for name, (split, seed, clips, sizes) in made.items():
        options = [f"--split={split}", f"--clips={clips}", f"--sizes={','.join(sizes)}", f"--seed={seed}"]
        commands[f"prompts {name}"] = ["data", "make-world", f"prompts/{name}", *options]
    stages.run(commands, seeded=False)

    world = "metrics.world={name: world, world: world/world.json}"
    shared = ["model=models/dit", "clip=models/clip", world, *budget.words("evaluate")]
    compare = [
        "metrics.fvd={name: fvd}",
        "metrics.score={name: clip_score}",
        "metrics.steady={name: clip_frame_consistency}",
    ]
    retrieval = f"metrics.retrieval={{name: clip_retrieval, candidates: {min(32, budget.prompts // 2)}}}"
    jobs = {
        "held_out": [
            "data.path=prompts/held_out",
            "reference.name=manifest",
            "reference.path=prompts/reference",
            *compare,
            retrieval,
        ],
        "seen": ["data.path=prompts/seen", "rows=[generated]"],
        "sizes": ["data.path=prompts/sizes", "rows=[real,generated]", "by_size=true"],
        "vae": ["data.path=world", "data.split=report", "rows=[real,vae]"],
    }
    # Side by side: each has long parts that keep one core busy.
    stages.run(
        {
            f"evaluate {name}": [
                *["evaluate", *shared, *words, f"out=evaluation/{name}"],
                *([] if name == "vae" else ["data.split=null"]),
            ]
            for name, words in jobs.items()
        }
    )
    stages.run({"generate": ["generate", "models/dit", *PROMPTS, "--out=samples"]})


def _config(name: str) -> str:
    return str(files("kinema").joinpath("configs", "demo", f"{name}.yaml"))


def _report(stages: Stages) -> dict[str, Any]:
    """All evaluations in one: held_out.colour, held_out.colour_interval, seen.shape, floor.shape, vae.shape, ..."""
    from kinema_metrics.world import interval  # noqa: PLC0415  pulls in torch

    def read(name: str) -> dict[str, Any]:
        return json.loads((stages.folder / "evaluation" / name / "report.json").read_text())

    def accuracies(row: Mapping[str, float]) -> dict[str, Any]:
        kept: dict[str, Any] = {}
        for name in ATTRIBUTES:
            if name in row:
                kept[name] = row[name]
                kept[f"{name}_interval"] = list(interval(row[name], int(row["num"])))
        return {**kept, "num": int(row["num"])}

    held_out, sizes, vae = read("held_out"), read("sizes"), read("vae")
    return {
        "held_out": accuracies(held_out["rows"]["generated"]),
        "seen": accuracies(read("seen")["rows"]["generated"]),
        "floor": accuracies(held_out["rows"]["real"]),
        "vae": {**accuracies(vae["rows"]["vae"]), **{k: v for k, v in vae["rows"]["vae"].items() if "psnr" in k}},
        "sizes": {size: {**accuracies(row), "trained": size in SIZES} for size, row in sizes["sizes"].items()},
        "fvd": {
            row: next(value for name, value in scores.items() if name.startswith("fvd_"))
            for row, scores in held_out["rows"].items()
        },
        # Their names end in the CLIP's id, which the protocols hold.
        "clip": {
            row: {name.rsplit("_", 1)[0]: value for name, value in scores.items() if name.startswith("clip_")}
            for row, scores in held_out["rows"].items()
        },
        "protocols": held_out["protocols"],
        "times": {
            **stages.times,
            "total": {key: sum(t[key] for t in stages.times.values()) for key in ("minutes", "cpu_minutes")},
        },
    }


def _summary(report: Mapping[str, Any]) -> str:
    rows = {name: report[name] for name in ("floor", "vae", "held_out", "seen")}
    accuracies = {name: {key: row[key] for key in ATTRIBUTES if key in row} for name, row in rows.items()}
    sizes = {key: {size: row[key] for size, row in report["sizes"].items() if key in row} for key in ATTRIBUTES}
    times = {key: {name: stage[key] for name, stage in report["times"].items()} for key in ("minutes", "cpu_minutes")}
    parts = {
        "accuracy; floor: real clips, vae: after encoding and decoding": accuracies,
        "by size of the clip": sizes,
        "Frechet video distance to other real clips": {"fvd": report["fvd"]},
        "CLIP": report["clip"],
        "minutes": times,
    }
    return "\n\n".join(f"{title}\n{table(rows)}" for title, rows in parts.items())
