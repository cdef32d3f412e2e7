"""Serves a node as the command line does, from its configuration file; for the acceptance tests."""

import sys
from pathlib import Path

from umit_pacs.node.supervisor import serve
from umit_pacs.settings import load_settings

if __name__ == "__main__":
    sys.exit(serve(load_settings(Path(sys.argv[1]))))
