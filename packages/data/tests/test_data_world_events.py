"""What happens in made clips: tracks and pixels against the laws, and plain worlds as they were without events."""

import dataclasses
import hashlib
import itertools
import json
import math

import pytest
import torch

from kinema_data.worlds import (
    EVENT_SIZES,
    EVENTS,
    STYLES,
    TRAIN_SIZES,
    EventLaws,
    Look,
    ShapesDataset,
    World,
    draw_scene,
    make_prompts,
    prompts,
    render_frames,
    turning_into,
)
from kinema_data.worlds.captions import EVENT_WORDS, MOVING
from kinema_data.worlds.world import BACKGROUNDS, COLOURS, DIRECTIONS, SIZES, extents

LENGTHS = [(17, 32, 32), (33, 32, 32), (61, 32, 32)]


def scenes_with(event, num=240, scale=1, split="train"):
    sizes = [(t, h * scale, w * scale) for t, h, w in [*LENGTHS, (33, 48, 64)]]
    scenes = prompts(World(scale, events=("none", event)), split, num, 0, sizes=sizes)
    found = [scene for scene in scenes if scene.attributes["event"] == event]
    assert 0.08 * num < len(found) < 0.7 * num
    return found


def box(scene, t):
    """Left, upper, right and lower end of the object."""
    left, right, up, down = extents(scene.attributes["shape"])
    (x, y), r = scene.positions[t], scene.radii[t]
    return x - left * r, y - up * r, x + right * r, y + down * r


def whole(scene, t):
    left, up, right, down = box(scene, t)
    return min(left, up) >= 0.4 and right <= scene.width - 0.4 and down <= scene.height - 0.4


@pytest.mark.parametrize(
    ("world", "scenes_hash", "total"),
    [
        (World(), "42afe2158aa1e090", 1023835240),
        (World(2, Look(5.0, 2.0, 3.0), STYLES), "d30402be127ebf48", 4843073047),
    ],
)
def test_a_world_without_events_is_as_it_was_before_there_were_any(world, scenes_hash, total):
    """Hashes of truth and captions, and sums of pixels, are of the commit before events; how styles look is newer."""
    scenes = [draw_scene(world, split, 0, i) for split in ("train", "report") for i in range(60)]
    sizes = [(9, 32 * world.scale, 48 * world.scale), (33, 40 * world.scale, 32 * world.scale)]
    scenes += prompts(world, "choose", 60, 1, sizes=sizes)
    digest = hashlib.sha256()
    for s in scenes:
        truth = [s.id, s.frames, s.height, s.width, s.frame_rate, s.seed, dict(s.captions), s.meta]
        digest.update(json.dumps(truth, sort_keys=True).encode())
    assert digest.hexdigest()[:16] == scenes_hash
    assert sum(int(frames.long().sum()) for frames in render_frames(scenes)) == pytest.approx(total, rel=1e-5)
    assert "event_laws" not in world.to_dict() and world.to_dict()["events"] == ["none"]


def test_events_are_checked_and_in_the_definition():
    with pytest.raises(ValueError, match=r"events are jump; give some of none, pair"):
        ShapesDataset(5, events=("jump",))
    world = World(events=EVENTS).to_dict()
    assert world["events"] == list(EVENTS) and tuple(world["event_laws"]["bar_colour"]) == EventLaws().bar_colour
    others = {**COLOURS, **BACKGROUNDS}.values()
    assert min(math.dist(EventLaws().bar_colour, colour) for colour in others) >= 100


def test_training_clips_are_longer_where_things_happen_and_short_ones_are_plain():
    world = World(events=EVENTS)
    scenes = [draw_scene(world, "train", 0, i) for i in range(1500)]
    assert sum(EVENT_SIZES.values()) == pytest.approx(1) and set(TRAIN_SIZES) <= set(EVENT_SIZES)
    for frames, share in ((33, 0.3), (61, 0.15)):
        assert abs(sum(scene.frames == frames for scene in scenes) / len(scenes) - share) < 0.04
    assert {scene.attributes["event"] for scene in scenes} == set(EVENTS)
    assert all(scene.attributes["event"] == "none" for scene in scenes if scene.frames < 17)
    assert all("event" in scene.stated for scene in scenes)


@pytest.mark.parametrize("event", EVENTS[1:])
def test_every_event_stays_in_its_split_and_is_drawn_at_any_size(event):
    world = World(2, events=(event,))
    for scene in prompts(world, "report", 60, 1, sizes=[(17, 64, 64), (25, 48, 130), (9, 64, 64), (1, 64, 64)]):
        kinds = [scene.attributes]
        if scene.attributes["event"] == "change":
            kinds.append(scene.meta["other"])
        if scene.frames > 1:
            assert {world.split_of(k["colour"], k["shape"], k["motion"]) for k in kinds} == {"report"}
        (frames,) = render_frames([scene])
        assert frames.shape == (scene.frames, scene.height, scene.width, 3)
        assert len(scene.positions) == len(scene.radii) == scene.frames


@pytest.mark.parametrize("scale", [1, 2])
def test_a_swing_is_harmonic_along_its_direction(scale):
    speeds = []
    for scene in scenes_with("swing", scale=scale):
        track = torch.tensor(scene.positions, dtype=torch.float64) / scale
        step = torch.tensor(DIRECTIONS[scene.attributes["motion"]], dtype=torch.float64)
        assert step[0] > 0 or (step[0] == 0 and step[1] > 0)
        across = (track - track[0]) @ torch.stack([-step[1], step[0]])
        assert across.abs().max() < 1e-9
        # Of harmonic motion p(t - 1) + p(t + 1) is linear in p(t), with the factor 2 cos(angle).
        place = (track - track[0]) @ step / step.norm()
        rows = torch.stack([place[1:-1], torch.ones(len(place) - 2, dtype=torch.float64)], 1)
        both = place[:-2] + place[2:]
        factor = torch.linalg.lstsq(rows, both[:, None]).solution
        assert (rows @ factor - both[:, None]).abs().max() < 1e-6
        angle = math.acos(factor[0, 0].item() / 2)
        assert 8 - 1e-6 < 2 * math.pi / angle < scene.frames - 1 + 1e-6
        centre = factor[1, 0].item() / (2 - 2 * math.cos(angle))
        turned = torch.stack([place[0] - centre, (place[1] - centre - (place[0] - centre) * math.cos(angle))])
        swing = math.hypot(turned[0].item(), turned[1].item() / math.sin(angle))
        speeds.append(swing * angle * scene.frame_rate)
        assert all(whole(scene, t) for t in range(scene.frames))
    assert max(speeds) <= 50 and sum(17.9 < speed < 30.1 for speed in speeds) > 0.6 * len(speeds)


def test_who_leaves_is_unseen_for_a_quarter_and_comes_back():
    for scene in scenes_with("leave"):
        assert whole(scene, 0) and whole(scene, scene.frames - 1)
        assert math.dist(scene.positions[0], scene.positions[-1]) < 1e-6
        for t, (x, y) in enumerate(scene.positions):
            left, up, right, down = box(scene, t)
            if abs(t / (scene.frames - 1) - 0.5) <= 0.125:
                assert right < 0 or down < 0 or left > scene.width or up > scene.height
            dx, dy = DIRECTIONS[scene.attributes["motion"]]
            way = (x - scene.positions[0][0], y - scene.positions[0][1])
            assert abs(way[0] * dy - way[1] * dx) < 1e-6 and way[0] * dx + way[1] * dy > -1e-6


def test_a_cut_is_one_jump_in_the_middle():
    for scene in scenes_with("cut"):
        cut = scene.meta["cut"]
        assert scene.frames / 3 <= cut <= scene.frames * 2 / 3
        log_radii = torch.tensor(scene.radii).log()
        shots = log_radii[:cut], log_radii[cut:]
        assert abs(shots[1].mean() - shots[0].mean()).item() == pytest.approx(math.log(1.5), abs=1e-4)
        assert abs(shots[0].mean().exp() / SIZES[scene.attributes["size"]] - 1) < 0.031
        steps = log_radii.diff().abs()
        assert steps.argmax() == cut - 1
        assert all(whole(scene, t) for t in range(scene.frames))


def test_a_change_begins_as_one_scene_and_ends_as_another():
    for scene in scenes_with("change", num=80):
        assert scene.event is not None and scene.event.shares is not None
        other, shares = scene.meta["other"], scene.event.shares
        assert all(other[name] != scene.attributes[name] for name in ("colour", "shape", "background"))
        head, tail = max(5, scene.frames / 8), 8 if scene.frames >= 33 else 4
        assert shares[: math.ceil(head)] == (0.0,) * math.ceil(head) and shares[-tail:] == (1.0,) * tail
        changing = [b - a for a, b in itertools.pairwise(shares) if b > a]
        assert max(changing) - min(changing) < 1e-6, "linear"
        kinds = [scene.attributes, {**scene.attributes, **other}]
        plain = [dataclasses.replace(scene, attributes=kind, event=None) for kind in kinds]
        mixed, first, second = (frames.float() for frames in render_frames([scene, *plain]))
        assert mixed[:5].equal(first[:5]) and (mixed[-tail:] - second[-tail:]).abs().max() <= 1
        for t, share in enumerate(shares):
            assert (mixed[t] - (1 - share) * first[t] - share * second[t]).abs().max() <= 1.01


def test_a_pair_does_not_touch_and_the_second_rests():
    for scene in scenes_with("pair"):
        assert scene.event is not None and scene.event.place is not None and scene.meta["count"] == 2
        x, y, r = scene.event.place
        other = scene.meta["other"]
        assert other["colour"] != scene.attributes["colour"] and other["shape"] != scene.attributes["shape"]
        left, right, up, down = extents(other["shape"])
        for t in range(scene.frames):
            one = box(scene, t)
            gaps = (x - left * r - one[2], one[0] - x - right * r, y - up * r - one[3], one[1] - y - down * r)
            assert max(gaps) >= 2
        (frames,) = render_frames([scene])
        assert (frames[:, int(y), int(x)] == torch.tensor(COLOURS[other["colour"]])).all()


@pytest.mark.parametrize("scale", [1, 2])
def test_an_occluder_is_before_the_object_which_passes_it(scale):
    for scene in scenes_with("occluder", scale=scale):
        assert scene.event is not None and scene.event.bar is not None
        low, high = scene.event.bar
        assert high - low == 5 * scale and 0 <= low < high <= scene.width
        (frames,) = render_frames([scene])
        assert (frames[:, :, low:high] == torch.tensor(EventLaws().bar_colour)).all()
        ends = [box(scene, t) for t in (0, scene.frames - 1)]
        first, last = ends if DIRECTIONS[scene.attributes["motion"]][0] > 0 else ends[::-1]
        assert first[2] <= low and last[0] >= high
        assert whole(scene, 0) and whole(scene, scene.frames - 1)
        x = scene.positions[scene.frames // 2][0]
        assert low - 12 * scale < x < high + 12 * scale or scene.width > 32 * scale


def test_captions_name_the_event_and_a_change_names_both_scenes():
    world = World(events=EVENTS)
    for scene in (draw_scene(world, "train", 0, i) for i in range(1200)):
        event, other = scene.attributes["event"], scene.meta.get("other", {})
        short, long = scene.captions["short"], scene.captions["long"]
        words = [word.split("{")[0] for word in EVENT_WORDS.get(event, ())]
        words += MOVING.get(event, {}).get(scene.attributes["motion"], ())
        words += ["turns into"] if event == "change" else []
        for caption in (short, long):
            if words:
                assert any(word.lower() in caption.lower() for word in words), caption
            else:
                assert not any(word in caption for word in ("turns into", "brown", "beside", "returns", "swings"))
            assert all(other[name] in caption for name in ("colour", "shape") if other), caption
            assert "{" not in caption and "  " not in caption and ".." not in caption
        if event == "change":
            first, second = short.split(" turns into ")
            assert turning_into(first, second) == short
            assert scene.attributes["colour"] in first and other["colour"] in second
            if "background" in scene.stated:
                assert scene.attributes["background"] in first and other["background"] in second


def test_events_are_written(tmp_path):
    folder = make_prompts(
        tmp_path / "w", num_clips=6, split="train", sizes=[(17, 32, 32)], events=("cut", "change", "none")
    )
    metas = [json.loads(line)["meta"] for line in (folder / "manifest.jsonl").read_text().splitlines()]
    assert {meta["event"] for meta in metas} <= {"cut", "change", "none"}
    assert all("cut" in meta for meta in metas if meta["event"] == "cut")
    assert json.loads((folder / "world.json").read_text())["events"] == ["cut", "change", "none"]
