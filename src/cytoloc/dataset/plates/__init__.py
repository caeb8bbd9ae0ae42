"""Plates of high-content microscopes: their files, from the instrument's index or from file names."""
