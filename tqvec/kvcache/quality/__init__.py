"""Measure what compression costs: attention, retrieval, and the choice of widths."""
