"""Train, use and judge process reward models: models that score each step of a solution."""
