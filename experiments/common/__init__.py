"""What all experiments share: run records, training, figures' style."""
