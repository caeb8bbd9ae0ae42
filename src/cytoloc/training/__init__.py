"""Training of recipes on folds of a dataset."""
