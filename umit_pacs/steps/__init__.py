"""The study's path, one module per step: receive, assemble, route, prepare, infer, compose, deliver, confirm."""
