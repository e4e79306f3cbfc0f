"""Networks, the numbers that describe them, and their weights in files.

Start with `names`: one table from a network's name to the function that builds it; it needs no torch.
`build.build(name, classes)` makes a network; its forward returns `core.features.Features`. `staged` is the
base class of most networks, `weights` and `weights_import` read files, `measure` counts parameters and
operations. May import core and storage; the module of a network is imported when the network is built.
"""
