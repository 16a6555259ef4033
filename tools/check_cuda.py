#!/usr/bin/env python
import sys

from aa_detection.commands.check_cuda import main

if __name__ == "__main__":
    sys.exit(main())
