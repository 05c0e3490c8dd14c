"""Scores of solutions: scorers, the verb `score`, incremental scoring, rewards."""
