"""The exact judge against clips drawn here in another way (by counting points), and against broken ones."""

import itertools
import json
import math

import pytest
import torch
from kinema_core import Clip, seeded_generator
from kinema_core.testing import MetricContract

from kinema_metrics.world import ATTRIBUTES, Judge, WorldAccuracy, interval
from kinema_metrics.world.outlines import unit_area

WORLD = {
    "scale": 1,
    "colours": {"red": [215, 30, 35], "green": [20, 160, 50], "blue": [35, 75, 225]},
    "backgrounds": {"black": [8, 8, 8], "white": [248, 248, 248]},
    "shapes": {
        "circle": {"disc": 1.0},
        "square": {"polygons": [[[-0.95, -0.95], [0.95, -0.95], [0.95, 0.95], [-0.95, 0.95]]]},
        "triangle": {"polygons": [[[0.0, -1.5], [1.2, 0.75], [-1.2, 0.75]]]},
        "cross": {
            "polygons": [
                [[-1.2, -0.42], [1.2, -0.42], [1.2, 0.42], [-1.2, 0.42]],
                [[-0.42, -1.2], [0.42, -1.2], [0.42, 1.2], [-0.42, 1.2]],
            ]
        },
    },
    "sizes": {"small": 4.8, "medium": 6.6, "large": 9.0},
    "directions": {"left": [-1, 0], "right": [1, 0], "up": [0, -1], "down": [0, 1], "up-right": [1, -1]},
    "no_motion": "none",
    "laws": {"growth": 4 / 3, "step": [5.0, 8.0], "turn": [0.4, 0.6], "sweep": [270.0, 360.0]},
}
MOTIONS = [*WORLD["directions"], "bounce", "orbit", "grow", "shrink", "still"]
INSIDE = {
    "circle": lambda x, y: x**2 + y**2 <= 1,
    "square": lambda x, y: (x.abs() <= 0.95) & (y.abs() <= 0.95),
    "triangle": lambda x, y: (y <= 0.75) & (x.abs() * 2.25 <= 1.2 * (y + 1.5)),
    "cross": lambda x, y: ((x.abs() <= 0.42) & (y.abs() <= 1.2)) | ((x.abs() <= 1.2) & (y.abs() <= 0.42)),
}


def cover(shape, centre, radius, height, width, fine=4):
    """The share of each pixel inside, from fine x fine points."""
    x = ((torch.arange(width * fine) + 0.5) / fine - centre[0]) / radius
    y = ((torch.arange(height * fine) + 0.5) / fine - centre[1]) / radius
    inside = INSIDE[shape](x[None, :], y[:, None]).float()
    return inside.unflatten(0, (height, fine)).unflatten(2, (width, fine)).mean((1, 3))


def track(motion, frames, centre, radius):
    """Positions and radii of one clip."""
    u = torch.linspace(0, 1, frames).tolist() if frames > 1 else [0.5]
    points, radii = [centre] * frames, [radius] * frames
    if motion in WORLD["directions"]:
        dx, dy = WORLD["directions"][motion]
        points = [(centre[0] + 8 * dx * (t - 0.5), centre[1] + 8 * dy * (t - 0.5)) for t in u]
    elif motion == "bounce":
        points = [(centre[0], centre[1] + 2.5 - 10 * abs(t - 0.45)) for t in u]
    elif motion == "orbit":
        points = [(centre[0] + 3.5 * math.cos(5.4 * t), centre[1] + 3.5 * math.sin(5.4 * t)) for t in u]
    elif motion in ("grow", "shrink"):
        sign = 1 if motion == "grow" else -1
        radii = [radius * (4 / 3) ** (sign * (2 * t - 1)) for t in u]
    return points, radii


def clip(colour="red", shape="circle", size="medium", motion="left", background="black", frames=9, hw=(32, 40)):
    height, width = hw
    points, radii = track(motion, frames, (width / 2 + 0.3, height / 2 + 0.7), WORLD["sizes"][size])
    ground = torch.tensor(WORLD["backgrounds"][background]).float()
    ink = torch.tensor(WORLD["colours"][colour]).float()
    alpha = torch.stack([cover(shape, p, r, height, width) for p, r in zip(points, radii, strict=True)])
    pixels = (ground + alpha[..., None] * (ink - ground)).permute(3, 0, 1, 2)
    meta = {"colour": colour, "shape": shape, "size": size, "motion": motion, "background": background, "count": 1}
    if frames == 1:
        meta["motion"] = "none"
    truth = {"positions": points, "radii": radii}
    return Clip(f"{colour}-{shape}-{size}-{motion}-{frames}", pixels / 127.5 - 1, 8.0, {}, {**meta, **truth})


def with_video(one, video, **meta):
    return Clip(one.id, video, one.frame_rate, one.captions, {**one.meta, **meta})


@pytest.fixture(scope="module")
def judge():
    return Judge(WORLD)


@pytest.fixture(scope="module")
def every():
    """All shapes x sizes x motions; colours, backgrounds, lengths and frames in turn."""
    turns = zip(
        itertools.product(WORLD["shapes"], WORLD["sizes"], MOTIONS),
        itertools.cycle(WORLD["colours"]),
        itertools.cycle(["black", "white"]),
        itertools.cycle([5, 9, 17]),
        itertools.cycle([(34, 34), (36, 48), (48, 36), (44, 44), (34, 64)]),
    )
    return [clip(colour, *kind, ground, frames, hw) for kind, colour, ground, frames, hw in turns]


def wrong(judge, clips):
    return [
        (one.id, name, one.meta[name], getattr(reading, name))
        for one, reading in zip(clips, judge.read(clips), strict=True)
        for name in ATTRIBUTES
        if getattr(reading, name) != one.meta[name]
    ]


def test_reads_every_attribute_of_exact_clips(judge, every):
    assert wrong(judge, every) == []


def test_reads_images(judge):
    images = [clip(shape=s, size=z, frames=1) for s in WORLD["shapes"] for z in WORLD["sizes"]]
    assert wrong(judge, images) == []


def test_places_and_radii_are_exact_to_a_fraction_of_a_pixel(judge, every):
    for one, reading in zip(every[::4], judge.read(every[::4]), strict=True):
        for (x, y), (px, py) in zip(reading.positions, one.meta["positions"], strict=True):
            assert abs(x - px) < 0.15 and abs(y - py) < 0.15
        for radius, true in zip(reading.radii, one.meta["radii"], strict=True):
            assert abs(radius / true - 1) < 0.04
        assert reading.overlap > 0.93 and not reading.lost


def soften(video, factor, noise, key):
    """Shrink and enlarge, then add noise: what a small autoencoder does to a picture."""
    frames = video.transpose(0, 1)
    size = frames.shape[-2:]
    small = torch.nn.functional.interpolate(frames, scale_factor=factor, mode="bicubic", antialias=True)
    back = torch.nn.functional.interpolate(small, size=size, mode="bicubic").transpose(0, 1)
    return (back + noise * torch.randn(back.shape, generator=seeded_generator(key))).clamp(-1, 1)


@pytest.mark.parametrize(("factor", "noise"), [(1.0, 0.08), (0.5, 0.04)])
def test_survives_blur_and_noise(judge, every, factor, noise):
    soft = [with_video(one, soften(one.video, factor, noise, one.id)) for one in every]
    missed = wrong(judge, soft)
    assert len(missed) <= 0.03 * len(every), missed


def test_a_larger_scale_reads_the_same(every):
    judge = Judge({**WORLD, "scale": 3})
    large = [with_video(one, one.video.repeat_interleave(3, 2).repeat_interleave(3, 3)) for one in every[::17]]
    assert wrong(judge, large) == []


def test_frozen_clip_is_still(judge):
    moving = clip(motion="right")
    frozen = with_video(moving, moving.video[:, :1].expand(-1, 9, -1, -1))
    assert wrong(judge, [frozen]) == [(frozen.id, "motion", "right", "still")]


def test_reversed_clip_goes_the_other_way(judge):
    pairs = {"left": "right", "up": "down", "grow": "shrink", "bounce": "bounce", "orbit": None, "still": "still"}
    for motion, other in pairs.items():
        assert judge.read([with_video(one := clip(motion=motion), one.video.flip(1))])[0].motion == other


def test_a_bounce_is_off_the_floor_and_an_orbit_clockwise(judge):
    for motion, axis in (("bounce", 2), ("orbit", 2), ("orbit", 3)):
        one = clip(motion=motion, size="small", hw=(40, 40))
        assert judge.read([one])[0].motion == motion
        assert judge.read([with_video(one, one.video.flip(axis))])[0].motion is None, "mirrored"
    sideways = clip(motion="bounce", size="small", hw=(40, 40))
    assert judge.read([with_video(sideways, sideways.video.transpose(2, 3))])[0].motion is None


def test_shuffled_and_teleporting_tracks_obey_no_law(judge):
    order = [4, 0, 7, 2, 8, 1, 5, 3, 6]
    for motion in ("left", "up-right", "orbit"):
        one = clip(motion=motion, size="small")
        assert judge.read([with_video(one, one.video[:, order])])[0].motion is None, motion


def test_a_path_with_a_corner_is_no_line(judge):
    left, up = clip(motion="left", size="small", hw=(40, 40)).video, clip(motion="up", size="small", hw=(40, 40)).video
    joined = torch.cat([left[:, :5].flip(1), left[:, :5], up[:, 4:5].expand(-1, 3, -1, -1)], 1)
    assert judge.read([Clip("corner", joined)])[0].motion not in WORLD["directions"]


def test_second_object_is_counted_and_a_speck_is_not(judge):
    base = clip(shape="circle", size="small", motion="still", hw=(32, 48))
    white = torch.tensor([1.0, 1.0, 1.0]).view(3, 1, 1, 1)
    for side, count in ((2, 1), (7, 2)):
        video = base.video.clone()
        video[:, :, 3 : 3 + side, 40 : 40 + side] = white
        assert judge.read([Clip("two", video)])[0].count == count


def test_missing_object_is_lost(judge):
    one = clip()
    empty = one.video[:, :, :1, :1].expand(-1, -1, 32, 40)
    reading = judge.read([Clip("empty", empty.clone())])[0]
    assert reading.lost and reading.count == 0 and reading.background == "black"
    assert reading.colour is reading.shape is reading.size is reading.motion is None
    half = torch.cat([one.video[:, :5], empty[:, :4]], 1)
    assert judge.read([Clip("half", half)])[0].lost
    assert math.isnan(judge.read([Clip("half", half)])[0].positions[-1][0])
    assert judge.read([Clip("nan", torch.full((3, 9, 32, 32), torch.nan))])[0].lost


def test_one_lost_frame_does_not_matter(judge):
    one = clip(motion="right", size="small")
    video = one.video.clone()
    video[:, 4] = video[:, 4, :1, :1]
    assert wrong(judge, [with_video(one, video)]) == []


def test_unit_areas_are_those_of_the_figures():
    areas = {"circle": math.pi, "square": 1.9**2, "triangle": 2.4 * 2.25 / 2, "cross": 2 * 2.4 * 0.84 - 0.84**2}
    for shape, area in areas.items():
        assert abs(unit_area(WORLD["shapes"][shape]) / area - 1) < 2e-3


def test_reads_the_world_from_a_file_and_names_what_it_lacks(tmp_path):
    path = tmp_path / "world.json"
    path.write_text(json.dumps(WORLD))
    assert WorldAccuracy(str(path)).verdicts([clip()])[0]["all"]
    with pytest.raises(ValueError, match="lacks sizes, laws"):
        Judge({key: value for key, value in WORLD.items() if key not in ("sizes", "laws")})


class TestWorldAccuracy(MetricContract):
    def make(self):
        return WorldAccuracy(WORLD)

    def clips(self):
        clips = [clip(), clip(frames=5), clip(frames=1), clip(motion="still", shape="cross")]
        return [*clips, with_video(clips[0], clips[0].video, colour="green")], None


def test_accuracies_count_only_what_applies():
    metric = WorldAccuracy(WORLD)
    right, image = clip(), clip(frames=1)
    metric.update(
        [
            right,
            image,
            with_video(right, right.video, colour="green"),
            with_video(right, right.video, colour="green", size="large", stated=["size", "motion"]),
        ]
    )
    values = metric.compute()
    assert values["colour"] == pytest.approx(2 / 3) and values["size"] == pytest.approx(3 / 4)
    assert values["motion"] == 1 and values["all"] == pytest.approx(2 / 4) and values["num"] == 4
    assert metric.counts() == {
        "colour": 3, "shape": 3, "size": 4, "motion": 3, "background": 3, "count": 4, "all": 4
    }  # fmt: skip
    assert metric.verdicts([image]) == [dict.fromkeys(("colour", "shape", "size", "background", "count", "all"), True)]
    metric.reset()
    metric.update([image])
    assert "motion" not in metric.compute()


def test_missing_truth_is_named():
    with pytest.raises(ValueError, match="clip 'a': its meta lacks colour, shape"):
        WorldAccuracy(WORLD).update([Clip("a", torch.zeros(3, 9, 32, 32))])
    with pytest.raises(ValueError, match="no clips"):
        WorldAccuracy(WORLD).compute()


def test_interval_is_wilsons():
    """Against the equation it solves: the bounds are the shares p with |accuracy - p| = z sqrt(p (1 - p) / n)."""
    for accuracy, n in ((0.8, 384), (0.5, 10), (0.98, 50)):
        for bound in interval(accuracy, n):
            assert abs(accuracy - bound) == pytest.approx(1.96 * math.sqrt(bound * (1 - bound) / n))
    low, high = interval(1.0, 100)
    assert high == pytest.approx(1.0) and low == pytest.approx(0.963, abs=1e-3)
    assert interval(0.0, 100)[0] == 0.0
    with pytest.raises(ValueError, match="got 0"):
        interval(0.5, 0)
