"""A plugin for napari: opens datasets, and predicts locations of open images."""
