"""Training: one recipe on one fold of an atlas makes one run."""
