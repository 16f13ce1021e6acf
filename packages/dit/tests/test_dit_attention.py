"""Windows and causal blocks: the contract (packed = alone), what they see, and that their cost grows with duration."""

import pytest
import torch
from kinema_core import Conditioning, Ragged, seeded_normal
from kinema_core.testing import DiTContract, largest_difference, randomise

from kinema_dit import VideoDiT
from kinema_dit.attention import joint_attention, packed_attention
from kinema_dit.neighbourhoods import CausalBlocks, Windows, neighbourhoods
from kinema_dit.packing import pack

PLAIN = {"latent_channels": 4, "width": 32, "depth": 3, "num_heads": 2, "patch": (1, 1, 1), "rope_theta": 100.0}
WINDOW = {"attention": "window", "window": (2, 3, 2)}
CAUSAL = {"attention": "block_causal", "block": 2, "context": 1}


def model(**kwargs) -> VideoDiT:
    torch.manual_seed(0)
    dit = VideoDiT(**{**PLAIN, **kwargs}).eval()
    randomise(dit, scale=0.1)
    return dit


class TestWindow(DiTContract):
    def make(self) -> VideoDiT:
        return VideoDiT(**PLAIN, **WINDOW, text_widths=(8,), pooled_widths=(6,))


class TestBlockCausal(DiTContract):
    def make(self) -> VideoDiT:
        return VideoDiT(**PLAIN, **CAUSAL, text_widths=(8,), pooled_widths=(6,))


def run(dit: VideoDiT, z: torch.Tensor) -> torch.Tensor:
    x = Ragged.from_clips([z])
    with torch.no_grad():
        return x.replace(dit(x, torch.full((len(x.values),), 0.3), Conditioning())).clips()[0]


@pytest.mark.parametrize("kwargs", [{"attention": "window", "window": (5, 4, 6)}, {**CAUSAL, "block": 5}])
def test_a_window_or_block_of_all_is_full_attention(kwargs):
    z = seeded_normal((4, 5, 4, 6), 0)
    assert largest_difference(run(model(**kwargs), z), run(model(), z)) < 1e-6


@pytest.mark.parametrize("frame", range(7))
def test_a_block_sees_itself_and_so_many_before_it(frame):
    """One layer of the transformer: what a change of one frame reaches."""
    dit, z = model(**CAUSAL, depth=1), seeded_normal((4, 7, 2, 3), 0)
    other = z.clone()
    other[:, frame] += 1
    changed = (run(dit, z) - run(dit, other)).abs().amax((0, 2, 3)) > 1e-6
    own = frame // 2
    assert changed.tolist() == [own <= f // 2 <= own + 1 for f in range(7)]


def test_windows_are_boxes_and_shifted_ones_cross_their_borders():
    dit, z = model(**WINDOW, depth=1), seeded_normal((4, 4, 6, 4), 0)
    other = z.clone()
    other[:, 1, 2, 1] += 1
    changed = (run(dit, z) - run(dit, other)).abs().amax(0) > 1e-6
    wanted = torch.zeros(4, 6, 4, dtype=torch.bool)
    wanted[:2, :3, :2] = True
    assert torch.equal(changed, wanted)
    two = (run(model(**WINDOW, depth=2), z) - run(model(**WINDOW, depth=2), other)).abs().amax(0) > 1e-6
    assert two[2, 3, 2] and not two[3, 5, 3]


@pytest.mark.parametrize("rule", [Windows((2, 2, 3)), Windows((2, 2, 3), shift=True), CausalBlocks(2, 1)])
def test_every_token_is_a_query_once_and_pairs_grow_with_duration(rule):
    pairs = []
    for frames in (8, 16, 32):
        grids = ((frames, 5, 4), (1, 3, 3))
        near = neighbourhoods(pack(grids, (1, 1, 1), torch.device("cpu")), rule)
        queries = torch.cat([q.flatten() for q, _ in near.groups])
        assert torch.equal(queries.sort().values, torch.arange(frames * 20 + 9))
        assert torch.equal(queries[near.places], torch.arange(len(queries)))
        pairs.append(sum(q.numel() * k.shape[1] for q, k in near.groups))
    assert pairs[2] - pairs[1] == 2 * (pairs[1] - pairs[0])


@pytest.mark.parametrize("kwargs", [{}, WINDOW])
def test_checkpointing_keeps_gradients_and_less_memory(kwargs):
    kept: dict[bool, int] = {}
    gradients: dict[bool, list[torch.Tensor]] = {}
    for checkpointing in (False, True):
        dit = model(**kwargs, checkpointing=checkpointing).train()
        x, sizes = Ragged.from_clips([seeded_normal((4, 4, 6, 4), 0)]), []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
            dit(x, torch.full((96,), 0.3), Conditioning()).square().sum().backward()
        kept[checkpointing] = sum(sizes)
        gradients[checkpointing] = [p.grad for p in dit.parameters() if p.grad is not None]
    assert all(largest_difference(a, b) < 1e-6 * (1 + b.abs().max()) for a, b in zip(*gradients.values(), strict=True))
    assert kept[True] < 0.5 * kept[False]


class TestJoint(DiTContract):
    """Text tokens in one sequence with the clip's, two streams of text, patches over time."""

    text_widths = (8, 5)
    pooled_widths = (None, 6)

    def make(self) -> VideoDiT:
        torch.manual_seed(0)
        widths = {"text_widths": self.text_widths, "pooled_widths": self.pooled_widths, "patch": (2, 1, 2)}
        return VideoDiT(latent_channels=4, width=32, depth=3, num_heads=2, text_attention="joint", **widths)


def test_joint_attention_is_one_softmax_over_text_and_tokens():
    packing = pack(((1, 1, 3), (1, 1, 3), (1, 1, 5)), (1, 1, 1), torch.device("cpu"))
    real = (4, 1, 2)  # words of the clips' text
    video = [seeded_normal((11, 2, 6), "video", i) for i in range(3)]
    text = [seeded_normal((3, 4, 2, 6), "text", i) for i in range(3)]
    bias = torch.zeros(3, 1, 1, 4)
    for clip, words in enumerate(real):
        bias[clip, ..., words:] = -torch.inf
    seen, heard = joint_attention(video, text, bias, packing)
    ends = torch.tensor([0, 3, 6, 11])
    for clip, words in enumerate(real):
        of_clip = slice(ends[clip], ends[clip + 1])
        q, k, v = (torch.cat([b[clip, :words], a[of_clip]]).transpose(0, 1) for a, b in zip(video, text, strict=True))
        right = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(0, 1)
        assert largest_difference(heard[clip, :words], right[:words]) < 1e-6
        assert largest_difference(seen[of_clip], right[words:]) < 1e-6


def test_joint_attention_trains_every_weight():
    dit = TestJoint().make()
    randomise(dit)
    contract = TestJoint()
    x, noise, cond = contract.inputs()
    dit(x, noise, cond).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in dit.parameters())


def test_refused():
    with pytest.raises(ValueError, match="'both'; known are cross and joint"):
        VideoDiT(latent_channels=4, text_widths=(4,), text_attention="both")
    with pytest.raises(ValueError, match="joint needs a text encoder, full attention"):
        VideoDiT(latent_channels=4, text_widths=(4,), text_attention="joint", attention="window")
    with pytest.raises(ValueError, match="'local'; known are full, window and block_causal"):
        VideoDiT(latent_channels=4, attention="local")
    with pytest.raises(ValueError, match="block 0 start at 1"):
        VideoDiT(latent_channels=4, attention="block_causal", block=0)


@pytest.mark.parametrize("keys", [5, 600])
def test_attention_under_autocast_takes_normalised_queries_in_float32(keys):
    q, k = seeded_normal((keys, 2, 8), "q"), seeded_normal((keys, 2, 8), "k")
    v = seeded_normal((keys, 2, 8), "v").bfloat16()
    packing = pack(((1, 1, keys),), (1, 1, 1), torch.device("cpu"))
    found = packed_attention(q, k, v, packing)
    assert found.dtype == torch.bfloat16
    right = packed_attention(q, k, v.float(), packing)
    assert largest_difference(found.float(), right) < 0.05
