"""Networks, the numbers that describe them, and their weights in files.

Start in `names`: one table from a network's name to the function that builds it; it needs no torch.
`build.build(name, classes)` makes a network; its forward returns `core.features.Features`. `staged` is the
frame that most networks share, `weights` and `weights_import` read files, `measure` counts parameters and
multiply-adds.
Imports core and storage only; each family of networks is imported when one of it is built."""
