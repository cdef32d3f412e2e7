"""The consistency guard: deterministic checks between the answers, their structured findings and the input."""
