"""Floor 1: the only place of PSPF that opens, writes, syncs, renames and locks files."""
