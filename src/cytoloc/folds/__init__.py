"""Folds that can be believed: groups of fields that belong together, dealt so that each fold has its share."""
