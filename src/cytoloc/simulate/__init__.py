"""Simulation of four-channel fields of view with known labels."""
