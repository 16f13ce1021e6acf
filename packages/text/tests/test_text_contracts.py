"""Every component of kinema-text under the contract tests of its kind."""

from kinema_core.testing import ImageTextContract, TextEncoderContract, randomise

from kinema_text import OpenClipImageText, OpenClipText, TinyText


def small_clip(**changes):
    model = OpenClipImageText(**changes)
    randomise(model.model, scale=0.05)
    return model


class TestSmallClip(ImageTextContract):
    def make(self):
        return small_clip()


class TestBytePairClip(ImageTextContract):
    def make(self):
        return small_clip(word_rows=0, image_size=40)


class TestSmallClipText(TextEncoderContract):
    def make(self):
        return OpenClipText(image_text=small_clip())


class TestBytePairClipText(TextEncoderContract):
    def make(self):
        return OpenClipText(image_text=small_clip(word_rows=0), trainable=True)


class TestTiny(TextEncoderContract):
    def make(self):
        encoder = TinyText()
        randomise(encoder)
        return encoder
