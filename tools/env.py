#!/usr/bin/env python
import sys

from aa_detection.commands.env import main

if __name__ == "__main__":
    sys.exit(main())
