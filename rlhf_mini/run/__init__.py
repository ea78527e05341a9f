"""A run: its folder, its task, its settings for one model and one data set, its seeds, and its progress."""
