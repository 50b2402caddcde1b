"""Floor 4: a directory of topics: create, append, read, verify, repair."""
