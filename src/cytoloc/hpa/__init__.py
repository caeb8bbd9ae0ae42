"""Images of the Human Protein Atlas from its site: which there are, which are wanted, how they come here."""
