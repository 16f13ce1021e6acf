"""The distances against closed forms and independent implementations."""

import warnings

import pytest
import scipy.linalg
import torch
from kinema_core import seeded_normal
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from kinema_metrics import frechet_distance, frechet_from_features, kernel_distance


def gaussian(width, key):
    root = seeded_normal((width, width), key).double()
    return seeded_normal((width,), key, "mean").double(), root @ root.T / width


def orthogonal(width):
    return torch.linalg.qr(seeded_normal((width, width), "turn").double()).Q


def features(count, width, key, scale=1.0, shift=0.0):
    mix = seeded_normal((width, width), key, "mix").double()
    return shift + scale * seeded_normal((count, width), key).double() @ mix


def test_closed_forms():
    mean, cov = gaussian(20, "a")
    assert frechet_distance(mean, cov, mean + 3, cov) == pytest.approx(20 * 9, rel=1e-12)
    assert frechet_distance(mean, cov, mean, 4 * cov) == pytest.approx(cov.trace().item(), rel=1e-10)
    turn = orthogonal(20)
    one, other = torch.linspace(0.1, 3, 20).double(), torch.linspace(2, 0, 20).double()
    commuting = [turn * values @ turn.T for values in (one, other)]
    expected = (one.sqrt() - other.sqrt()).square().sum().item()
    assert frechet_distance(mean, commuting[0], mean, commuting[1]) == pytest.approx(expected, abs=1e-6)


def test_symmetric_and_invariant_to_rotation():
    (m1, c1), (m2, c2) = gaussian(16, "a"), gaussian(16, "b")
    value = frechet_distance(m1, c1, m2, c2)
    turn = orthogonal(16)
    assert frechet_distance(m2, c2, m1, c1) == pytest.approx(value, rel=1e-10)
    turned = (turn @ m1, turn @ c1 @ turn.T, turn @ m2, turn @ c2 @ turn.T)
    assert frechet_distance(*turned) == pytest.approx(value, rel=1e-10)


def test_agrees_with_scipy():
    (m1, c1), (m2, c2) = gaussian(40, "a"), gaussian(40, "b")
    root = scipy.linalg.sqrtm(c1.numpy() @ c2.numpy()).real
    expected = (m1 - m2).square().sum() + (c1 + c2).trace() - 2 * root.trace()
    assert frechet_distance(m1, c1, m2, c2) == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize(("n", "m"), [(12, 9), (12, 90), (90, 90)])
def test_from_features_agrees_with_covariances(n, m, ddof):
    # (12, 9) takes the nuclear norm for both sets, (12, 90) for one, (90, 90) the covariances.
    x, y = features(n, 30, "x"), features(m, 30, "y", scale=1.3, shift=0.2)
    covs = [torch.cov(z.T, correction=ddof) for z in (x, y)]
    expected = frechet_distance(x.mean(0), covs[0], y.mean(0), covs[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert frechet_from_features(x, y, ddof=ddof) == pytest.approx(expected, rel=1e-5)


@pytest.mark.filterwarnings("ignore:a Frechet distance")
def test_a_set_against_itself_is_exact_where_the_covariance_is_singular():
    x = 100 * features(16, 200, "x")
    assert abs(frechet_from_features(x, x)) < 1e-12 * x.var(0).sum().item()


class PassThrough(torch.nn.Module):
    num_features = 24

    def forward(self, x):
        return x.flatten(1)


def as_images(x):
    return x.reshape(-1, 3, 2, 4)


def test_agrees_with_torchmetrics():
    x, y = features(100, 24, "x"), features(140, 24, "y", shift=0.5)
    fid = FrechetInceptionDistance(PassThrough(), normalize=True)
    fid.set_dtype(torch.float64)
    fid.update(as_images(x), real=True)
    fid.update(as_images(y), real=False)
    assert frechet_from_features(x, y) == pytest.approx(fid.compute().item(), rel=1e-6)

    kid = KernelInceptionDistance(PassThrough(), subsets=1, subset_size=100, normalize=True)
    kid.update(as_images(x).float(), real=True)
    kid.update(as_images(y[:100]).float(), real=False)
    expected = kid.compute()[0].item()
    assert kernel_distance(x, y[:100]) == pytest.approx(expected, rel=1e-3)


def test_sampled_gaussians_come_to_the_closed_form():
    # Identity covariances: bias d^2 / 2n, so four times the vectors leave a quarter of it.
    width = 16
    values = {n: frechet_from_features(*(seeded_normal((n, width), n, side) for side in "xy")) for n in (500, 2000)}
    for n, value in values.items():
        assert value == pytest.approx(width**2 / (2 * n) + 2 * width / n, rel=0.5)
    shifted = frechet_from_features(seeded_normal((2000, width), "x"), 1 + seeded_normal((2000, width), "y"))
    assert shifted == pytest.approx(width, rel=0.1)


def test_kernel_distance_is_unbiased_and_grows():
    draws = [kernel_distance(seeded_normal((20, 8), i, "x"), seeded_normal((20, 8), i, "y")) for i in range(200)]
    mean = sum(draws) / len(draws)
    spread = torch.tensor(draws).std().item() / len(draws) ** 0.5
    assert abs(mean) < 4 * spread and min(draws) < 0
    far = [kernel_distance(seeded_normal((99, 8), "x"), s + seeded_normal((99, 8), "y")) for s in (0, 0.5, 1)]
    assert far[0] < far[1] < far[2]


def test_bad_features():
    x = features(40, 8, "x")
    with pytest.raises(ValueError, match="at least 2 clips on each side, not 1 and 40"):
        frechet_from_features(x[:1], x)
    with pytest.raises(ValueError, match="width 8"):
        frechet_from_features(x, x[:, :4])
    with pytest.raises(ValueError, match="1 of 40 feature vectors hold NaN"):
        frechet_from_features(x, torch.where(x == x[3, 2], torch.nan, x))
    with pytest.raises(ValueError, match="NaN"):
        frechet_distance(x[0], torch.full((8, 8), torch.nan), x[0], torch.eye(8))
    with pytest.raises(ValueError, match=r"\(7, 7\)"):
        frechet_distance(x[0], torch.eye(7), x[0], torch.eye(8))
    with pytest.raises(ValueError, match="ddof is 2"):
        frechet_from_features(x, x, ddof=2)
    with pytest.warns(UserWarning, match="at least 9 clips"):
        frechet_from_features(x[:8], x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frechet_from_features(x[:9], x)
