"""CLIP features, scores and retrieval on small networks."""

import json
import math

import pytest
import torch
from kinema_core import Clip, ImageText, features, metrics, seeded_generator, seeded_normal, weights_hash
from kinema_core.testing import FeaturesContract, MetricContract
from torch import nn

from kinema_metrics import (
    FVD,
    ClipFeatures,
    ClipFrameConsistency,
    ClipRetrieval,
    ClipScore,
    frechet_from_features,
    retrieval_accuracy,
    video_features,
)


class RandomImageText(ImageText):
    """A small random convolution for images, a random vector a caption."""

    def __init__(self, width=16):
        super().__init__()
        self.id = "random/conv:1"
        self.width = width
        self.net = nn.Sequential(
            nn.Conv2d(3, 16, 5, 2, 2), nn.GELU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, width)
        )
        for index, weight in enumerate(self.parameters()):
            weight.data = seeded_normal(tuple(weight.shape), "net", index) / 6

    def encode_image(self, images):
        return nn.functional.normalize(self.net(images), dim=1)

    def encode_text(self, captions):
        return nn.functional.normalize(torch.stack([seeded_normal((self.width,), c) for c in captions]), dim=1)


COLOURS = {"red": (1, -1, -1), "green": (-1, 1, -1), "blue": (-1, -1, 1), "grey": (0.3, 0.3, 0.3)}


class ColourImageText(ImageText):
    """Knows colours exactly: an image is its mean colour, a caption the colour it names."""

    id, width = "colours", 3

    def encode_image(self, images):
        return nn.functional.normalize(images.mean((2, 3)), dim=1)

    def encode_text(self, captions):
        named = [next(value for name, value in COLOURS.items() if name in caption) for caption in captions]
        return nn.functional.normalize(torch.tensor(named).float(), dim=1)


def painted(names, size=(8, 8), key=""):
    """A clip of one frame a colour."""
    video = torch.tensor([COLOURS[name] for name in names]).float().T[:, :, None, None].expand(-1, -1, *size)
    return Clip(f"{'-'.join(names)}{key}", video, 8.0, {"short": names[0], "long": f"a field of {names[-1]}"})


def moving(index, key, num_frames=9):
    """A bright square on a dark ground, drifting in one of four directions."""
    generator = seeded_generator(key, index)
    step = torch.tensor([(2, 0), (-2, 0), (0, 2), (0, -2)])[torch.randint(4, (), generator=generator)]
    colour = torch.rand(3, 1, 1, generator=generator) * 1.5 - 0.5
    video = torch.full((3, num_frames, 32, 32), -0.8)
    row, column = (torch.randint(10, 14, (2,), generator=generator) - 4 * step).tolist()
    for t in range(num_frames):
        y, x = row + int(step[0]) * t, column + int(step[1]) * t
        video[:, t, max(y, 0) : y + 8, max(x, 0) : x + 8] = colour
    return Clip(f"{key}{index}", video, 8.0)


def with_frames(clip, order):
    return Clip(clip.id, clip.video[:, order], clip.frame_rate, clip.captions)


class TestClipFeaturesContract(FeaturesContract):
    def make(self):
        return ClipFeatures(RandomImageText())


class TestClipScoreContract(MetricContract):
    def make(self):
        return ClipScore(RandomImageText())


class TestClipFrameConsistencyContract(MetricContract):
    def make(self):
        return ClipFrameConsistency(RandomImageText())


class TestClipRetrievalContract(MetricContract):
    def make(self):
        return ClipRetrieval(RandomImageText(), candidates=4)


def test_features_by_hand():
    # Half red, half green: e is (1,-1,-1)/sqrt 3, then (-1,1,-1)/sqrt 3, which lie sqrt(8/3) apart.
    extractor = ClipFeatures(ColourImageText(), num_frames=4, lags=(1, 2), order_weight=2.0)
    found = extractor(painted(["red", "red", "green", "green"]).video[None])[0]
    red, green = (torch.tensor(COLOURS[name]) / 3**0.5 for name in ("red", "green"))
    slope = (2**0.5 / 4) * (math.cos(math.pi / 8) + math.cos(3 * math.pi / 8)) * (red - green)
    jump = (8 / 3) ** 0.5
    expected = torch.cat([(red + green) / 2, slope, torch.tensor([jump, 2 * jump / 3**0.5 / (jump + 0.02)])])
    assert torch.allclose(found, expected, atol=1e-6)


def test_an_image_is_a_video_that_does_not_move():
    extractor = ClipFeatures(RandomImageText())
    image = seeded_normal((1, 3, 1, 20, 24), "image").clamp(-1, 1)
    with torch.no_grad():
        one, frozen = extractor(image), extractor(image.expand(-1, -1, 9, -1, -1))
    assert torch.allclose(one, frozen, atol=1e-6)
    assert torch.allclose(one[:, :16], extractor.image_text.encode_image(image[:, :, 0]), atol=1e-6)
    assert one[:, 16:].abs().max() < 1e-6


def test_shuffled_reversed_and_frozen_videos_move_the_distance():
    extractor = ClipFeatures(RandomImageText())
    real, other = ([moving(i, key) for i in range(128)] for key in ("real", "other"))
    orders = {
        "shuffled": lambda i: torch.randperm(9, generator=torch.Generator().manual_seed(i)),
        "frozen": lambda _: torch.full((9,), 4),
    }
    distances = {}
    for name in ("features", "mean only"):
        if name == "mean only":
            extractor = ClipFeatures(RandomImageText(), num_terms=1, lags=(), num_frames=9)
        reference = video_features(extractor, real)
        distances[name] = {"other": frechet_from_features(reference, video_features(extractor, other))}
        for kind, order in orders.items():
            changed = [with_frames(clip, order(i)) for i, clip in enumerate(other)]
            distances[name][kind] = frechet_from_features(reference, video_features(extractor, changed))
    good, blind = distances["features"], distances["mean only"]
    assert min(good["shuffled"], good["frozen"]) > 30 * good["other"]
    assert blind["shuffled"] == pytest.approx(blind["other"], rel=1e-3), "a mean over all frames sees no order"


def test_order_reverses_the_slope_only():
    extractor = ClipFeatures(RandomImageText())
    clip = moving(0, "real")
    with torch.no_grad():
        there, back = extractor(clip.video[None]), extractor(clip.video[None].flip(2))
    sign = torch.ones(35)
    sign[16:32] = -1
    assert torch.allclose(there * sign, back, atol=1e-5) and there[:, 16:32].norm() > 0.05


def test_fvd_on_clip_features_by_config_and_protocol():
    metric = metrics.build({"name": "fvd", "features": {"name": "clip", "image_text": RandomImageText()}})
    assert isinstance(metric, FVD)
    metric.update([moving(i, "a") for i in range(40)], [moving(i, "b") for i in range(40)])
    assert set(metric.compute()) == {"fvd_clip"}
    stored = json.loads(json.dumps(metric.protocol))
    assert stored["features"]["model"] == "random/conv:1" and len(stored["features"]["weights"]) == 16
    assert features.get("clip") is ClipFeatures


def test_weights_hash_follows_the_weights():
    one, same, other = RandomImageText(), RandomImageText(), RandomImageText()
    with torch.no_grad():
        other.net[0].bias[0] += 1e-6
    assert weights_hash(one.state_dict()) == weights_hash(same.state_dict()) != weights_hash(other.state_dict())
    assert weights_hash(one.to(torch.bfloat16).state_dict()) != weights_hash(same.state_dict())


def test_clip_score_by_hand():
    metric = ClipScore(ColourImageText())
    cosine = ((torch.tensor(COLOURS["red"]) * torch.tensor(COLOURS["green"])).sum() / 3).item()  # -1/3
    metric.update([painted(["red", "green"]), painted(["red"])])
    assert metric.compute() == {"clip_score_colours": pytest.approx(((1 + cosine) / 2 + 1) / 2, abs=1e-6)}
    metric.reset()
    metric.update([painted(["red", "green"], size=(4, 12))])
    assert metric.compute()["clip_score_colours"] == pytest.approx((1 + cosine) / 2, abs=1e-6)
    by_long = ClipScore(ColourImageText(), caption="long")
    by_long.update([painted(["red", "blue", "blue", "blue"])])
    assert by_long.compute()["clip_score_colours"] == pytest.approx((3 + cosine) / 4, abs=1e-6)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_clip_score_names_the_model_in_safe_characters():
    metric = ClipScore(RandomImageText())
    assert math.isnan(metric.compute()["clip_score_random-conv-1"])
    assert not metric.state_dict() and not list(metric.parameters())
    assert json.loads(json.dumps(metric.protocol))["model"] == "random/conv:1"


def test_missing_caption_names_the_clip():
    bare = Clip("bare", torch.zeros(3, 1, 8, 8))
    with pytest.raises(ValueError, match="'bare' has no caption"):
        ClipScore(RandomImageText()).update([bare])
    with pytest.raises(ValueError, match=r"no caption medium; it has \['short', 'long'\]"):
        ClipScore(ColourImageText(), caption="medium").update([painted(["red"])])


def test_frame_consistency_by_hand_and_frozen():
    metric = ClipFrameConsistency(ColourImageText())
    metric.update([painted(["red", "red", "green"]), painted(["grey"])])
    found = metric.compute()
    assert found["clip_frame_consistency_colours"] == pytest.approx((1 - 1 / 3) / 2, abs=1e-6)
    assert found["frame_difference"] == pytest.approx((0 + 2 / 3) / 2, abs=1e-6)
    metric.reset()
    metric.update([painted(["blue"] * 4)])
    assert metric.compute() == {"clip_frame_consistency_colours": pytest.approx(1), "frame_difference": 0}
    metric.reset()
    metric.update([painted(["blue"])])
    assert all(math.isnan(value) for value in metric.compute().values())


def test_retrieval_right_wrong_and_chance():
    names = list(COLOURS)
    images = [painted([name], key=str(i)) for i in range(3) for name in names]
    model = ColourImageText()
    right = [names[i % 4] for i in range(12)]
    wrong = [names[(i + 1) % 4] for i in range(12)]
    assert retrieval_accuracy(model, images, right, candidates=4) == 1
    assert retrieval_accuracy(model, images, wrong, candidates=4) == 0
    # All captions mean the same: a tie among all candidates is chance, neither a hit nor a miss.
    synonyms = [f"red {i}" for i in range(12)]
    assert retrieval_accuracy(model, images, synonyms, candidates=3) == pytest.approx(1 / 3)
    blind = [Clip(f"noise{i}", seeded_normal((3, 2, 16, 16), i).clamp(-1, 1)) for i in range(300)]
    chance = retrieval_accuracy(RandomImageText(), blind, [f"text {i}" for i in range(300)], candidates=8)
    assert abs(chance - 1 / 8) < 0.06


def test_retrieval_does_not_depend_on_order_or_batches():
    items = [
        Clip(f"n{i}", seeded_normal((3, 3, 16, 16), i).clamp(-1, 1), 8.0, {"short": f"text {i % 20}"})
        for i in range(40)
    ]
    captions = [clip.captions["short"] for clip in items]
    whole = retrieval_accuracy(RandomImageText(), items, captions, candidates=8, seed=5)
    back = retrieval_accuracy(RandomImageText(), items[::-1], captions[::-1], candidates=8, seed=5)
    metric = ClipRetrieval(RandomImageText(), candidates=8, seed=5)
    for start in (30, 0, 10, 20):
        metric.update(items[start : start + 10])
    assert metric.compute()["clip_retrieval_8_random-conv-1"] == whole == back
    with pytest.raises(ValueError, match="20 distinct captions are too few for 21 candidates"):
        retrieval_accuracy(RandomImageText(), items, captions, candidates=21)


def test_bad_settings():
    model = RandomImageText()
    wrongs = [{"num_frames": 1}, {"num_terms": 0}, {"num_terms": 9}, {"lags": (8,)}, {"lags": (2, 1)}]
    for wrong in (*wrongs, {"order_weight": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ClipFeatures(model, **wrong)
    with pytest.raises(ValueError, match="candidates is 1"):
        ClipRetrieval(model, candidates=1)
    with pytest.raises(ValueError, match="num_frames is 0"):
        ClipScore(model, num_frames=0)
    with pytest.raises(ValueError, match="batch_size is 0"):
        ClipScore(model, batch_size=0)
