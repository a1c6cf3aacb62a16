"""`python -m nested_reft` is `nested-reft`."""

import sys

from nested_reft.cli import main

sys.exit(main())
