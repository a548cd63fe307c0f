"""People as teachers: their answers in files of other tools, who answered, and how far they agree."""
