"""Trains UMIT from a Qwen-VL base on files of samples: two stages, then one adapter per task.

A run in the order of its path: `config` is read, `network` loads and freezes the base, `sources` finds and hashes the
samples, `showing` prepares their pixels as the node does, `encoding` turns question and answer into tokens, `rows`
packs them, `loss` learns from the answers alone, `loop` goes from step to step, `states` lets it go on after any death,
`result` writes what `umit-pacs models install` takes.
"""
