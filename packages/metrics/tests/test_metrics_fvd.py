"""FVD: streaming, ranks, precision, what it holds and what it refuses."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kinema_core import Clip, FeatureExtractor, metrics, seeded_normal
from kinema_core.testing import MetricContract

from kinema_metrics import FVD, frechet_from_features, kernel_distance, video_features

pytestmark = pytest.mark.filterwarnings("ignore:a Frechet distance")


class Corner(FeatureExtractor):
    """The first 12 values: features that are known exactly; a weight and a dropout that must not act."""

    num_features = 12
    protocol = {"name": "corner", "frames": 2, "size": 2}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, video):
        return self.dropout(self.scale * video[:, :, :2, :1, :2].flatten(1).float())


def clips(count, key, size=(3, 4, 4), scale=0.3):
    return [Clip(f"{key}{i}", (scale * seeded_normal((3, *size), key, i)).clamp(-1, 1)) for i in range(count)]


def features_of(items):
    return video_features(Corner(), items)


class TestFVDContract(MetricContract):
    def make(self):
        return FVD(Corner())


class TestFVDWithFeaturesContract(MetricContract):
    def make(self):
        return FVD(Corner(), keep_features=True)


def test_value_is_the_distance_of_the_features():
    generated, real = clips(40, "g"), clips(30, "r", scale=0.5)
    for ddof in (0, 1):
        metric = FVD(Corner(), ddof=ddof)
        metric.update(generated, real)
        expected = frechet_from_features(features_of(generated), features_of(real), ddof=ddof)
        assert metric.compute() == {"fvd_corner": pytest.approx(expected, rel=1e-9)}


def test_streaming_in_any_split_and_order_equals_one_batch():
    generated, real = clips(30, "g"), clips(30, "r", scale=0.5)
    whole, parts = FVD(Corner()), FVD(Corner(), batch_size=3)
    whole.update(generated, real)
    parts.update([], real[20:])
    parts.update(generated[7:], None)
    parts.update(generated[:7], real[:20])
    assert parts.compute()["fvd_corner"] == pytest.approx(whole.compute()["fvd_corner"], rel=1e-10)


def test_kept_features_are_exact_for_few_clips_and_give_the_kernel_distance():
    generated, real = clips(6, "g"), clips(5, "r", scale=0.5)
    metric = FVD(Corner(), keep_features=True)
    metric.update(generated[:2], real)
    metric.update(generated[2:], [])
    x, y = features_of(generated), features_of(real)
    assert metric.compute() == {
        "fvd_corner": pytest.approx(frechet_from_features(x, y), rel=1e-12),
        "kvd_corner": pytest.approx(kernel_distance(x, y), rel=1e-12),
    }


def test_clips_of_several_sizes_keep_their_order():
    sizes = [(3, 4, 4), (2, 6, 2), (3, 4, 4), (5, 3, 8), (2, 6, 2)]
    mixed = [clip for i, size in enumerate(sizes) for clip in clips(1, f"c{i}", size)]
    together = video_features(Corner(), mixed, batch_size=2)
    assert torch.equal(together, torch.cat([features_of([clip]) for clip in mixed]))


def test_values_are_rounded_to_eight_bits_on_both_sides():
    real = clips(20, "r")
    nearly = [Clip(clip.id, clip.video + 0.2 / 255, clip.frame_rate) for clip in real]
    decoded = [Clip(c.id, ((c.video + 1) * 127.5).round() / 127.5 - 1) for c in real]
    assert torch.equal(features_of(decoded), features_of(real))
    assert (features_of(nearly) - features_of(real)).abs().max() <= 2.01 / 255
    assert torch.allclose(features_of(decoded), torch.stack([c.video[:, :2, :1, :2].flatten() for c in decoded]))


@pytest.mark.parametrize("keep", [False, True])
def test_casting_the_owner_leaves_the_states_in_float64(keep):
    class Owner(torch.nn.Module):
        def __init__(self, metric):
            super().__init__()
            self.metric = metric
            self.weight = torch.nn.Parameter(torch.ones(2))

    values = []
    for cast in (False, True):
        metric = FVD(Corner(), keep_features=keep)
        owner = Owner(metric)
        metric.update(clips(20, "g"), clips(20, "r", scale=0.5))
        if cast:
            owner.to(torch.bfloat16).to("cpu", torch.float16).half()
        metric.update(clips(10, "g2"), clips(10, "r2", scale=0.5))
        values.append(metric.compute())
        states = [metric.rows("real")] if keep else [metric.real_total, metric.real_outer, metric.generated_outer]
        assert all(state.dtype == torch.float64 for state in states)
    assert owner.weight.dtype == torch.float16
    assert values[0] == values[1]
    assert set(owner.state_dict()) == {"weight"} and len(list(owner.parameters())) == 1


def test_the_network_is_evaluated_and_left_as_it_was():
    extractor = Corner()
    extractor.dropout.eval()
    before = [module.training for module in extractor.modules()]
    metric = FVD(extractor)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        metric.update(clips(20, "g"), clips(20, "r"))
    assert [module.training for module in extractor.modules()] == before
    expected = frechet_from_features(features_of(clips(20, "g")), features_of(clips(20, "r")))
    assert metric.compute()["fvd_corner"] == pytest.approx(expected, rel=1e-9)


def test_protocol_can_be_stored_and_counts_clips():
    metric = FVD(Corner())
    metric.update(clips(20, "g"), clips(30, "r"))
    value = metric.compute()["fvd_corner"]
    stored = json.loads(json.dumps(metric.protocol))
    assert stored["features"]["name"] == "corner" and stored["ddof"] == 1 and stored["dtype"] == "float64"
    assert (stored["num_generated"], stored["num_real"], stored["raw"]) == (20, 30, value)
    metric.reset()
    assert "raw" not in metric.protocol


def test_equal_sets_give_zero_not_less():
    metric = FVD(Corner())
    metric.update(clips(20, "g"), clips(20, "g"))
    assert 0 <= metric.compute()["fvd_corner"] < 1e-9


def test_bad_input():
    metric = FVD(Corner())
    metric.update(clips(1, "g"), clips(20, "r"))
    with pytest.raises(ValueError, match="at least 2 clips on each side, not 1 and 20"):
        metric.compute()
    broken = [Clip("broken", torch.full((3, 3, 4, 4), torch.nan))]
    with pytest.raises(ValueError, match="clip 'broken' hold NaN"):
        metric.update(clips(5, "g"), broken)
    assert metric.generated_count == 1, "nothing was added"
    metric.update(clips(5, "g"))
    with pytest.warns(UserWarning, match="at least 13 clips"):
        metric.compute()
    with pytest.raises(ValueError, match="ddof is 3"):
        FVD(Corner(), ddof=3)
    with pytest.raises(ValueError, match="batch_size is 0"):
        FVD(Corner(), batch_size=0)


def test_two_ranks_with_uneven_shards_equal_one(tmp_path):
    script = Path(__file__).with_name("metrics_two_ranks.py")
    store = str(tmp_path / "store")
    child = subprocess.Popen([sys.executable, script, "1", store], stdout=subprocess.PIPE)
    one = runpy.run_path(str(script))["run"](0, store)
    other = json.loads(child.communicate(timeout=100)[0])
    assert one["together"] == other["together"]
    for name, value in one["alone"].items():
        assert one["together"][name] == pytest.approx(value, rel=1e-11), name
    assert one["counts"] == [13, 9]
    assert other["heavy"] == [], "importing kinema_metrics loads a model library"


def test_registered_with_its_distribution():
    assert metrics.get("fvd") is FVD
    assert metrics.origin("fvd")[0] == "kinema-metrics"
    built = metrics.build({"name": "fvd", "features": Corner(), "ddof": 0})
    assert isinstance(built, FVD) and built.ddof == 0
