"""Which way of waiting is used here: inotify on Linux, watchfiles elsewhere, polling where neither works.

``PSPF_WAKE`` (``inotify``, ``watchfiles`` or ``poll``) decides instead.
"""

import sys
from os import environ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pspf.wake.base import Waiter

WAYS = ("inotify", "watchfiles", "poll")


def waiter(way: "str | None" = None) -> "Waiter":
    """A waiter that watches nothing yet.

    :param way: one of :data:`WAYS`; by default ``PSPF_WAKE``, then what suits the platform.
    :raises pspf.errors.BadConfig: there is no such way, or the one that was asked for does not work here.
    """
    asked = way or environ.get("PSPF_WAKE") or ""
    if asked and asked not in WAYS:
        from pspf.errors import BadConfig

        raise BadConfig(f"PSPF_WAKE is {asked!r}", "", "", f"one of: {', '.join(WAYS)}")
    if asked == "poll":
        return _poll()
    if asked == "watchfiles" or (not asked and not sys.platform.startswith("linux")):
        try:
            from pspf.wake.watching import WatchingWaiter

            return WatchingWaiter()
        except ImportError:
            return _poll()
    try:
        from pspf.wake.inotify import InotifyWaiter

        return InotifyWaiter()
    except (ImportError, AttributeError, OSError):
        # No instance left for this user (EMFILE), no inotify in this kernel, or no ctypes in this Python.
        return _poll()


def _poll() -> "Waiter":
    from pspf.wake.polling import PollingWaiter

    return PollingWaiter()
