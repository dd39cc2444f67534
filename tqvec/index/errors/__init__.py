"""Error bars of scores, and what follows from them: shortlists and reranking."""
