"""What is measured, written and uploaded."""
