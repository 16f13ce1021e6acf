"""The jointly trained encoder against an independent computation, and what it must not confuse."""

import pytest
import torch
from einops import rearrange
from kinema_core import text_encoders
from kinema_core.testing import largest_difference, randomise
from torch.nn.functional import cross_entropy, gelu, scaled_dot_product_attention

from kinema_text import TinyText
from kinema_text.words import START, word_ids


def reference(encoder: TinyText, caption: str) -> torch.Tensor:
    """One caption alone, without packing or masks, through torch's fused attention: (S, D)."""
    ids = torch.tensor([START, *word_ids(caption)])
    x = encoder.words(ids) + encoder.places[: len(ids)]
    for block in encoder.blocks:
        q, k, v = rearrange(block.to_qkv(block.norm_attention(x)), "s (n h d) -> n 1 h s d", n=3, h=block.num_heads)
        x = x + block.to_out(rearrange(scaled_dot_product_attention(q, k, v)[0], "h s d -> s (h d)"))
        x = x + block.contract(gelu(block.expand(block.norm_mlp(x))))
    return encoder.norm_out(x)


def test_batch_equals_an_independent_computation():
    encoder = TinyText(width=32, depth=2, num_heads=4)
    randomise(encoder)
    captions = ["a red circle moves left", "", "a blue square"]
    features = encoder(captions)
    for i, caption in enumerate(captions):
        alone = reference(encoder, caption)
        assert largest_difference(features.tokens[i][features.mask[i]], alone) < 1e-5
        assert largest_difference(features.pooled[i], alone.mean(0)) < 1e-5


def test_padding_is_zero_and_masked():
    features = TinyText(width=32)(["one two three", ""])
    assert features.mask.tolist() == [[True] * 4, [True, False, False, False]]
    assert features.tokens[1, 1:].abs().max() == 0


def test_word_order_matters():
    encoder = TinyText(width=32)
    pooled = encoder(["left of red", "red of left"]).pooled
    assert (pooled[0] - pooled[1]).abs().max() > 1e-4


def test_long_captions_are_cut():
    encoder = TinyText(width=32, max_tokens=4)
    features = encoder(["one two three four five", "one two three"])
    assert features.tokens.shape[1] == 4
    assert torch.equal(features.tokens[0], features.tokens[1])


def test_every_parameter_learns():
    encoder = TinyText(width=32)
    features = encoder(["a red circle", "", "a blue square goes up"])
    (features.tokens.square().sum() + features.pooled.sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())
    assert not features.tokens.isnan().any()


def test_learns_two_attributes_at_once():
    torch.manual_seed(0)
    colours, shapes = ("red", "green", "blue", "white"), ("circle", "square", "cross")
    pairs = [(c, s) for c in range(4) for s in range(3)]
    encoder = TinyText(width=32, depth=1, num_heads=2)
    head = torch.nn.Linear(32, 7)
    optimiser = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=3e-3)
    captions = [f"a {colours[c]} {shapes[s]} moves" for c, s in pairs]
    colour, shape = torch.tensor(pairs).T
    for _ in range(40):
        logits = head(encoder(captions).pooled)
        loss = cross_entropy(logits[:, :4], colour) + cross_entropy(logits[:, 4:], shape)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    # A wording never seen: the words are read one by one, not the sentence as a whole.
    logits = head(encoder([f"a {shapes[s]} that is {colours[c]}" for c, s in pairs]).pooled)
    assert (logits[:, :4].argmax(1) == colour).float().mean() > 0.9
    assert (logits[:, 4:].argmax(1) == shape).float().mean() > 0.9


@pytest.mark.parametrize(
    ("settings", "words"), [({"width": 30, "num_heads": 4}, "30.*4 heads"), ({"max_tokens": 0}, "max_tokens is 0")]
)
def test_wrong_settings(settings, words):
    with pytest.raises(ValueError, match=words):
        TinyText(**settings)


def test_built_by_name():
    encoder = text_encoders.build({"name": "tiny", "width": 64})
    assert isinstance(encoder, TinyText) and encoder.width == encoder.pooled_width == 64 and encoder.trainable
