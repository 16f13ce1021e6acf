"""What a network may predict, and the algebra that turns one prediction into another.

With x_t = alpha x0 + sigma eps every usual prediction is a combination F = p x0 + q eps:

    x0     p = 1        q = 0
    eps    p = 0        q = 1
    v      p = -sigma   q = alpha      (Salimans & Ho 2022, section 4)

Two equations in two unknowns, so F and x_t give x0 = (q x_t - sigma F) / (q alpha - p sigma).
All scales broadcast against the values: (N, 1) against (N, C).
"""

from typing import Literal

import torch
from torch import Tensor

Prediction = Literal["x0", "eps", "v"]
Scales = tuple[Tensor, Tensor]


def prediction_scales(prediction: Prediction, alpha: Tensor, sigma: Tensor) -> Scales:
    """(p, q) of a named prediction F = p x0 + q eps.

    Raises:
        ValueError: the prediction is none of x0, eps, v.
    """
    zero, one = torch.zeros_like(alpha), torch.ones_like(alpha)
    known = {"x0": (one, zero), "eps": (zero, one), "v": (-sigma, alpha)}
    if prediction not in known:
        raise ValueError(f"prediction {prediction!r} is none of {', '.join(known)}")
    return known[prediction]


def clean_scales(p: Tensor, q: Tensor, alpha: Tensor, sigma: Tensor) -> Scales:
    """(c_skip, c_out) with x0 = c_skip x_t + c_out F, for F = p x0 + q eps.

    Where sigma = 0 the value is clean already and is its own estimate, whatever the network says: exactly (1, 0).
    Infinite where F says nothing of x0: eps at alpha = 0.
    """
    clean = sigma == 0
    determinant = torch.where(clean, 1, q * alpha - p * sigma)
    return torch.where(clean, 1, q / determinant), torch.where(clean, 0, -sigma / determinant)


def convert(value: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor, source: Prediction, target: Prediction) -> Tensor:
    """Turn a prediction into another: `source` and `target` are x0, eps or v.

    Not defined at sigma = 0 (x_t does not show eps) nor from eps at alpha = 0 (x_t does not show x0).
    """
    c_skip, c_out = clean_scales(*prediction_scales(source, alpha, sigma), alpha, sigma)
    x0 = c_skip * x_t + c_out * value
    eps = (x_t - alpha * x0) / sigma
    p, q = prediction_scales(target, alpha, sigma)
    return p * x0 + q * eps
