"""Explanations of predictions: maps of what a network used, the effect of each channel, and the nearest fields."""
