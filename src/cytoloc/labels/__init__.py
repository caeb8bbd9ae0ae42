"""Label sets, and lists of labeled fields."""
