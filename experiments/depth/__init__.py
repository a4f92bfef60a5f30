"""Section 4: depth estimation with few labels; notebook 3."""
