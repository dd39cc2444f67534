"""Codebooks: scalar (Lloyd-Max) and trellis."""
