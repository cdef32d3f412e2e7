"""The catalogue (tables, named questions and changes) and the payload files."""
