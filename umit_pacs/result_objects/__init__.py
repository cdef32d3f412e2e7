"""One module per kind of DICOM result object."""
