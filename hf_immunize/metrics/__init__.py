"""RIR: two models and two data sets → a report; the `evaluate` module."""
