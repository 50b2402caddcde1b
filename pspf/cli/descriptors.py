"""Standard descriptors that the caller closed (``pspf append t 2>&-``), and the limit of all descriptors.

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


def allow(count: int) -> None:
    """Raise the soft limit of open files to ``count``, or to the hard limit where that is lower.

    Before it is reached: at the limit not even the module that raises it could be loaded.
    """
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft == unlimited or soft >= count:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count if hard == unlimited else min(count, hard), hard))
    except (ValueError, OSError):
        pass  # whoever runs out of them is told
