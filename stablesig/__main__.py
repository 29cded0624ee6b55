"""`python -m stablesig` is `stablesig`."""

import sys

from stablesig.cli import main

sys.exit(main())
