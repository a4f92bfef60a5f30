"""The toy of section 3.3: two spirals, few labels; a file for each figure."""
