"""Studies: many evaluations of a subject, described in a file, kept in a folder, run to the end."""
