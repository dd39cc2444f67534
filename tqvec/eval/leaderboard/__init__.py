"""Leaderboard: tqvec beside other libraries at equal bytes, each in a process of its own.

`engines` says what is compared, `adapters` how each library is called, `worker` is the process of one engine, `memory`
counts its bytes, `measure` asks them in turn, and `result` presents what they answered.
"""
