"""The page of ``tqvec demo --page``: what it computes and draws, its Gradio layout, and its server."""
