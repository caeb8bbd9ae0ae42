"""Training: one recipe on one fold of a dataset makes one run."""
