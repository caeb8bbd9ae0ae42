"""Label sets, and lists of the labels of fields."""
