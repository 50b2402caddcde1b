"""Floor 3: one partition: its segments, its writer, its readers, and what happens after a crash."""
