"""Engines whose tokens are computed by another OpenAI-compatible server: one elsewhere, or vLLM started here.

A small process of Cria's own stands between, so that queue, figures, stop and supervision are the same for every
engine, and so that the process that serves the page does not hold the other server's key: it reads it to ask which
models there are, and forgets it.
"""
