"""The processes of the node and their supervisor."""
