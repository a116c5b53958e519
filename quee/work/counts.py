"""Numbers of things in words: `1 image`, `1,234 images`."""


def counted(number: float, noun: str, plural: str = "") -> str:
    """A number with its noun, which is in the plural unless the number is one; `plural` where that is not noun + "s"."""
    text = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{text} {noun if number == 1 else plural or f'{noun}s'}"
