"""The draft for reporting systems: HL7 v2 over MLLP, and FHIR R4."""
