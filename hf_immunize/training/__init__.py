"""Two streams, one run."""
