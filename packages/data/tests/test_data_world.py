"""The made world: splits, laws of motion, captions, and pixels against ground truth measured another way."""

import dataclasses
import itertools
import json
import math
import re

import pytest
import torch
from kinema_core.testing import DatasetContract

from kinema_data.worlds import (
    FRAME_RATES,
    TRAIN_SIZES,
    Look,
    ShapesDataset,
    World,
    draw_scene,
    prompts,
    render,
    render_frames,
)
from kinema_data.worlds.captions import MOTION_WORDS, SIZE_WORDS, STYLE_WORDS
from kinema_data.worlds.render import coverage, styled_coverage
from kinema_data.worlds.tracks import fits
from kinema_data.worlds.world import BACKGROUNDS, COLOURS, DIRECTIONS, MOTIONS, SHAPES, SIZES, SPLITS, STYLES, extents

WORLD = World()
ALL_SIZES = [*TRAIN_SIZES, (9, 40, 40), (13, 24, 56), (9, 64, 32), (17, 32, 48), (25, 32, 32)]


class TestShapesDataset(DatasetContract):
    def make(self):
        return ShapesDataset(5, seed=3, split="choose")


def test_a_clip_depends_on_seed_split_and_index_only():
    long, short = ShapesDataset(20, seed=1), ShapesDataset(7, seed=1)
    assert long.scene(6) == short.scene(6)
    assert long.scene(6) != ShapesDataset(7, seed=2).scene(6)
    assert long.scene(5) != long.scene(6)
    alone = render([long.scene(6)])[0].video
    assert torch.equal(render([long.scene(i) for i in range(20)])[6].video, alone)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="'test'; known: train, choose, report"):
        ShapesDataset(5, split="test")
    with pytest.raises(ValueError, match="got 0"):
        World(0)
    with pytest.raises(ValueError, match=r"noise -1\.0"):
        ShapesDataset(5, noise=-1.0)
    with pytest.raises(ValueError, match="fits 8x8"):
        prompts(WORLD, "train", 1, 0, sizes=[(9, 8, 8)])


def test_splits_are_a_partition_and_train_keeps_every_pair():
    triples = {split: set(WORLD.triples(split)) for split in SPLITS}
    everything = set(itertools.product(COLOURS, SHAPES, MOTIONS))
    assert set.union(*triples.values()) == everything
    assert sum(len(part) for part in triples.values()) == len(everything)
    for held_out in ("choose", "report"):
        assert 0.08 < len(triples[held_out]) / len(everything) < 0.15
        assert {(s, m) for _, s, m in triples[held_out]} == set(itertools.product(SHAPES, MOTIONS))
    for i, j in ((0, 1), (0, 2), (1, 2)):
        pairs = {(t[i], t[j]) for t in everything}
        assert {(t[i], t[j]) for t in triples["train"]} == pairs
    assert WORLD.triples("report") == World(4).triples("report")
    assert all(WORLD.split_of(*triple) == "report" for triple in triples["report"])


def test_scenes_and_prompts_stay_in_their_split():
    for split in SPLITS:
        scenes = [draw_scene(WORLD, split, 0, i) for i in range(60)] + prompts(WORLD, split, 60, 0)
        for scene in scenes:
            a = scene.attributes
            if scene.frames > 1:
                assert WORLD.split_of(a["colour"], a["shape"], a["motion"]) == split
            else:
                assert a["motion"] == "none" and "motion" not in scene.stated


def test_colours_are_far_apart():
    both = {**COLOURS, **BACKGROUNDS}
    assert min(math.dist(both[a], both[b]) for a, b in itertools.combinations(both, 2)) > 95


def test_the_whole_shape_is_in_the_frame_at_every_size():
    scenes = prompts(WORLD, "train", 40 * len(ALL_SIZES), 0, sizes=ALL_SIZES)
    for scene in scenes:
        left, right, up, down = extents(scene.attributes["shape"])
        for (x, y), r in zip(scene.positions, scene.radii, strict=True):
            assert x - left * r >= 0.4 and x + right * r <= scene.width - 0.4
            assert y - up * r >= 0.4 and y + down * r <= scene.height - 0.4


def test_every_combination_has_room_in_every_trained_size():
    for (frames, height, width), shape, size, motion in itertools.product(TRAIN_SIZES, SHAPES, SIZES, MOTIONS):
        assert fits(WORLD, shape, size, motion, frames=frames, height=height, width=width)
    assert not fits(WORLD, "circle", "large", "up", frames=9, height=22, width=56)


@pytest.mark.parametrize("scale", [1, 3])
def test_motions_obey_their_laws(scale):
    world = World(scale)
    sizes = [(t, scale * h, scale * w) for t, h, w in ((5, 32, 32), (9, 32, 48), (17, 32, 32), (13, 24, 56))]
    seen = set()
    for scene in prompts(world, "train", 400, 1, sizes=sizes):
        motion = scene.attributes["motion"]
        seen.add(motion)
        track = torch.tensor(scene.positions) / scale
        radii = torch.tensor(scene.radii) / scale
        net = track[-1] - track[0]
        growth = radii[-1] / radii[0]
        assert abs(radii.log().mean().exp() / SIZES[scene.attributes["size"]] - 1) < 0.031
        assert abs(growth - {"grow": 16 / 9, "shrink": 9 / 16}.get(motion, 1.0)) < 1e-4
        if motion in DIRECTIONS:
            step = torch.tensor(DIRECTIONS[motion]).float()
            assert net @ step / step.norm() >= 4.99
            assert (net / net.norm() - step / step.norm()).norm() < 1e-4
            assert track.diff(dim=0, n=2).norm(dim=1).max() < 1e-4
            room = min(scene.height, scene.width) / scale >= 32
            assert net.norm() >= 7.9 or scene.frames < 9 or not room
        elif motion == "bounce":
            path = track.diff(dim=0).norm(dim=1)
            assert track[:, 0].std() < 1e-5
            assert path[0] > 0.5 and abs(path[0] - path[-1]) < 1e-4, "it leaves as fast as it came"
            turning = track[:, 1].argmax()
            assert 0 < turning < scene.frames - 1
            # At the turn the shape touches the floor, but for what it moves within one frame.
            down = extents(scene.attributes["shape"])[3] * radii[0]
            assert scene.height / scale - down - track[turning, 1] < 0.51 + path[0]
        elif motion == "orbit":
            centre_fit = torch.cat([2 * track, torch.ones(len(track), 1)], 1)
            solution = torch.linalg.lstsq(centre_fit, track.square().sum(1, keepdim=True)).solution[:2, 0]
            spokes = track - solution
            assert spokes.norm(dim=1).std() < 1e-2 and spokes.norm(dim=1).min() > 2.9
            angles = torch.atan2(spokes[:, 1], spokes[:, 0])
            turn = (angles.diff() + math.pi).remainder(2 * math.pi) - math.pi
            assert 269 < math.degrees(turn.sum()) < 361, "clockwise, as y points down"
            assert abs(track[0, 0] - solution[0]) < 1e-2 and track[0, 1] < solution[1], "from the top"
        else:
            assert track.std(0).max() < 1e-5
    assert seen == set(MOTIONS)


def test_speed_is_in_pixels_per_second_where_there_is_room():
    speeds = []
    for scene in prompts(WORLD, "train", 800, 0, sizes=[(9, 64, 64), (17, 96, 96)]):
        if scene.attributes["motion"] in DIRECTIONS:
            distance = math.dist(scene.positions[0], scene.positions[-1])
            if distance > 8.01:
                speeds.append(distance * scene.frame_rate / (scene.frames - 1))
    assert len(speeds) > 300 and min(speeds) > 15.9 and max(speeds) < 30.01


@pytest.mark.parametrize("shape", SHAPES)
def test_pixels_agree_with_the_outline(shape):
    """Against counting points of a fine grid with another test for inside."""
    size, fine, radius, centre = 24, 16, 6.6, (11.3, 12.8)
    line = (torch.arange(size * fine) + 0.5) / fine
    x, y = (line - centre[0]) / radius, (line - centre[1]) / radius
    x, y = x[None, :], y[:, None]
    inside = {
        "circle": x**2 + y**2 <= 1,
        "square": (x.abs() <= 0.95) & (y.abs() <= 0.95),
        "triangle": (y <= 0.75) & (x.abs() * 2.25 <= 1.2 * (y + 1.5)),
        "cross": ((x.abs() <= 0.42) & (y.abs() <= 1.2)) | ((x.abs() <= 1.2) & (y.abs() <= 0.42)),
    }[shape]
    exact = inside.float().unflatten(0, (size, fine)).unflatten(2, (size, fine)).mean((1, 3))
    drawn = coverage(shape, torch.tensor(centre), torch.tensor(radius), size, size)
    assert (drawn - exact).abs().max() < 0.25 and (drawn - exact).abs().mean() < 0.004
    for axis, middle in ((0, centre[0]), (1, centre[1])):
        mass = drawn.sum(axis)
        assert abs((mass * (torch.arange(size) + 0.5)).sum() / mass.sum() - middle) < 0.05, "centre of area"


@pytest.mark.parametrize("shape", SHAPES)
def test_styles_are_drawn_as_the_laws_say(shape):
    laws, place = WORLD.laws, (torch.tensor([15.2, 16.7]), torch.tensor(9.0), 32, 36)
    flat = coverage(shape, *place)
    drawn = {style: styled_coverage(style, WORLD, shape, *place) for style in STYLES}
    assert torch.equal(drawn["flat"], flat)
    assert all(((cover >= 0) & (cover <= 1)).all() for cover in drawn.values())
    # An outline is what a shape that is smaller by its line's width leaves of the whole one.
    hole = flat - drawn["outline"]
    assert drawn["outline"].max() > 0.99 and 0.15 * flat.sum() < hole.sum() < 0.8 * flat.sum()
    inradius = {"circle": 1.0, "square": 0.95, "triangle": 0.75, "cross": 0.42}[shape]
    if shape in ("circle", "square"):
        smaller = coverage(shape, place[0], place[1] - laws.line / inradius, *place[2:])
        assert (hole - smaller).abs().max() < 1e-5
    # Stripes are whole, the gaps between them as thin as the laws say, and both are as wide.
    inside = drawn["textured"][flat == 1]
    assert inside.min() == pytest.approx(laws.gap) and inside.max() == pytest.approx(1.0)
    assert inside.mean() == pytest.approx((1 + laws.gap) / 2, abs=0.06)
    shifted = styled_coverage("textured", WORLD, shape, place[0] + 3, *place[1:])
    assert (shifted[3:, 3:] - drawn["textured"][:-3, :-3]).abs().max() < 1e-5, "fixed to the object"
    # Blocks move with the object; in line with the pixels they are constant: means of the flat, every other one thin.
    moved = styled_coverage("pixelated", WORLD, shape, place[0] + 2, *place[1:])
    assert (moved[2:, 2:] - drawn["pixelated"][:-2, :-2]).abs().max() < 1e-5
    whole, side = (torch.tensor([18.0, 18.0]), *place[1:]), laws.block
    means = coverage(shape, *whole).unflatten(0, (-1, side)).unflatten(2, (-1, side)).mean((1, 3))
    means[(torch.arange(len(means))[:, None] + torch.arange(len(means[0]))) % 2 == 1] *= laws.gap
    blocks = styled_coverage("pixelated", WORLD, shape, *whole).unflatten(0, (-1, side)).unflatten(2, (-1, side))
    assert (blocks - means[:, None, :, None]).abs().max() < 1e-5
    # Half a pixel on, a pixel between two blocks shows half of each.
    half = styled_coverage("pixelated", WORLD, shape, whole[0] + torch.tensor([0.5, 0.0]), *whole[1:])[:, 16]
    assert (half - means[:, 3:5].mean(1).repeat_interleave(side)).abs().max() < 1e-5


def test_a_world_with_styles_says_so_and_a_flat_one_is_as_before():
    flat, styled = World(), World(styles=STYLES)
    assert "style" not in draw_scene(flat, "train", 0, 3).attributes
    scenes = [draw_scene(styled, "train", 0, index) for index in range(200)]
    assert {scene.attributes["style"] for scene in scenes} == set(STYLES)
    for scene in scenes:
        words = STYLE_WORDS[scene.attributes["style"]]
        for caption in scene.captions.values():
            assert any(word in caption for word in words) == ("style" in scene.stated)
    with pytest.raises(ValueError, match="shaded; give some of flat, outline"):
        World(styles=("shaded",))


def test_frames_show_colour_on_background_at_the_recorded_place():
    for scene, frames in zip(scenes := prompts(WORLD, "train", 60, 5), render_frames(scenes), strict=True):
        colour, ground = (
            torch.tensor(table[scene.attributes[name]]).float()
            for table, name in ((COLOURS, "colour"), (BACKGROUNDS, "background"))
        )
        assert frames.dtype == torch.uint8 and frames.shape == (9, 32, 32, 3)
        alpha = ((frames.float() - ground) @ (colour - ground)) / (colour - ground).square().sum()
        assert alpha.min() > -0.02 and alpha.max() < 1.02
        place = torch.arange(32) + 0.5
        for picture, (x, y) in zip(alpha, scene.positions, strict=True):
            assert abs((picture.sum(0) * place).sum() / picture.sum() - x) < 0.15
            assert abs((picture.sum(1) * place).sum() / picture.sum() - y) < 0.15


def test_shapes_differ_clearly_at_the_smallest_size():
    """The overlap of any two shapes of equal area is far from 1, so a judge can tell them apart."""
    radius, pictures = SIZES["small"], {}
    for shape in SHAPES:
        area = coverage(shape, torch.tensor([16.0, 16.0]), torch.tensor(radius), 32, 32).sum()
        equal = radius * (70 / area).sqrt()
        pictures[shape] = coverage(shape, torch.tensor([16.0, 16.0]), equal, 32, 32)
    for one, other in itertools.combinations(SHAPES, 2):
        a, b = pictures[one], pictures[other]
        assert torch.minimum(a, b).sum() / torch.maximum(a, b).sum() < 0.86, (one, other)


def test_captions_name_what_they_state_and_nothing_else():
    dropped = dict.fromkeys(("size", "motion", "background"), 0)
    videos = 0
    for index in range(1500):
        scene = draw_scene(WORLD, "train", 0, index)
        a = scene.attributes
        for caption in scene.captions.values():
            assert a["colour"] in caption and a["shape"] in caption
            others = (set(COLOURS) | set(SHAPES)) - {a["colour"], a["shape"]}
            assert not others & set(re.findall(r"[a-z]+", caption)), caption
            assert any(re.search(rf"\b{w}\b", caption) for w in SIZE_WORDS[a["size"]]) == ("size" in scene.stated)
            assert ("background" in scene.stated) == (f"{a['background']} background" in caption)
            if a["motion"] != "none":
                named = any(words in caption for words in MOTION_WORDS[a["motion"]])
                assert named == ("motion" in scene.stated), caption
        if scene.frames > 1:
            videos += 1
            for name in dropped:
                dropped[name] += name not in scene.stated
    assert all(0.08 < n / videos < 0.16 for n in dropped.values()), dropped


def test_wording_varies_within_a_modest_vocabulary():
    scenes = [draw_scene(WORLD, "train", 0, i) for i in range(3000)]
    words = {word for scene in scenes for word in re.findall(r"[a-z-]+", scene.captions["long"].lower())}
    assert len(words) < 110
    assert len({scene.caption for scene in scenes}) > 2000
    for scene in scenes[:300]:
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]|  |^ | $", scene.caption), scene.caption


def test_prompts_name_everything_and_are_balanced():
    scenes = prompts(WORLD, "report", 390, 0, sizes=[(9, 32, 32), (5, 48, 48)])
    assert all(set(scene.stated) == {"colour", "shape", "size", "motion", "background"} for scene in scenes)
    for name, kinds in (("motion", MOTIONS), ("size", SIZES)):
        counts = [sum(scene.attributes[name] == kind for scene in scenes) for kind in kinds]
        assert max(counts) == min(counts), name
    assert len({scene.id for scene in scenes}) == 390
    assert scenes == prompts(WORLD, "report", 390, 0, sizes=[(9, 32, 32), (5, 48, 48)])
    assert {scene.frame_rate for scene in scenes} == set(FRAME_RATES)


def test_training_sizes_have_their_shares():
    scenes = [draw_scene(WORLD, "train", 0, i) for i in range(4000)]
    for clip, share in TRAIN_SIZES.items():
        found = sum((s.frames, s.height, s.width) == clip for s in scenes) / len(scenes)
        assert abs(found - share) < 0.03
    assert abs(sum(TRAIN_SIZES.values()) - 1) < 1e-9


def test_world_json_holds_the_definition():
    world = json.loads(World(2).to_json())
    assert world["scale"] == 2 and set(world["colours"]) == set(COLOURS)
    assert [tuple(t) for t in world["splits"]["report"]] == WORLD.triples("report")
    assert world["laws"]["growth"] == pytest.approx(4 / 3)


def test_scale_multiplies_the_picture():
    small, large = (ShapesDataset(3, seed=4, scale=scale)[1] for scale in (1, 4))
    assert large.video.shape[2] == 4 * small.video.shape[2]
    pooled = torch.nn.functional.avg_pool3d(large.video[None], (1, 4, 4))[0]
    assert (pooled - small.video).abs().mean() < 0.01


def levels(count: int, **look: float) -> list[torch.Tensor]:
    """Videos (T, H, W, 3) of `count` clips, in levels."""
    world = World(2, Look(**look))
    scenes = prompts(world, "train", count, 0, sizes=[(9, 64, 96)])
    return [frames.float() for frames in render_frames(scenes)]


def on_grey(videos: list[torch.Tensor], flat: list[torch.Tensor]) -> list[torch.Tensor]:
    """What is added where flat colours are far from black and white, by clip: (T, H, W)."""
    clips = [(v - f)[..., 1] for v, f in zip(videos, flat, strict=True) if (f[0, 0, 0] - 128).abs().max() < 5]
    assert len(clips) > 5
    return clips


def test_texture_and_noise_have_the_strength_that_was_asked_for():
    flat = levels(30)
    texture = on_grey(levels(30, texture=12), flat)
    noise = on_grey(levels(30, noise=5), flat)
    assert torch.stack([t[:, :8].square().mean() for t in texture]).mean().sqrt().item() == pytest.approx(12, rel=0.1)
    assert torch.stack([n[:, :8].square().mean() for n in noise]).mean().sqrt().item() == pytest.approx(5, rel=0.02)
    one, other = noise[0][0].flatten(), noise[0][1].flatten()
    assert torch.corrcoef(torch.stack([one, other]))[0, 1].abs() < 0.05, "drawn anew in every frame"
    assert levels(3, texture=12, noise=5)[2].equal(levels(3, texture=12, noise=5)[2])


def moved(picture: torch.Tensor, x: float, y: float) -> torch.Tensor:
    """(H, W), moved right and down by some pixels."""
    height, width = picture.shape
    step = torch.tensor([[[1.0, 0, -2 * x / width], [0, 1, -2 * y / height]]])
    grid = torch.nn.functional.affine_grid(step, [1, 1, height, width], align_corners=False)
    return torch.nn.functional.grid_sample(picture[None, None], grid, mode="bicubic", align_corners=False)[0, 0]


def test_the_background_passes_at_the_speed_of_the_camera():
    """A frame moved in the best of all directions fits the next one best at the camera's speed."""
    world = World(2, Look(texture=20, camera=9))
    scenes = [s for s in prompts(world, "train", 60, 0, sizes=[(9, 64, 96)]) if s.attributes["background"] == "grey"]
    flat = render_frames([dataclasses.replace(s, world=World(2)) for s in scenes])
    turns, totals = [], dict.fromkeys((0, 0.5, 1, 1.5, 2), 0.0)
    for scene, video, plain in zip(scenes, render_frames(scenes), flat, strict=True):
        thing = (plain != plain[0, 0, 0]).any(-1).any(0)
        there = torch.nn.functional.max_pool2d(thing[None].float(), 13, 1, 6)[0, 6:-6, 6:-6] == 0  # not near the object
        one, other = video[0, ..., 0].float(), video[1, ..., 0].float()
        for times in totals:
            step = times * 9 * 2 / scene.frame_rate
            errors = {}
            for turn in torch.linspace(0, 2 * math.pi, 33)[:-1].tolist():
                error = moved(one, step * math.cos(turn), step * math.sin(turn)) - other
                errors[turn] = error[6:-6, 6:-6][there].square().mean().item()
            totals[times] += min(errors.values())
            turns += [min(errors, key=errors.__getitem__)] if times == 1 else []
    assert min(totals, key=totals.__getitem__) == 1 and totals[1] < 0.2 * totals[0]
    assert len(turns) > 10 and torch.tensor(turns).std() > 1, "in all directions"


def test_without_a_camera_the_texture_rests():
    scenes = [s for s in prompts(WORLD, "train", 60, 0) if s.attributes["motion"] == "still"]
    still = render_frames([dataclasses.replace(s, world=World(1, Look(texture=20))) for s in scenes])
    assert still and all(video[0].equal(video[-1]) for video in still)
