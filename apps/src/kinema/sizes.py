"""Sizes as users write them."""

from kinema.errors import ConfigError


def parse_size(text: str) -> tuple[int, int, int]:
    """ "9x32x48" -> (9, 32, 48): frames, height, width.

    Raises:
        ConfigError: anything else.
    """
    numbers = text.strip().split("x")
    if len(numbers) != 3 or not all(number.isdigit() and int(number) for number in numbers):
        raise ConfigError(f"{text!r} is no size; write frames x height x width, such as 9x32x48")
    frames, height, width = map(int, numbers)
    return frames, height, width
