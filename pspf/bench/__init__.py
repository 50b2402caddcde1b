"""``pspf bench``: the raw limits of a machine, SQLite, and PSPF, side by side in one run.

``run.run`` is the whole of it. The baselines (``raw``, ``sqlite``) do by hand, in the fewest calls, what PSPF
does: the same bytes, the same durability, equally warm. Repeats are interleaved, so that what else the
machine does meets all of them alike, and a goal is always a ratio within one run.
"""
