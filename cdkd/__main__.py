"""`python -m cdkd` is `cdkd`."""

import sys

from cdkd.cli import main

sys.exit(main())
