"""DIMSE on the wire; the only user of pynetdicom."""
