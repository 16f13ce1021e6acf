"""T5Text: the features of transformers' own encoder and tokenizer, Wan's padding, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from kinema_core.testing import TextEncoderContract, largest_difference, randomise
from safetensors.torch import load_file, save_file
from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

from kinema_text import T5Text, load_t5

CAPTIONS = ["a red circle", "", "  two &amp;amp; more\n words ", "a green cross moves"]
PIECES = ["▁a", "▁red", "▁circle", "▁green", "▁cross", "▁", "m", "o", "v", "e", "s", "&", "w", "t", "r", "d"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A small umT5 as transformers saves it, with the tokenizer in a folder beside it."""
    path = tmp_path_factory.mktemp("umt5")
    torch.manual_seed(0)
    config = UMT5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2)
    model = UMT5EncoderModel(config)
    randomise(model, scale=0.5)
    model.save_pretrained(path / "text_encoder")
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)] + [(piece, -1.0) for piece in PIECES]
    T5Tokenizer(vocab=vocabulary, extra_ids=0).save_pretrained(path / "tokenizer")
    return path


def make(folder: Path, **settings) -> T5Text:
    files = {"config": folder / "text_encoder/config.json", "tokenizer": folder / "tokenizer/tokenizer.json"}
    encoder = T5Text(**{key: str(path) for key, path in files.items()}, **settings)
    load_t5(encoder, folder / "text_encoder")
    return encoder


class TestContract(TextEncoderContract):
    @pytest.fixture(autouse=True)
    def _folder(self, folder) -> None:
        self.folder = folder

    def make(self) -> T5Text:
        return make(self.folder)


@torch.no_grad()
def test_features_are_those_of_transformers(folder) -> None:
    """As diffusers' pipeline of Wan asks for them: padded to the longest allowed, zeros after the end."""
    tokenizer = T5Tokenizer.from_pretrained(folder / "tokenizer")
    model = UMT5EncoderModel.from_pretrained(folder / "text_encoder").eval()
    cleaned = ["a red circle", "", "two & more words", "a green cross moves"]
    given = tokenizer(cleaned, padding="max_length", max_length=24, truncation=True, return_tensors="pt")
    right = model(given.input_ids, given.attention_mask).last_hidden_state * given.attention_mask[..., None]
    padded, bare = (make(folder, max_tokens=24, zero_padded=pad)(CAPTIONS) for pad in (True, False))
    assert padded.tokens.shape == (4, 24, 16) and padded.mask.all() and padded.pooled is None
    assert right.std() > 0.1 and largest_difference(padded.tokens, right) < 1e-5
    longest = given.attention_mask.sum(1).max()
    assert bare.tokens.shape[1] == longest and torch.equal(bare.mask, given.attention_mask[:, :longest].bool())
    assert largest_difference(bare.tokens, right[:, :longest]) < 1e-5


def test_a_long_caption_is_cut_and_still_ends(folder) -> None:
    features = make(folder, max_tokens=5)(["a red circle " * 20])
    assert features.tokens.shape[1] == 5


def test_the_weights_file_itself_loads(folder) -> None:
    encoder, other = make(folder), make(folder)
    randomise(other, scale=0.1)
    other.load_state_dict(load_file(folder / "text_encoder/model.safetensors"))
    assert torch.equal(encoder(["a red"]).tokens, other(["a red"]).tokens)


def test_half_precision_gives_float32_features(folder) -> None:
    encoder = make(folder, dtype="bfloat16")
    tokens = encoder(["a red circle"]).tokens
    assert next(encoder.encoder.parameters()).dtype == torch.bfloat16 and tokens.dtype == torch.float32
    assert largest_difference(tokens, make(folder)(["a red circle"]).tokens) < 0.1 * tokens.abs().max()


def test_what_does_not_fit_is_said_in_a_line(folder, tmp_path) -> None:
    files = {"config": str(folder / "text_encoder/config.json"), "tokenizer": str(folder / "tokenizer/tokenizer.json")}
    for wrong, message in (
        ({"dtype": "int8"}, "dtype 'int8' is unknown; known: float32"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"config": "nowhere.json"}, "no config.json at nowhere.json"),
        ({"tokenizer": "nowhere.json"}, "no tokenizer.json at nowhere.json"),
    ):
        with pytest.raises(ValueError, match=message):
            T5Text(**{**files, **wrong})
    other = tmp_path / "config.json"
    other.write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="is of a 'bert'; known: t5, umt5"):
        T5Text(**{**files, "config": str(other)})
    weights = load_file(folder / "text_encoder/model.safetensors")
    save_file({key: value for key, value in weights.items() if "final" not in key}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="weights missing: encoder.final_layer_norm.weight; unknown: none"):
        load_t5(make(folder), tmp_path)
