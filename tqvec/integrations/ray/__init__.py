"""Ray: sharded indexes that are built and searched by many machines."""
