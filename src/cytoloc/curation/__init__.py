"""Before anything is learned: which fields are the same, which belong together, which labels cannot be right."""
