"""What is added to the task loss."""
