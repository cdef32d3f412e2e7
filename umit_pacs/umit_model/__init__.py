"""Instruction templates, answers, confidence, checkpoints and engines."""
