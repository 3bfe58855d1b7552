"""Training: the plan, what is kept, and where the batches come from."""
