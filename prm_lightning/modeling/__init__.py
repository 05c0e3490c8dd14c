"""`StepBatch` to step logits, losses and metrics; plain torch, no Lightning."""
