"""What a report says and how it is coded, per modality and language: data, not code."""
