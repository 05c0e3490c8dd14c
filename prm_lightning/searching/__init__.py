"""Search with a generator and a process reward model."""
