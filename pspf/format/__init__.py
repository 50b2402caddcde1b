"""Floor 2: bytes to values and back. No file, no clock, no input or output."""
