"""Stages of the codecs: a file for each family, and the registry of all."""
