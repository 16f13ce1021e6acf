"""Distances between two sets of feature vectors, in float64: Frechet, and the polynomial kernel's.

Letters: n, m vectors in the two sets, d their width. Both distances are of samples, so both come with the size of the
samples: compare only figures of equal n. For equal Gaussian sets of identity covariance the Frechet distance is about
d^2 / (2 n) + 2 d / n, not 0; the kernel distance is unbiased.
"""

import warnings

import torch
from torch import Tensor


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    """The squared Frechet (2-Wasserstein) distance of two Gaussians; Dowson and Landau 1982, as in FID and FVD.

        |mean1 - mean2|^2 + tr(cov1 + cov2 - 2 (cov1 cov2)^(1/2))

    The trace of the root is taken from A cov2 A with A = cov1^(1/2), which is symmetric: it has the eigenvalues of
    cov1 cov2, and a symmetric solver neither turns them complex nor fails on singular covariances.

    Args:
        mean1: (d,).
        cov1: (d, d), symmetric.
        mean2: (d,).
        cov2: (d, d), symmetric.

    Returns:
        The distance; rounding can leave a value near 0 slightly negative.

    Raises:
        ValueError: the shapes disagree, or a value is not finite.
    """
    moments = [x.double() for x in (mean1, cov1, mean2, cov2)]
    width = len(mean1)
    shapes = [tuple(x.shape) for x in moments]
    if shapes != [(width,), (width, width)] * 2:
        raise ValueError(f"means and covariances have the shapes {shapes}; needed are (d,), (d, d), (d,), (d, d)")
    if not all(torch.isfinite(x).all() for x in moments):
        raise ValueError("a mean or covariance holds NaN or infinity")
    mean1, cov1, mean2, cov2 = moments
    values, vectors = torch.linalg.eigh(cov1)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    trace_of_root = torch.linalg.eigvalsh(root @ cov2 @ root).clamp(min=0).sqrt().sum()
    return _assemble(mean1 - mean2, cov1.trace() + cov2.trace(), trace_of_root)


def frechet_from_features(x: Tensor, y: Tensor, *, ddof: int = 1) -> float:
    """The Frechet distance of two sets of features.

    Where a set has no more vectors than dimensions, its covariance is singular and the distance is taken from the
    features themselves: tr (cov_x cov_y)^(1/2) is the nuclear norm of Xc Yc^T / sqrt((n - ddof)(m - ddof)), exact and
    cheap (a set against itself gives 1e-11 where the covariances give 1e-3).

    Args:
        x: (n, d).
        y: (m, d).
        ddof: 1 for the unbiased covariance, as the first FVD code has it; 0 as in StyleGAN-V.

    Raises:
        ValueError: fewer than 2 vectors, other shapes, or a value that is not finite.
    """
    x, y = check_features(x), check_features(y)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"features of width {x.shape[1]} cannot be compared with features of width {y.shape[1]}")
    check_counts(len(x), len(y), x.shape[1], ddof=ddof)
    if min(len(x), len(y)) > x.shape[1]:
        sums = [(len(z), z.sum(0), z.T @ z) for z in (x - x.mean(0), y - x.mean(0))]
        (mean1, cov1), (mean2, cov2) = (moments(*each, ddof=ddof) for each in sums)
        return frechet_distance(mean1, cov1, mean2, cov2)
    xc = (x - x.mean(0)) / (len(x) - ddof) ** 0.5
    yc = (y - y.mean(0)) / (len(y) - ddof) ** 0.5
    trace_of_root = torch.linalg.svdvals(xc @ yc.T).sum()
    return _assemble(x.mean(0) - y.mean(0), xc.square().sum() + yc.square().sum(), trace_of_root)


def moments(count: int, total: Tensor, outer: Tensor, *, ddof: int = 1) -> tuple[Tensor, Tensor]:
    """Mean (d,) and covariance (d, d) from running sums.

    Args:
        count: n.
        total: sum of x, (d,), float64.
        outer: sum of x x^T, (d, d), float64. Cancellation shows from a ratio of mean to deviation of about 1e4.
        ddof: the covariance divides by n - ddof.
    """
    mean = total / count
    return mean, (outer - count * torch.outer(mean, mean)) / (count - ddof)


def kernel_distance(x: Tensor, y: Tensor, *, degree: int = 3) -> float:
    """The squared maximum mean discrepancy with the kernel (x.y / d + 1)^degree; Binkowski et al. 2018 (KID).

    The unbiased estimate over all pairs (pairs of a vector with itself left out): its mean is 0 for equal
    distributions at any n, so it can be negative, and it is the one to look at where n is small.

    Args:
        x: (n, d).
        y: (m, d).
        degree: 3 in KID and KVD.

    Raises:
        ValueError: as `frechet_from_features`.
    """
    x, y = check_features(x), check_features(y)
    if min(len(x), len(y)) < 2:
        raise ValueError(f"the kernel distance needs at least 2 vectors in each set, not {len(x)} and {len(y)}")

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** degree

    def off_diagonal_mean(k: Tensor) -> Tensor:
        return (k.sum() - k.trace()) / (len(k) * (len(k) - 1))

    return (off_diagonal_mean(kernel(x, x)) + off_diagonal_mean(kernel(y, y)) - 2 * kernel(x, y).mean()).item()


def check_features(features: Tensor) -> Tensor:
    """`features` in float64. Raises ValueError where they are not a finite (n, d)."""
    if features.ndim != 2:
        raise ValueError(f"features have the shape {tuple(features.shape)}; needed is (n, d)")
    bad = ~torch.isfinite(features).all(1)
    if bad.any():
        raise ValueError(f"{int(bad.sum())} of {len(features)} feature vectors hold NaN or infinity")
    return features.double()


def check_counts(num1: int, num2: int, width: int, *, ddof: int = 1) -> None:
    """Raise ValueError for sets too small to have a covariance; warn where it is singular (n < d + 1)."""
    fewest = min(num1, num2)
    if ddof not in (0, 1):
        raise ValueError(f"ddof is {ddof}; use 1 (unbiased) or 0")
    if fewest < 2:
        raise ValueError(f"a Frechet distance needs at least 2 clips on each side, not {num1} and {num2}")
    if fewest < width + 1:
        warnings.warn(
            f"a Frechet distance of {fewest} clips in {width} dimensions has a singular covariance and a large bias: "
            f"use at least {width + 1} clips, and compare it only with figures of as many",
            stacklevel=3,
        )


def _assemble(difference: Tensor, traces: Tensor, trace_of_root: Tensor) -> float:
    return (difference.square().sum() + traces - 2 * trace_of_root).item()
