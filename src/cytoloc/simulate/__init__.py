"""Simulated cells: four-channel fields of view whose truth is known."""
