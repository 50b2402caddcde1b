"""Standard descriptors that the caller closed (``pspf append t 2>&-``).

The next file to be opened would get such a number: a message to standard error would then be written into the
log. So the numbers are taken first, by /dev/null opened the wrong way round: reading what is no input and
writing data that nobody gets fail as errors, and only messages vanish.
"""

import os
import sys

WRONG_WAY = (os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)


def occupy(missing: "list[bool]") -> None:
    """Take the numbers 0 to 2 where they are missing."""
    for number, absent in enumerate(missing):
        if absent:
            descriptor = os.open(os.devnull, WRONG_WAY[number])
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
    if missing[1]:
        # print() to None would lose what it is given without a word.
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
