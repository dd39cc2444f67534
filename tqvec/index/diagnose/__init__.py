"""Diagnosis of an index: its recall, the causes of errors, and alternatives."""
