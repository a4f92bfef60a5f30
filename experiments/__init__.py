"""The experiments of the paper: one folder for each of its sections, which is one notebook."""
