"""Algorithm 1 for linear extractors, its K⁻¹, the closed-form optimum and the ceiling."""
