"""The dataset: a packed set of fields of view, the sources it is made from, and the folds it is split into."""
