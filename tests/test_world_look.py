"""The judge of made worlds reads texture, noise, a panning camera and every style as it reads flat clips."""

from dataclasses import replace

import pytest
import torch
from kinema_data.worlds import STYLES, Look, World, prompts, render
from kinema_metrics import Judge, WorldAccuracy
from torch.nn.functional import avg_pool2d, max_pool2d, pad


def test_the_judge_sees_through_texture_noise_and_a_pan():
    for scale, size in ((1, (9, 32, 32)), (2, (9, 64, 96))):
        world = World(scale, Look(texture=10, noise=5, camera=12))
        metric = WorldAccuracy(world.to_dict())
        metric.update(render(prompts(world, "report", 150, 0, sizes=[size])))
        assert metric.compute()["all"] >= 0.97


@pytest.mark.parametrize(("scale", "sizes"), [(1, [(9, 32, 32), (1, 32, 48)]), (2, [(5, 80, 64)])])
def test_the_judge_tells_all_styles_apart_and_reads_the_rest_through_them(scale, sizes):
    world = World(scale, styles=STYLES)
    clips = render(prompts(world, "report", 160, 0, sizes=sizes))
    assert {clip.meta["style"] for clip in clips} == set(STYLES)
    metric = WorldAccuracy(world.to_dict())
    metric.update(clips)
    found = metric.compute()
    assert found["style"] >= 0.98 and found["all"] >= 0.97
    wrong = [
        type(clip)(clip.id, clip.video, clip.frame_rate, clip.captions, {**clip.meta, "style": "flat"})
        for clip in clips
        if clip.meta["style"] != "flat"
    ]
    metric.reset()
    metric.update(wrong)
    assert metric.compute()["style"] <= 0.02


def test_a_style_named_twice_is_drawn_twice_as_often_and_read_as_before():
    twice = World(styles=("flat", "outline", "outline"))
    clips = render(prompts(twice, "report", 300, 0, sizes=[(1, 32, 32)]))
    assert 160 < sum(clip.meta["style"] == "outline" for clip in clips) < 240  # 200, five standard errors each way
    assert Judge(twice.to_dict()).read(clips) == Judge(World(styles=("flat", "outline")).to_dict()).read(clips)


def soft(video):
    """Every pixel the mean of the nine around it."""
    return avg_pool2d(pad(video, (1, 1, 1, 1), mode="replicate"), 3, 1)


def thick(video):
    """Every pixel half way to the one of the nine around it that is farthest from the background."""
    ground = video[:, :1, :1, :1]
    above, below = (sign * max_pool2d(sign * (video - ground), 3, 1, 1) for sign in (1, -1))
    return (video + ground + torch.where(above > -below, above, below)) / 2


@pytest.mark.parametrize("changed", [soft, thick])
@pytest.mark.parametrize(("scale", "size"), [(1, (9, 32, 32)), (2, (5, 80, 64))])
def test_lines_that_are_soft_or_wider_than_the_worlds_are_outlines_still(changed, scale, size):
    world = World(scale, styles=STYLES)
    metric = WorldAccuracy(world.to_dict())
    clips = [replace(c, video=changed(c.video)) for c in render(prompts(world, "report", 160, 0, sizes=[size]))]
    metric.update([clip for clip in clips if clip.meta["style"] == "outline"])
    found = metric.compute()
    assert min(found["style"], found["shape"], found["size"]) >= 0.97
    metric.reset()
    metric.update([clip for clip in clips if clip.meta["style"] == "flat"])
    assert metric.compute()["style"] >= 0.93
