"""The file of an index: its header, reading and writing, builds that resume, and merging files."""
