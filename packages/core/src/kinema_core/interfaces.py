"""The interface of every kind of component.

A class here is abstract; a component is final. Its constructor's keyword arguments are its config schema: plain values
or built components, no `*args` or `**kwargs`, none called `name` or `weights`.

Letters: B clips, C channels, T H W frames, rows, columns in pixels, t h w in latents, N latent cells of all clips,
D width. Video values are in [-1, 1].
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Generator, Tensor, nn

from kinema_core.data import Clip, Conditioning, Ragged, TextFeatures

#: D(x_t (N, C), t (N,)) -> clean estimate x0 (N, C).
Denoise = Callable[[Tensor, Tensor], Tensor]
#: A network as a law sees it: (scaled x, noise (N,) in [0, 1], conditioning) -> raw output (N, C).
Net = Callable[[Ragged, Tensor, Conditioning], Tensor]
#: predict(("cond", "uncond")) -> one clean estimate (N, C) a named branch, all evaluated in one pack.
Predict = Callable[[Sequence[str]], tuple[Tensor, ...]]
#: guide(predict, x_t (N, C), t (N,)) -> clean estimate x0 (N, C).
Guide = Callable[[Predict, Tensor, Tensor], Tensor]


class VideoVAE(nn.Module, ABC):
    """Compresses a video in space and time; an image is a video of one frame.

    Attributes:
        latent_channels: C of the latents.
        stride: (st, sh, sw) pixels a latent cell. T must be 1 + st * n; H and W may be anything (padded, cropped back).
        streams: whether `encode_stream` and `decode_stream` equal the whole pass in memory that is flat in T.
    """

    latent_channels: int
    stride: tuple[int, int, int]
    streams: bool

    @abstractmethod
    def encode(self, video: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> the posterior's mean, whitened to mean 0 and variance 1 a channel: (B, C, t, h, w).

        Raises:
            ValueError: T is not 1 + st * n.
        """

    @abstractmethod
    def posterior(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, T, H, W) -> (mean, log variance) before whitening, each (B, C, t, h, w), for training."""

    @abstractmethod
    def decode(self, z: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Whitened (B, C, t, h, w) -> (B, 3, 1 + st * (t - 1), H, W), cropped to `size` (H, W) where given."""

    @abstractmethod
    def set_whitening(self, mean: Tensor, std: Tensor) -> None:
        """Set the statistics (C,) of the mean that `encode` removes and `decode` restores; saved with the weights."""

    @property
    @abstractmethod
    def last_layer(self) -> nn.Parameter:
        """The weight of the decoder's last layer, for losses weighed by their gradients there."""

    @abstractmethod
    def encode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Encode a video in pieces, a first of 1 + st * n frames, then of st * n; latents as they are ready."""

    @abstractmethod
    def decode_stream(self, latents: Iterable[Tensor], size: tuple[int, int] | None = None) -> Iterator[Tensor]:
        """Decode latents (B, C, n, h, w) in pieces of any n >= 1; frames as they are ready."""

    def latent_grid(self, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
        """(T, H, W) of a video -> (t, h, w) of its latents.

        Raises:
            ValueError: a size below 1, or T is not 1 + st * n (the message names the two nearest that are).
        """
        st, sh, sw = self.stride
        if min(num_frames, height, width) < 1:
            raise ValueError(f"a video of {num_frames} frames of {height} x {width} has no latents; sizes start at 1")
        if (num_frames - 1) % st:
            below = num_frames - (num_frames - 1) % st
            raise ValueError(f"{num_frames} frames do not fit a temporal stride of {st}: use {below} or {below + st}")
        return 1 + (num_frames - 1) // st, -(-height // sh), -(-width // sw)


class TextEncoder(nn.Module, ABC):
    """Turns captions into features for the transformer; trained jointly with it, or frozen.

    Attributes:
        width: D of the tokens.
        pooled_width: P of the pooled features, or None where there are none.
        trainable: whether it learns with the transformer; its features can then not be cached.
        files: its settings that are paths of files, such as a tokenizer's; a model folder keeps copies of these.
    """

    files: tuple[str, ...] = ()
    width: int
    pooled_width: int | None
    trainable: bool

    @abstractmethod
    def forward(self, captions: list[str]) -> TextFeatures:
        """Any strings, the empty one included (the unconditional features)."""


class ImageEncoder(nn.Module, ABC):
    """Turns a given image into features that a transformer attends to beside its text; frozen.

    Attributes:
        width: D of the tokens.
        files: its settings that are paths of files; a model folder keeps copies of these.
    """

    files: tuple[str, ...] = ()
    width: int

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1], any size -> tokens (B, S, D), the same S for all."""


class ImageText(nn.Module, ABC):
    """Images and texts in one embedding space: what a CLIP is to text encoders and metrics.

    Attributes:
        id: names architecture and weights; a figure computed with it carries this name.
        width: E of the embeddings.
    """

    id: str
    width: int

    @abstractmethod
    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1], any size -> (B, E) of length 1."""

    @abstractmethod
    def encode_text(self, captions: list[str]) -> Tensor:
        """Captions -> (B, E) of length 1."""


class DiT(nn.Module, ABC):
    """A diffusion transformer over packed spacetime patches.

    The constructor takes `latent_channels`, and of `text_widths` and `pooled_widths` (one a text encoder),
    `cell_widths` and `clip_widths` ({name: F}) what it can use; none of them is ever set in a config.

    Attributes:
        patch: (pt, ph, pw) latent cells a token; grids that are no multiple are padded and cropped inside.
    """

    patch: tuple[int, int, int]

    @abstractmethod
    def forward(self, x: Ragged, noise: Tensor, cond: Conditioning) -> Tensor:
        """The raw output for every cell; no token attends across clips.

        Args:
            x: already scaled by the law.
            noise: (N,) in [0, 1], 0 is clean; constant within a patch.
            cond: conditioning of the same B clips.

        Returns:
            (N, C).
        """


class Diffusion(ABC):
    """A noise law x_t = alpha(t) x0 + sigma(t) noise with its preconditioning and loss.

    t = 0 is clean (alpha 1, sigma 0) and rises with noise. Latents are whitened, so the data's deviation is 1.
    """

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """The signal's scale at t, any shape."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """The noise's scale at t, any shape."""

    @abstractmethod
    def time_at(self, log_snr: Tensor) -> Tensor:
        """The t at which 2 log(alpha / sigma) is `log_snr`, clamped to the law's range."""

    @abstractmethod
    def sample_times(self, num_tokens: Tensor, generator: Generator | None = None) -> Tensor:
        """Training times (B,), given the number of cells of each clip (B,). Drawn on the CPU."""

    @abstractmethod
    def times(self, num_steps: int, num_tokens: Tensor) -> Tensor:
        """Sampling times (num_steps + 1, B), falling to 0, for clips of these numbers of cells (B,)."""

    @abstractmethod
    def denoise(self, net: Net, x: Ragged, t: Tensor, cond: Conditioning) -> Tensor:
        """The clean estimate x0 (N, C) of x at times t (N,). Everything given to `net` is finite at t = 0."""

    @abstractmethod
    def loss(self, net: Net, x0: Ragged, noise: Tensor, t: Tensor, cond: Conditioning, free: Tensor) -> Tensor:
        """The training loss of each clip (B,), the mean over its free cells.

        Args:
            net: the network.
            x0: clean latents.
            noise: (N, C) standard normal.
            t: (N,); taken as 0 where not free.
            cond: conditioning.
            free: (N,) bool, False for kept cells: they enter clean and are left out by selection.
        """


class Sampler(ABC):
    """Solves from noise to data; a frozen dataclass with a pure `__call__`, elementwise in N.

    Attributes:
        from_clean: whether it begins with clean latents that are given, and not with noise.
    """

    from_clean: ClassVar[bool] = False

    @abstractmethod
    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        times: Tensor,
        law: Diffusion,
        *,
        noise: Callable[[int], Tensor],
        callback: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        """The sample at times[-1].

        Args:
            denoise: D(x, t) -> x0.
            x: (N, C) at times[0]. For a sampler that starts part-way (SDEdit): the clean latents.
            times: (S + 1, N), falling.
            law: gives alpha and sigma.
            noise: noise(step) -> standard normal like x; the same step gives the same noise. Step k < S belongs to
                the step from times[k]; -1 is the noise that `x` began with.
            callback: called with (step, clean estimate) after each step.
        """


class Guidance(ABC):
    """Combines conditional and other estimates; a frozen dataclass, state lives in what `start` returns."""

    @abstractmethod
    def start(self, x: Ragged, law: Diffusion) -> Guide:
        """Begin a run over these cells."""


class Captioner(ABC):
    """Describes clips, to re-caption a dataset."""

    @abstractmethod
    def caption(self, clip: Clip) -> str:
        """One caption of the clip."""


class Prompter(ABC):
    """Expands a user's short prompt into the kind of caption the model was trained on."""

    @abstractmethod
    def expand(self, prompt: str, seed: int) -> str:
        """The expanded prompt; the same seed gives the same one."""


@dataclass(frozen=True)
class ClipInfo:
    """What is known of a clip without decoding it: sizes in pixels, frames per second, one caption."""

    id: str
    frames: int
    height: int
    width: int
    frame_rate: float
    caption: str


class ClipDataset(ABC):
    """Clips at their native duration, size and aspect ratio."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of clips."""

    @abstractmethod
    def info(self, index: int) -> ClipInfo:
        """Sizes and caption of a clip; decodes nothing."""

    @abstractmethod
    def __getitem__(self, index: int) -> Clip:
        """Decode a clip. Raises IndexError past the end, so that a dataset can be iterated."""


class FeatureExtractor(nn.Module, ABC):
    """Video features for FVD and its like.

    Attributes:
        num_features: F.
        protocol: what fixes a figure computed from the features: size, frames, resize filter, hash of the weights.
    """

    num_features: int
    protocol: Mapping[str, Any]

    @abstractmethod
    def forward(self, video: Tensor) -> Tensor:
        """(B, 3, T, H, W) in [-1, 1] -> (B, F)."""


class Metric(ABC):
    """Scores generated clips, alone or against real ones. Ours are also `torchmetrics.Metric`s."""

    @abstractmethod
    def update(self, generated: list[Clip], real: list[Clip] | None = None) -> None:
        """Add clips. Prompts and ground truth travel in their captions and meta."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """The scores by name, over all clips since the last reset."""

    @abstractmethod
    def reset(self) -> None:
        """Forget all clips."""
