"""Published solutions as one command: every step from the files of the competition to submissions and tables."""
