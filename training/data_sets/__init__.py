"""Readers of the data sets that UMIT was trained on: each published layout as samples, and what is wrong in it, named.

`registry` lists them; `reading` says what a reader gives; `conversion` writes, checks and counts.
"""
