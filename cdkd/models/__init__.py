"""Networks: `build.build(name, classes)` makes any of `names.NETWORKS`. Importing this package needs no torch."""
