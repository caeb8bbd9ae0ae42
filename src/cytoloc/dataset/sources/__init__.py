"""Sources of fields: the files of the 2018 competition, those of the Human Protein Atlas, and anyone's microscope."""
