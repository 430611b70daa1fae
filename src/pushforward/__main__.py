"""`python -m pushforward` is `pushforward`."""

import sys

from pushforward.cli import main

sys.exit(main())
