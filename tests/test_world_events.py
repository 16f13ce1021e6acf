"""The judge of made worlds sees what happens in a clip, and sees when it does not."""

import dataclasses

import pytest
import torch
from kinema_core import Clip
from kinema_data.worlds import EVENTS, World, prompts, render
from kinema_metrics import Judge, WorldAccuracy

SIZES = [(17, 32, 32), (33, 32, 32), (61, 32, 32)]
WORLD = World(events=EVENTS)


def scenes_with(event, num=18, scale=1):
    """Scenes with this event, or plain ones that a world with events could have."""
    sizes = [(t, h * scale, w * scale) for t, h, w in SIZES]
    only = World(scale, events=(event,)) if event != "none" else World(scale)
    scenes = prompts(only, "train", 8 * num, 3, sizes=sizes)
    scenes = [dataclasses.replace(s, attributes={"event": "none", **s.attributes}) for s in scenes]
    return [s for s in scenes if s.attributes["event"] == event][:num]


def clips_with(event, num=18, scale=1):
    return render(scenes_with(event, num, scale))


def verdicts(clips, scale=1):
    return WorldAccuracy(World(scale, events=EVENTS).to_dict()).verdicts(clips)


def changed(clip, video):
    return Clip(clip.id, video, clip.frame_rate, clip.captions, clip.meta)


def soften(clip):
    """Half the detail, and noise: what a small autoencoder does to a picture."""
    frames, noise = clip.video.transpose(0, 1), torch.Generator().manual_seed(0)
    small = torch.nn.functional.interpolate(frames, scale_factor=0.5, mode="bicubic", antialias=True)
    back = torch.nn.functional.interpolate(small, size=frames.shape[-2:], mode="bicubic").transpose(0, 1)
    return changed(clip, (back + 0.04 * torch.randn(back.shape, generator=noise)).clamp(-1, 1))


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_is_read_with_all_else(event):
    clips = clips_with(event)
    assert len(clips) == 18 and {clip.video.shape[1] for clip in clips} == {17, 33, 61}
    for found in (verdicts(clips), verdicts([soften(clip) for clip in clips])):
        assert sum(verdict["event"] for verdict in found) >= 18 * 0.95
        assert sum(verdict["all"] for verdict in found) >= 18 * 0.95
    assert ("motion" in found[0]) == (event != "change")
    assert sum(verdict["all"] for verdict in verdicts(clips_with(event, 4, 2), 2)) >= 4 - 1


def test_what_did_not_happen_is_not_seen():
    for wrong in ("pair", "occluder", "leave", "swing", "cut", "change"):
        plain = clips_with("none", 6)
        plain = [Clip(c.id, c.video, c.frame_rate, c.captions, {**c.meta, "event": wrong}) for c in plain]
        assert not any(verdict["event"] for verdict in verdicts(plain)), wrong


def test_a_broken_event_is_not_taken_for_it():
    changes, leaves, cuts = (clips_with(event, 9) for event in ("change", "leave", "cut"))
    backwards = [changed(clip, clip.video.flip(1)) for clip in changes]
    assert not any(v["colour"] or v["event"] or v["background"] for v in verdicts(backwards))
    sudden = [torch.cat([c.video[:, :1].expand(-1, 9, -1, -1), c.video[:, -8:]], 1) for c in changes]
    assert not any(v["event"] for v in verdicts([changed(c, v) for c, v in zip(changes, sudden, strict=True)]))
    gone = [changed(c, c.video[:, : c.video.shape[1] // 2 + 2]) for c in leaves if c.video.shape[1] > 32]
    assert not any(v["event"] for v in verdicts(gone))
    pairs = scenes_with("pair", 9)
    without = render([dataclasses.replace(scene, event=None) for scene in pairs])
    alone = verdicts([changed(c, w.video) for c, w in zip(render(pairs), without, strict=True)])
    assert not any(v["event"] or v["count"] for v in alone) and all(v["colour"] and v["motion"] for v in alone)
    shot = [changed(c, c.video[:, :1].expand_as(c.video)) for c in cuts]
    assert not any(v["event"] for v in verdicts(shot))


def test_a_pairs_other_object_must_be_the_one_of_the_prompt():
    clips = clips_with("pair", 6)
    wrong = [{**c.meta, "other": {**c.meta["other"], "colour": c.meta["colour"]}} for c in clips]
    metas = zip(clips, wrong, strict=True)
    assert not any(v["event"] for v in verdicts([Clip(c.id, c.video, c.frame_rate, c.captions, m) for c, m in metas]))


def test_a_plain_world_has_no_events_and_nothing_is_read_from_nothing():
    (clip,) = clips_with("cut", 1)
    reading = Judge(World().to_dict()).read([clip])[0]
    assert reading.event == "none" and reading.other == {}
    for video in (torch.full((3, 17, 32, 32), torch.nan), torch.zeros(3, 33, 32, 32), torch.ones(3, 1, 32, 32)):
        reading = Judge(WORLD.to_dict()).read([Clip("empty", video)])[0]
        assert reading.lost and reading.event == "none" and reading.colour is None
