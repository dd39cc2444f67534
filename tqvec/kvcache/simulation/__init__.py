"""Simulate a server with a compressed KV cache: requests, memory tiers, times."""
