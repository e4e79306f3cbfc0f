"""Files: atomic writes, sealed JSON, locks between processes, progress lines, and the folder `.cdkd`.

May import core. `files` writes files that are complete or absent, `sealed_json` adds a digest that shows
damage and editing, `locks` ends with its process, and `shared` finds the folder that the copies of a project
share. Start with `files`.
"""
