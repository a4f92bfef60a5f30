"""What holds of the paper, by the records; notebook 5."""
