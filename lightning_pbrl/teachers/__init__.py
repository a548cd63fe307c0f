"""Teachers that answer questions: one file per teacher."""
