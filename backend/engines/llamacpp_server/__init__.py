"""The engine for computing on a CPU: llama.cpp's own server inside this process, over a GGUF file made from the folder.

Runs in a process of its own; untrusted files are opened here and nowhere else. Knows nothing about pages or jobs.
"""
