#!/usr/bin/env python3
"""What tests on real API servers and real meshes need.

    tests/lab/lab.py setup [--only kube|mesh]    build or install it into a cache (minutes, the first time)

Needs Linux, Go 1.26, Python 3.11, and root where a Debian package is missing. LAB_CACHE says where the cache is
(default: ~/.cache/wharf-lab).
"""
import argparse

import components


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    setup = commands.add_parser("setup", help="build or install the components")
    setup.add_argument("--only", choices=["kube", "mesh"], help="this half only")
    setup.set_defaults(call=lambda args: components.setup(args.only))
    args = parser.parse_args()
    args.call(args)


if __name__ == "__main__":
    main()
