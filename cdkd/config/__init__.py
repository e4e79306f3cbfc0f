"""params.yaml: read with line numbers, checked as a whole, and resolved into plain values.

Start with `load` in `params`. Each section is read by a function of `sections`, `methods` or `studies`; types
and bounds are in `schema` and `term_schema`, epochs and shares of the training in `epochs`, faults in
`faults`.
May import core, storage, the names of networks and the signatures of losses. Needs no torch.
"""
