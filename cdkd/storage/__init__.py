"""Files: atomic writes, sealed JSON, leases between processes, progress lines, and the folder `.cdkd`.

May import core. `files` writes files that are complete or absent, `sealed_json` adds a digest that shows
damage and editing, `leases` say who works on what, on several hosts too, `owner` knows whether a process has
ended, and `shared` finds the folder that the copies of a project share. Start with `files`.
"""
