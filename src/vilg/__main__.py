"""python -m vilg: the command where the script is not on the path."""

import sys

from vilg.cli import main

sys.exit(main())
