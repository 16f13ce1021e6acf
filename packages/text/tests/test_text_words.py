"""Words as hashed tokens: stable, distinct, and embedded as the sum of two rows."""

import torch

from kinema_text.words import END, PAD, START, HashEmbedding, pad_ids, word_ids

WORLD_WORDS = """
a against an and around at away back background bigger big black blue bottom bounces bouncing circle clip
comes contracts corner cross cyan diagonally does down downwards drifts edge every expands falls frame from
front gets glides goes green grey grow growing grows hits horizontal image in into is it its large larger left
light little lower medium middle move moves moving not of off on one orange orbit orbits orbiting over photo
picture pink place plain point purple red remains rests right rises round screen shape showing shrink
shrinking shrinks side sinks size sized slides slowly small smaller square standing starts static stays
steadily still the then there to top toward towards triangle two up upper upwards vertical video wall while
white with yellow
""".split()


def test_ids_are_the_same_on_every_machine():
    assert word_ids("Red circle") == (205119453184406, 138065798404726)


def test_case_and_punctuation_do_not_matter():
    assert word_ids("A red-ish Circle, at last.") == word_ids("a RED ish circle at last")
    assert word_ids(" .,!") == word_ids("") == ()


def test_special_ids_are_no_words():
    ids = {i for word in WORLD_WORDS for i in word_ids(word)}
    assert len(ids) == len(WORLD_WORDS)
    assert not ids & {PAD, START, END} and max(ids) < END


def test_words_of_the_made_world_have_rows_of_their_own():
    rows = HashEmbedding(1024, 1).rows
    pairs = {(i % rows, i // rows % rows) for word in [*WORLD_WORDS] for i in word_ids(word)}
    pairs |= {(i % rows, i // rows % rows) for i in (START, END)}
    assert len(pairs) == len(WORLD_WORDS) + 2


def test_embedding_is_the_sum_of_a_row_of_each_half():
    embedding = HashEmbedding(8, 5)
    ids = torch.tensor([[3, 8 * 5 + 7, END]])
    table = embedding.table.weight
    expected = torch.stack([table[3] + table[8], table[7] + table[8 + 5], table[7] + table[8 + 7]])
    assert torch.equal(embedding(ids)[0], expected)


def test_embedding_starts_with_the_deviation_asked_for():
    torch.manual_seed(0)
    embedded = HashEmbedding(512, 64, std=0.3)(torch.randint(0, END, (2000,)))
    assert abs(embedded.std().item() - 0.3) < 0.01


def test_padding():
    assert pad_ids([[5], [6, 7, 8]], torch.device("cpu")).tolist() == [[5, PAD, PAD], [6, 7, 8]]
