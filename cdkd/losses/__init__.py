"""Losses: each file holds one pure function and the small `Loss` that carries its connectors and options.

The file name is the loss's name in params.yaml; the constructor's keyword arguments are its options
(`signature` reads them without importing torch, as does importing this package).
"""
