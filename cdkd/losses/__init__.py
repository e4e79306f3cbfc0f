"""Losses: each file holds one pure function and the small `Loss` that carries its connectors and options.

The name of the file is the loss's name in params.yaml. The constructor's keyword-only arguments are its
options, which `signature` reads without importing torch. Importing this package needs no torch either. Start
with `base` and `kd`. May import core and storage.
"""
