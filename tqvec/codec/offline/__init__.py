"""Scripts that made the frozen tables in ``data``; nothing here runs in use."""
