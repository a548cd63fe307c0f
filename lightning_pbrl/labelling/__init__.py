"""People as teachers: the questions that they are asked, the page, and files of labels."""
