"""Datasets of fields of view, and their sources."""
