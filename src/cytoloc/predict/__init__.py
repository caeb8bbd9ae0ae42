"""Predictions: from a trained model and fields of view to probabilities."""
