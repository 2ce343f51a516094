"""The built-in engine: a model folder on a device, served by transformers. The only place that imports torch.

Started as ``python -m backend.engines.transformers_server``; ``backend.engines.serve`` has what it is told and says.
"""
