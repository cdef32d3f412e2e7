"""Entry point of the `umit-pacs` command."""

from umit_pacs.cli.app import main

if __name__ == "__main__":
    main()
