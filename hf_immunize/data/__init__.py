"""Images by name → tensors."""
