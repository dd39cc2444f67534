"""Plan the memory of a KV cache before it exists: models, formats, and bytes."""
