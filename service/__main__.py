"""python -m service: the same as `danmaku`."""

import sys

from service.cli import main

sys.exit(main())
