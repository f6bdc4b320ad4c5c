"""`python -m gnsmall_keras` is `gnsmall`."""

import sys

from gnsmall_keras.cli import main

sys.exit(main())
