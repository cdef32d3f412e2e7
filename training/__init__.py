"""Produces the checkpoints: simulators, the two stages, adapters, evaluation, export."""
