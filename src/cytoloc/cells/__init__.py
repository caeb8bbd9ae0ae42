"""Cells of fields: segmentation, single-cell images, and predictions of cells aggregated to fields and genes."""
