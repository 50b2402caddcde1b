"""Floor 3: how a reader learns that there are new records. Needs nothing of PSPF but its errors."""
