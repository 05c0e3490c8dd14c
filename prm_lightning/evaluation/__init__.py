"""From scores to tables, each number beside its baselines and its interval."""
