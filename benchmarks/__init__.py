"""Side by side with what people use today: ratios of medians, taken in turns in the same run."""
