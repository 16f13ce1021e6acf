"""From prompts to clips: `Pipeline.generate`, and every task as the same walk with another keep mask."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self, TypeAlias, get_args

import torch
from kinema_core import (
    Clip,
    Conditioning,
    Diffusion,
    DiT,
    Guidance,
    ImageEncoder,
    Ragged,
    Sampler,
    TextEncoder,
    TextFeatures,
    VideoVAE,
    seeded_normal,
)
from kinema_sampling import StepCache
from torch import Tensor, nn

from kinema.memory import check_memory
from kinema.model_folder import load_model
from kinema.placement import place_of
from kinema.tasks import Keep, frames_mask, region_mask, source_features, whole_patches

#: Where an image stands in a video.
Moment: TypeAlias = Literal["first", "middle", "last"]
#: Name of the features per cell by which an image-to-video model is given frames, in place of a keep mask.
SOURCE = "source"
#: Pixels of the frames that are decoded at once, if a latent has no more, where they are written as they are made.
STREAMED = 2**17
#: Latent cells of a pack in sampling; bounds the memory and keeps the matrices large.
PACK_CELLS = 16384


@dataclass(frozen=True)
class Request:
    """One clip to generate.

    Attributes:
        prompt: any text; empty is allowed.
        frames: 1 + st * n of the VAE's temporal stride; 1 is an image.
        height, width: in pixels, any size.
        frame_rate: frames per second.
        id: the noise depends on (seed, id) alone.
        given: a clip of the same size whose kept latent frames stay.
        keep_frames: which latent frames of `given` stay.
        keep_region: (H, W) bool, which pixels of `given` stay, in all frames.
    """

    prompt: str
    frames: int = 9
    height: int = 32
    width: int = 32
    frame_rate: float = 8.0
    id: str = "0"
    given: Tensor | None = None
    keep_frames: tuple[int, ...] = ()
    keep_region: Tensor | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def like(cls, clip: Clip) -> "Request":
        """Ask for a clip with the first caption, the size, frame rate, id and meta of this one."""
        frames, height, width = clip.video.shape[1:]
        prompt = next(iter(clip.captions.values()), "")
        return cls(prompt, frames, height, width, clip.frame_rate, clip.id, meta=clip.meta)


@dataclass(frozen=True)
class Pipeline:
    """The built components that generation needs.

    Attributes:
        vae, text, dit, law: the model; `text` holds the encoders in the order of their streams.
        sampler, guidance, num_steps: how `generate` samples.
        negative_prompt: what guidance leads away from; "" is what a model makes without a prompt.
        frame_rate: of videos whose request names none.
        step_cache: threshold of a `kinema_sampling.StepCache` around the transformer; 0: every step computes it.
        hash: of the model folder, "" for a model that was never saved.
        image: of models that are told of the given image by features of it: its encoder.
    """

    vae: VideoVAE
    text: tuple[TextEncoder, ...]
    dit: DiT
    law: Diffusion
    sampler: Sampler
    guidance: Guidance
    num_steps: int = 20
    negative_prompt: str = ""
    frame_rate: float = 8.0
    step_cache: float = 0.0
    hash: str = ""
    image: ImageEncoder | None = None

    @classmethod
    def load(
        cls, folder: str, *, device: torch.device | str | None = None, settings: Sequence[str] = (), **changes: Any
    ) -> "Pipeline":
        """Build the model of a folder or fsspec URL (hf:// too), in evaluation mode.

        Args:
            folder: as `kinema train dit` wrote it.
            device: where to compute; None: `best_device`.
            settings: over those of the folder, as of `load_model`.
            changes: `sampler`, `guidance`, `num_steps` in place of the folder's, `negative_prompt`, `step_cache`.

        Raises:
            ConfigError: no model folder, or a component of it is missing.
        """
        saved = load_model(folder, require=["vae", "dit", "diffusion", "sampler", "guidance"], settings=settings)
        parts = {
            "sampler": saved.components["sampler"],
            "guidance": saved.components["guidance"],
            "num_steps": saved.facts["num_steps"],
        }
        pipeline = cls(
            vae=saved.components["vae"],
            text=saved.of_kind("text"),
            dit=saved.components["dit"],
            law=saved.components["diffusion"],
            frame_rate=saved.facts.get("frame_rate", cls.frame_rate),
            hash=saved.hash,
            image=next(iter(saved.of_kind("image")), None),
            **{**parts, **changes},
        )
        return pipeline.to(device or best_device())

    def to(self, device: torch.device | str) -> Self:
        """Bring the networks to a device, in place. Clips stay on the CPU."""
        for module in (self.vae, *self.text, self.image, self.dit, self.law):
            if isinstance(module, nn.Module):
                module.to(device)
        return self

    def generate(
        self,
        requests: Sequence[Request],
        *,
        seed: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> list[Clip]:
        """Clips in the order of the requests; each depends on its own request and the seed alone.

        Args:
            requests: what to generate, sizes mixed as you like.
            seed: of the noise.
            progress: called with the number of clips done in each pack.

        Raises:
            ValueError: a size that the VAE cannot decode, `given` of another size, or nothing given to a model that
                makes videos of images only.
        """
        grids = [self.vae.latent_grid(r.frames, r.height, r.width) for r in requests]
        clips: dict[int, Clip] = {}
        for pack in _packs(grids):
            chosen = [requests[i] for i in pack]
            latents = self.sample(chosen, seed=seed)
            for i, request, video in zip(pack, chosen, self._decode(latents, chosen), strict=True):
                caption = {"prompt": request.prompt}
                clips[i] = Clip(request.id, video, request.frame_rate, caption, request.meta)
            if progress:
                progress(len(pack))
        return [clips[i] for i in range(len(requests))]

    @torch.no_grad()
    def sample(self, requests: Sequence[Request], *, seed: int = 0) -> list[Tensor]:
        """Latents (C, t, h, w) of the requests, all in one pack."""
        if self.sampler.from_clean and any(request.given is None for request in requests):
            raise ValueError(
                f"{type(self.sampler).__name__} begins with a given clip: use `kinema edit`, or another sampler"
            )
        channels, place = self.vae.latent_channels, place_of(self.dit)
        grids = [self.vae.latent_grid(r.frames, r.height, r.width) for r in requests]

        def noise(draw: int) -> Tensor:
            drawn = [
                seeded_normal((channels, *grid), seed, r.id, draw) for r, grid in zip(requests, grids, strict=True)
            ]
            return torch.cat([z.flatten(1).T for z in drawn]).to(**place)

        rates = [r.frame_rate / self.vae.stride[0] for r in requests]
        x = Ragged.from_clips([torch.empty(channels, *grid) for grid in grids], rates).to(**place).replace(noise(-1))
        keep, cells, seen = self._keep(requests, x), self._cells(requests), self._seen(requests)
        branches = {
            "cond": self.conditioning([r.prompt for r in requests], cells, seen),
            "uncond": self.conditioning([self.negative_prompt] * len(requests), cells, seen),
        }
        guide = self.guidance.start(x, self.law)
        cache = StepCache(self.dit, self.step_cache) if self.step_cache else None

        def denoise(values: Tensor, t: Tensor) -> Tensor:
            def predict(names: Sequence[str]) -> tuple[Tensor, ...]:
                pack = Ragged.cat([x.replace(values)] * len(names))
                cond = Conditioning.cat([branches[name] for name in names])
                net = cache.branches(names) if cache else self.dit
                return self.law.denoise(net, pack, t.repeat(len(names)), cond).split(len(values))

            return guide(predict, values, t)

        sizes = torch.tensor(x.lengths)
        times = self.law.times(self.num_steps, sizes).to(**place)
        times = times.repeat_interleave(sizes.to(times.device), dim=1, output_size=sum(x.lengths))
        start = keep.given if self.sampler.from_clean else x.values * self.law.sigma(times[0])[:, None]
        out = self.sampler(keep.wrap(denoise), keep.start(start), times, self.law, noise=noise)
        return x.replace(keep.start(out)).clips()

    def stream(self, request: Request, *, seed: int = 0) -> Iterator[Tensor]:
        """The frames of one request, (3, n, H, W) in [-1, 1] on the CPU, as they are decoded; as `generate` makes them.

        Raises:
            ValueError: as `generate`.
        """
        (latents,) = self.sample([request], seed=seed)
        count = max(1, STREAMED // (self.vae.stride[0] * request.height * request.width))
        pieces = latents[None].to(**place_of(self.vae)).split(count, dim=2)
        with torch.no_grad():
            for frames in self.vae.decode_stream(pieces, size=(request.height, request.width)):
                yield frames[0].clamp(-1, 1).float().cpu()

    def conditioning(
        self, prompts: list[str], cells: Mapping[str, Tensor] | None = None, seen: Sequence[TextFeatures] = ()
    ) -> Conditioning:
        """The text features of the prompts, one stream an encoder, then those of given images; and features per cell.

        All of it is where the transformer is.
        """
        streams = (*(encoder(prompts) for encoder in self.text), *seen)
        return Conditioning(streams, dict(cells or {})).to(**place_of(self.dit))

    def animate(
        self, images: Sequence[Clip], requests: Sequence[Request], *, at: Moment = "first", seed: int = 0
    ) -> list[Clip]:
        """Videos that show the given images (clips of one frame, of the requests' size) at a moment: `showing`."""
        return self.generate([self.showing(i.video, r, at) for r, i in zip(requests, images, strict=True)], seed=seed)

    def showing(self, image: Tensor, request: Request, at: Moment = "first") -> Request:
        """The request for a video that shows an image (3, 1, H, W) of its size first, in the middle or last.

        The first latent codes one frame, and each other as many as the VAE's temporal stride: an image in the middle or
        at the end stands still for so long.

        Raises:
            ValueError: no such moment, or a number of frames that the VAE does not take.
        """
        if at not in get_args(Moment):
            raise ValueError(f"an image is seen {', '.join(get_args(Moment))}, not {at!r}")
        last = self.vae.latent_grid(request.frames, request.height, request.width)[0] - 1
        kept = {"first": 0, "middle": (last + 1) // 2, "last": last}[at]
        still = image.expand(-1, 1 + self.vae.stride[0] * kept, -1, -1)
        return replace(request, given=still, keep_frames=(kept,))

    def check(self, requests: Sequence[Request]) -> None:
        """Raise ValueError where the VAE cannot decode a size, or it takes more memory than is free.

        Commands and tasks ask before they begin; `generate` itself does not.
        """
        for frames, height, width in {(r.frames, r.height, r.width) for r in requests}:
            check_memory(self.vae, self.dit, frames, height, width)

    def cells(self, request: Request) -> int:
        """Latent cells of a request."""
        return math.prod(self.vae.latent_grid(request.frames, request.height, request.width))

    def _keep(self, requests: Sequence[Request], x: Ragged) -> Keep:
        masks, given = [], []
        for request, grid in zip(requests, x.grids, strict=True):
            kept = () if self._takes_source else request.keep_frames
            mask = frames_mask(grid, whole_patches(kept, grid[0], self.dit.patch[0]))
            if request.keep_region is not None:
                mask = mask | region_mask(grid, request.keep_region, self.vae.stride[1:], self.dit.patch)
            masks.append(mask.flatten())
            given.append(self._given(request, grid))
        return Keep(torch.cat(masks).to(x.values.device), torch.cat(given).to(x.values.device))

    @property
    def _takes_source(self) -> bool:
        return SOURCE in getattr(self.dit, "cell_names", ())

    def _cells(self, requests: Sequence[Request]) -> dict[str, Tensor]:
        """The features per cell that the transformer wants, all cells of all requests in one (N, F)."""
        if not self._takes_source:
            return {}
        features = []
        for request in requests:
            _check_given(request)
            shape = (request.frames, request.height, request.width)
            features.append(source_features(self.vae, shape, request.given, request.keep_frames))
        return {SOURCE: torch.cat(features)}

    def _seen(self, requests: Sequence[Request]) -> tuple[TextFeatures, ...]:
        """The features of the first frame that each request is given, as one stream; none without an image encoder."""
        if self.image is None:
            return ()
        tokens = []
        for request in requests:
            if request.given is None:
                raise ValueError("this model makes videos of an image only: give it one, as `kinema animate` does")
            frame = self.vae.stride[0] * min(request.keep_frames, default=0)
            tokens.append(self.image(request.given[None, :, frame].to(**place_of(self.image))))
        stacked = torch.cat(tokens)
        return (TextFeatures(stacked, torch.ones(stacked.shape[:2], dtype=torch.bool, device=stacked.device)),)

    def _given(self, request: Request, grid: tuple[int, int, int]) -> Tensor:
        """The given latents (t * h * w, C), zero beyond the frames that are given."""
        latents = torch.zeros(self.vae.latent_channels, *grid, dtype=place_of(self.vae)["dtype"])
        if request.given is not None:
            _check_given(request)
            encoded = self.vae.encode(request.given[None].to(**place_of(self.vae)))[0]
            latents[:, : encoded.shape[1]] = encoded[:, : grid[0]]
        return latents.flatten(1).T

    @torch.no_grad()
    def _decode(self, latents: Sequence[Tensor], requests: Sequence[Request]) -> list[Tensor]:
        """Frames (3, T, H, W) in [-1, 1], clips of one size decoded together."""
        out: list[Tensor | None] = [None] * len(latents)
        place = place_of(self.vae)
        sizes = [(r.frames, r.height, r.width) for r in requests]
        for size in dict.fromkeys(sizes):
            members = [i for i, other in enumerate(sizes) if other == size]
            for part in (members[i : i + 32] for i in range(0, len(members), 32)):
                stacked = torch.stack([latents[i] for i in part]).to(**place)
                frames = self.vae.decode(stacked, size=size[1:]).clamp(-1, 1)
                for i, video in zip(part, frames.float().cpu(), strict=True):
                    out[i] = video
        return [video for video in out if video is not None]


def _check_given(request: Request) -> None:
    if request.given is not None and tuple(request.given.shape[2:]) != (request.height, request.width):
        height, width = request.given.shape[2:]
        raise ValueError(f"the given frames are {height} x {width}, not {request.height} x {request.width}")


@torch.no_grad()
def reconstruct(vae: VideoVAE, clip: Clip) -> Clip:
    """The clip after encoding and decoding, in [-1, 1] on the CPU: the best that this VAE lets any model do.

    Raises:
        ValueError: a number of frames that the VAE does not take.
    """
    size, video = (clip.video.shape[2], clip.video.shape[3]), clip.video[None].to(**place_of(vae))
    return replace(clip, video=vae.decode(vae.encode(video), size=size)[0].clamp(-1, 1).float().cpu())


def best_device() -> torch.device:
    """Of this machine: a GPU of CUDA or XPU where there is one, else the CPU.

    Others are used only where they are asked for: not all of them compute in float64, as schedules and keys do.
    """
    found = torch.accelerator.current_accelerator(check_available=True)
    return found if found is not None and found.type in ("cuda", "xpu") else torch.device("cpu")


def _packs(grids: Sequence[tuple[int, int, int]]) -> Iterator[list[int]]:
    """Indices in packs of at most PACK_CELLS cells, clips of one size together."""
    pack: list[int] = []
    cells = 0
    for i in sorted(range(len(grids)), key=lambda i: grids[i]):
        size = grids[i][0] * grids[i][1] * grids[i][2]
        if pack and cells + size > PACK_CELLS:
            yield pack
            pack, cells = [], 0
        pack.append(i)
        cells += size
    if pack:
        yield pack
