"""Sections 3.1 and 3.2: equations 1 to 4 and what a step does; notebook 1."""
