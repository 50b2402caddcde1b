"""What recovery does with the end of a log: a pure function, one row of the table after the other.

E is the offset up to which something proves that records were acknowledged: the durable end in ``commit``,
the durable end named in any header found in its place (also behind a break), the base of a successor. F is
the end of the last valid batch.

=====================================================  =========  ===========================================
found (the first row that matches)                     decision   then
=====================================================  =========  ===========================================
E above F                                              LOST       nothing is cut; a new segment begins at E,
                                                                  the gap F..E recorded in its header
only zeros, or nothing, behind F                       CLEAN      end of the log
``commit`` unreadable, and bytes behind F              DOUBT      nothing is cut; appends wait for ``repair``
bytes behind F                                         TORN       never acknowledged: to quarantine, then cut
=====================================================  =========  ===========================================

With the setting ``on_damage = stop``, LOST waits for ``repair`` like DOUBT.
"""

CLEAN = "clean"
TORN = "torn"
LOST = "lost"
DOUBT = "doubt"


def decide(evidence: int, valid_end: int, rest_is_zero: bool, commit_known: bool) -> str:
    """The row of the table above.

    :param evidence: E, an offset.
    :param valid_end: F, an offset.
    :param rest_is_zero: only zeros or nothing behind F.
    :param commit_known: a slot of ``commit`` could be read.
    """
    if evidence > valid_end:
        return LOST
    if rest_is_zero:
        return CLEAN
    if not commit_known:
        return DOUBT
    return TORN
