"""A classifier by name → features, head, what trains."""
