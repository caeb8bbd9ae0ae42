"""Fetching images and labels from the Human Protein Atlas."""
