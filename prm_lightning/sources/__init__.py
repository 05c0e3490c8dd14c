"""Raw rows to `Solution`: sources, rewards and splits."""
