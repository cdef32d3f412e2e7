"""HL7 v2 over MLLP: the door for final reports of reporting systems."""
