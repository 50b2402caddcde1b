"""Tools to crash-test what is built on PSPF: a disk and a clock in memory, power cuts, and failing calls.

::

    from pspf.testing import SimDisk

    disk = SimDisk()
    ...                                     # run against it; stop anywhere, see SimDisk.stop_after
    for state in disk.crash_states(seed=7, limit=250):
        ...                                 # each state is a disk as it may be after a power cut

docs/testing.md tells how; :mod:`pspf.testing.crashes` says which states are held to be legal.
"""

from pspf.testing.faults import Killed, PowerCut, WouldDeadlock
from pspf.testing.simdisk import SimDisk

__all__ = ["Killed", "PowerCut", "SimDisk", "WouldDeadlock"]
