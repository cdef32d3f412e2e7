"""The umit-pacs command line."""
