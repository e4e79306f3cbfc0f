"""Data: from a source (folder, archive, public data set) to prepared splits, and from these to batches.

May import from core and storage. Start with `prepare` (writes the splits), `load` (reads one) and `batches`.
`prepared` has the file format, and reads what is known about a data set without reading its images.
"""
