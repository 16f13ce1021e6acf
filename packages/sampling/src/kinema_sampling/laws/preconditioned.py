"""A law given by four scales: denoiser and loss written once, so that two laws differ in their formulas only.

A law says which combination of data and noise its network learns, F = p x0 + q eps, and how inputs and losses are
scaled; the denoiser follows by algebra (`predictions.clean_scales`). N latent cells, C channels, B clips.
"""

from abc import abstractmethod

import torch
from kinema_core import Conditioning, Diffusion, Net, Ragged
from torch import Tensor

from kinema_sampling.predictions import Scales, clean_scales


def noise_level(law: Diffusion, t: Tensor) -> Tensor:
    """sigma / (alpha + sigma) in [0, 1]: what networks are told of the noise.

    A function of the signal-to-noise ratio alone (its logit is log(sigma / alpha)), so it means the same in every law
    and a network may move from one to another. For the flow law it is t itself.
    """
    alpha, sigma = law.alpha(t), law.sigma(t)
    return sigma / (alpha + sigma)


class PreconditionedLaw(Diffusion):
    """A law whose network learns p(t) x0 + q(t) eps, to be given by its scales. Those are finite at every t."""

    @abstractmethod
    def target_scales(self, t: Tensor) -> Scales:
        """(p, q) like t: the network learns p x0 + q eps."""

    @abstractmethod
    def input_scale(self, t: Tensor) -> Tensor:
        """c_in like t: the network sees c_in x_t."""

    @abstractmethod
    def weight(self, t: Tensor) -> Tensor:
        """The loss's weight of a cell at t, like t, on the squared error of F."""

    def denoise(self, net: Net, x: Ragged, t: Tensor, cond: Conditioning) -> Tensor:
        """The clean estimate (N, C); exactly x where t = 0."""
        c_skip, c_out = clean_scales(*self.target_scales(t), self.alpha(t), self.sigma(t))
        output = self._output(net, x, t, cond)
        return _as(c_skip, x.values) * x.values + _as(c_out, x.values) * output

    def loss(self, net: Net, x0: Ragged, noise: Tensor, t: Tensor, cond: Conditioning, free: Tensor) -> Tensor:
        """The mean over a clip's free cells of weight |F - (p x0 + q eps)|^2 / C: (B,)."""
        t = torch.where(free, t, 0)
        alpha, sigma, p, q = (_as(s, x0.values) for s in (self.alpha(t), self.sigma(t), *self.target_scales(t)))
        x_t = x0.replace(alpha * x0.values + sigma * noise)
        output = self._output(net, x_t, t, cond)
        # Selected before it is squared: a kept cell's output may be anything, and 0 * inf would reach the gradient.
        error = torch.where(free[:, None], output - (p * x0.values + q * noise), 0)  # (N, C)
        return x0.mean_per_clip(self.weight(t).to(error.dtype) * error.square().mean(-1), free)

    def _output(self, net: Net, x: Ragged, t: Tensor, cond: Conditioning) -> Tensor:
        scaled = x.replace(_as(self.input_scale(t), x.values) * x.values)
        return net(scaled, noise_level(self, t).to(x.values.dtype), cond)


def _as(scale: Tensor, values: Tensor) -> Tensor:
    """(N,) -> (N, 1) in the dtype of `values`: times are float64 in sampling, latents are not."""
    return scale[:, None].to(values.dtype)
