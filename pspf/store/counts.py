"""How many partitions a topic had earlier: what those placed has stayed where it was."""

import pspf
from pspf.model import LIMITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    import pspf.errors


def earlier_counts(values: "dict[str, str | int | bool]") -> "tuple[int, ...]":
    """The numbers in ``partition_counts`` of a ``topic.toml``.

    :raises pspf.errors.BadConfig: no topic can have had such a number.
    """
    text = values.get("partition_counts", "")
    if not text:
        return ()
    low, high = LIMITS["partitions"]
    words = str(text).split(",")
    if not all(word.isascii() and word.isdigit() and low <= int(word[:9]) <= high for word in words):
        raise pspf.errors.BadConfig(
            "bad value for partition_counts", f"{text!r} is not numbers from {low} to {high}, by commas"
        )
    return tuple(map(int, words))


def counts_below(partitions: int, *known: object) -> "tuple[int, ...]":
    """Of all the numbers that are known, those that a topic had before it got ``partitions``."""
    return tuple(sorted({n for n in known if isinstance(n, int) and n < partitions}))
